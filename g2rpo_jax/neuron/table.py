"""What the Neuron compiler is known to take: one row per operation or pattern of a program.

A verdict is OK, CHECKED (a function of `checks` decides) or NO. `source` says how sure it is:

  docs      AWS documents it: JAX known issues, compiler error codes (NCC_E...), release notes.
  issue N   a GitHub issue of aws-neuron/aws-neuron-sdk.
  report    a public report of a run on real hardware or of the real compiler.
  code      public training code (AXLearn) does it so.
  lowered   seen in JAX 0.10.0's own lowering for the platform "neuron".
  caution   nothing public either way.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from g2rpo_jax.neuron import checks

OK, CHECKED, NO = "ok", "checked", "no"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
      name: of the rule, as findings and the allow-list quote it.
      operations: StableHLO names, or "dialect.name"; "dialect.*" for a whole dialect; empty for a
        pattern of a whole program.
      verdict: OK, CHECKED or NO.
      why: what goes wrong.
      instead: what to write.
      source: see the module's docstring.
      check: of a CHECKED row, `(operation, module, limits) -> what is wrong, or None`; of a pattern
        `(module, limits) -> [(operation, what is wrong)]`.
      warns: a finding is printed and does not fail.
    """

    name: str
    operations: tuple[str, ...]
    verdict: str
    why: str = ""
    instead: str = ""
    source: str = ""
    check: Callable[..., Any] | None = None
    warns: bool = False


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ROWS: tuple[Row, ...] = (
    Row("structure", _words("builtin.module func.func func.call func.return return sdy.*"), OK),
    Row(
        "elementwise",
        _words(
            "add subtract multiply negate abs maximum minimum compare select clamp convert sign "
            "floor ceil exponential log log_plus_one exponential_minus_one tanh logistic sqrt "
            "rsqrt sine cosine and or xor not shift_left shift_right_logical chlo.square"
        ),
        OK,
    ),
    Row(
        "layout",
        _words(
            "iota broadcast_in_dim reshape transpose slice concatenate dynamic_slice "
            "dynamic_update_slice optimization_barrier"
        ),
        OK,
    ),
    Row("erf_inv", ("chlo.erf_inv",), OK, source="lowered: log1p, a polynomial and sqrt"),
    Row("composite", ("composite",), OK, source="its decomposition is linted as well"),
    Row(
        "integer division",
        ("divide", "remainder"),
        CHECKED,
        "integer // and % are lossy, and division was off by one until SDK 2.30",
        "do it on the host, or floor a float for small values",
        "docs",
        checks.division,
    ),
    Row(
        "integer power",
        ("power",),
        CHECKED,
        "only floats have powers",
        "multiply, or exp(y * log(x))",
        "docs: NCC_EVRF062",
        checks.floats,
    ),
    Row(
        "special function",
        _words(
            "cbrt tan atan2 "
            "chlo.acos chlo.acosh chlo.asin chlo.asinh chlo.atan chlo.atanh chlo.bessel_i1e "
            "chlo.cosh chlo.digamma chlo.lgamma chlo.polygamma chlo.sinh chlo.tan chlo.zeta"
        ),
        NO,
        "not among the functions that the compiler is known to take",
        "compute it on the host",
        "caution",
    ),
    Row(
        "erfc",
        ("chlo.erfc",),
        NO,
        "XLA expands it to some 60 operations; HLO's erf, its neighbour, is not taken",
        "a GELU of one's own, or jax.nn.gelu(approximate=True) where the model has that",
        "lowered; issue 1081",
    ),
    Row(
        "erf",
        ("chlo.erf", "erf"),
        NO,
        "HLO's erf is not supported",
        "a polynomial, or the host",
        "issue 1081",
    ),
    Row(
        "top_k",
        ("chlo.top_k",),
        NO,
        "refused as an unknown operation by compilers 2.23 and 2.26, or limited to 16,384 columns",
        "bisection on a threshold, or k rounds of a masked maximum",
        "report: NCC_EVRF001, EVRF013",
    ),
    Row("next_after", ("chlo.next_after",), NO, "unknown to the compiler", "the host", "caution"),
    Row(
        "is_finite",
        ("is_finite", "chlo.is_inf", "chlo.is_neg_inf", "chlo.is_pos_inf"),
        NO,
        "nothing public says that it is taken",
        "compare with a large finite number (x < 3e38 fails for NaN and infinity), or the host",
        "caution",
    ),
    Row(
        "rounding",
        ("round_nearest_even", "round_nearest_afz"),
        NO,
        "listed as missing by AWS's nkipy",
        "floor(x + 0.5) where ties do not matter",
        "caution",
    ),
    Row(
        "reduce_precision",
        ("reduce_precision",),
        CHECKED,
        "unsupported",
        "cast to bfloat16",
        "docs: JAX known issues",
        checks.narrowing,
    ),
    Row(
        "kept for the backward pass",
        ("reduce_precision",),
        CHECKED,
        "JAX puts reduce_precision to the type's own width behind what a remat policy keeps",
        "model.remat=full, which keeps nothing inside a layer",
        "lowered",
        checks.kept_residual,
    ),
    Row(
        "arithmetic shift",
        ("shift_right_arithmetic",),
        CHECKED,
        "only for 32-bit integers",
        "a 32-bit integer",
        "docs: NCC_EVRF022",
        checks.bits32,
    ),
    Row(
        "bit counting",
        ("popcnt", "count_leading_zeros"),
        NO,
        "unknown to the compiler",
        "the host",
        "caution",
    ),
    Row(
        "bitcast",
        ("bitcast_convert",),
        CHECKED,
        "only between 32-bit types, and for the state of the random generator",
        "a cast",
        "lowered",
        checks.bitcast,
    ),
    Row(
        "random bits",
        ("rng_bit_generator",),
        CHECKED,
        "only the algorithm DEFAULT (jax_default_prng_impl=rbg)",
        "random numbers from the host, as rollout/sampler.py has them",
        "docs: NCC_EVRF006",
        checks.random_bits,
    ),
    Row(
        "rng",
        ("rng",),
        NO,
        "has no state to resume from",
        "random numbers from the host",
        "caution",
    ),
    Row(
        "constant",
        ("constant",),
        CHECKED,
        "captured arrays bloat the program and its cache; infinities times 0 are NaN inside "
        "transposes by the matrix engine",
        "pass arrays as arguments; mask with a large finite number such as -1e9",
        "report",
        checks.constant,
    ),
    Row(
        "padding",
        ("pad",),
        CHECKED,
        "padding between elements is what associative scans and strided slices' gradients leave; "
        "the former crashed a compiler",
        "a triangular matrix product; slices without strides",
        "issue 767",
        checks.padding,
    ),
    Row(
        "reverse",
        ("reverse",),
        CHECKED,
        "nothing public either way; large ones are left out by caution",
        "reverse on the host, or run the loop backwards",
        "caution",
        checks.small,
    ),
    Row(
        "gather",
        ("gather",),
        NO,
        "a gather met more than one core and the partitioner crashed; element-wise gathers blow up "
        "the instruction count",
        "a one-hot product or select; dynamic_slice at one scalar place",
        "issue 1309",
    ),
    Row(
        "gather index",
        ("gather",),
        CHECKED,
        "an index out of range is a DMA error at run time, whatever JAX's mode says",
        "x.at[jnp.clip(i, 0, n - 1)].get(mode='promise_in_bounds', wrap_negative_indices=False)",
        "docs: JAX known issues; issue 1335",
        checks.gather_index,
    ),
    Row(
        "gather along a sharded axis",
        ("gather",),
        CHECKED,
        "the partitioner crashed, and older versions gave wrong values",
        "gather the table's axis before (with_sharding_constraint), or a one-hot product",
        "issue 1309",
        checks.gather_sharded,
    ),
    Row(
        "scatter",
        ("scatter", "select_and_scatter"),
        NO,
        "emulated in float32, wrong results in older versions; errors on integers",
        "where(iota == i, v, x), dynamic_update_slice, or a one-hot product for sums",
        "issue 790; docs: NCC_EVRF060",
    ),
    Row(
        "sort",
        ("sort",),
        NO,
        "refused on trn2",
        "count comparisons for ranks; bisection on a threshold",
        "report: NCC_EVRF029",
    ),
    Row(
        "reduction of several operands",
        ("reduce",),
        CHECKED,
        "argmax, argmin and categorical reduce value and index together: unsupported",
        "m = max(x); min(where(x == m, iota, V))",
        "docs: JAX known issues; report: NCC_ISPP027",
        checks.one_operand,
    ),
    Row(
        "kind of reduction",
        ("reduce",),
        CHECKED,
        "only sums, products, maxima, minima, and, or",
        "one of those",
        "docs",
        checks.plain_reduction,
    ),
    Row(
        "integer reduction",
        ("reduce",),
        CHECKED,
        "integers are reduced in float32: wrong from 2^24 on",
        "convert to float32 first, or bound the values",
        "docs: NCC_EVRF060, EVRF061, EVRF063",
        checks.exact_reduction,
    ),
    Row(
        "reduce_window",
        ("reduce_window",),
        NO,
        "cumsum and pooling: several forms are refused, and a window as long as the axis is "
        "quadratic",
        "a triangular matrix product in float32",
        "docs: NCC_EVRF017, EVRF018, EVRF019",
    ),
    Row(
        "integer product",
        ("dot_general", "dot"),
        CHECKED,
        "integer matrix products are unsupported",
        "convert to float32",
        "docs: NCC_EVRF035",
        checks.floats,
    ),
    Row(
        "convolution",
        ("convolution",),
        NO,
        "strided ones have gradients that are refused",
        "reshape and a matrix product",
        "docs: NCC_EVRF010, EVRF011",
    ),
    Row(
        "loop",
        ("while",),
        CHECKED,
        "a loop whose end depends on data is refused",
        "scan, map or fori_loop with Python integers; for decoding, chunks and a look on the host",
        "docs: JAX known issues",
        checks.static_loop,
    ),
    Row(
        "branch",
        ("case", "if"),
        NO,
        "no control flow on data",
        "compute both sides and jnp.where; not optax.MultiSteps or apply_if_finite",
        "docs: JAX known issues",
    ),
    Row(
        "custom call",
        ("custom_call",),
        CHECKED,
        "only the compiler's own targets (AwsNeuron...) and markers of sharding",
        "plain operations, or the host",
        "docs: NCC_EVRF015",
        checks.custom_call,
    ),
    Row(
        "linear algebra",
        ("cholesky", "triangular_solve"),
        NO,
        "unsupported",
        "the host",
        "docs: NCC_EUOC002",
    ),
    Row("fft", ("fft",), NO, "unsupported, as are complex numbers", "the host", "docs"),
    Row("complex", ("complex", "real", "imag"), NO, "unsupported", "two float arrays", "docs"),
    Row(
        "sum over devices",
        ("all_reduce", "reduce_scatter"),
        CHECKED,
        "integers are summed over devices in float32",
        "convert to float32 first",
        "docs: NCC_EVRF061, EVRF063",
        checks.floats,
    ),
    Row(
        "exchange between devices",
        _words(
            "all_gather all_to_all collective_permute collective_broadcast partition_id replica_id"
        ),
        OK,
    ),
    Row(
        "host traffic",
        _words("infeed outfeed send recv create_token after_all"),
        NO,
        "no callbacks and no host memory inside a program",
        "return it from the program",
        "docs: JAX known issues",
    ),
    Row(
        "dynamic shape",
        _words(
            "set_dimension_size get_dimension_size dynamic_reshape dynamic_pad dynamic_iota "
            "dynamic_broadcast_in_dim dynamic_gather dynamic_conv real_dynamic_slice"
        ),
        NO,
        "every shape is fixed when a program is compiled",
        "pad to a bucket",
        "docs: NCC_EMOD025; issue 1144",
    ),
    # Patterns of a whole program.
    Row(
        "type",
        (),
        CHECKED,
        "trn1 has f32, tf32, bf16, f16, u8, i32 and u32; 64 bits are cut, int8 is for storage",
        "float32 or bfloat16, int32 (jax_enable_x64 off)",
        "docs: NCC_EVRF004, EVRF051, ESFH002",
        checks.types,
    ),
    Row(
        "key arithmetic",
        (),
        CHECKED,
        "a block of shifts and xors is threefry (split, fold_in): crashed the compiler",
        "keys and random numbers from the host",
        "docs: JAX known issues; report",
        checks.key_arithmetic,
    ),
    Row(
        "draws in a loop",
        (),
        CHECKED,
        "keys are derived between draws, and that is threefry on the device",
        "one draw in each round of a loop, with keys from the host",
        "lowered",
        checks.draws,
    ),
    Row(
        "donation",
        (),
        CHECKED,
        "donated buffers have been reported to return garbage, or to fail at run time",
        "no donate_argnums (Backend.donate)",
        "issue 1026",
        checks.donation,
    ),
    Row(
        "large tensor",
        (),
        CHECKED,
        "one array above 4 GB on a device reads back zeros or fails to allocate",
        "smaller chunks, or another mesh",
        "docs: NCC_EVRF024; report",
        checks.large_tensor,
    ),
    Row(
        "arguments",
        (),
        CHECKED,
        "more than about 128 buffers a call made dispatch 52 times slower",
        "stack parameters over layers",
        "report",
        checks.arguments,
        warns=True,
    ),
)


def rows_of(operation: str) -> list[Row]:
    """The rows that speak of an operation, by its full name ("stablehlo.add")."""
    dialect, _, bare = operation.partition(".")
    names = (bare if dialect == "stablehlo" else operation, f"{dialect}.*")
    return [row for row in ROWS if any(name in row.operations for name in names)]


PATTERNS = tuple(row for row in ROWS if not row.operations)
