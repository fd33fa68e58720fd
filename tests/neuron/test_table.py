"""Every row of the table bites: a planted function for each, and none for what is allowed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.extend.mlir import ir
from jax.sharding import NamedSharding, PartitionSpec

from g2rpo_jax.neuron import lint
from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.neuron.table import CHECKED, NO, OK, ROWS
from g2rpo_jax.parallel.mesh import MeshConfig, make

F = jax.ShapeDtypeStruct((8,), jnp.float32)
M = jax.ShapeDtypeStruct((8, 8), jnp.float32)
I = jax.ShapeDtypeStruct((8,), jnp.int32)
ONE = jax.ShapeDtypeStruct((), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
RAW = jax.ShapeDtypeStruct((4,), jnp.uint32)


def kept(f):
    """The gradient of a layer whose products are kept."""
    policy = jax.checkpoint_policies.everything_saveable
    return jax.grad(lambda x: jnp.sum(jax.checkpoint(f, policy=policy)(x)))


def key(raw):
    return jax.random.wrap_key_data(raw, impl="rbg")


def two_draws(raw_n4):
    def body(total, raw):
        return total + jax.random.uniform(key(raw)) + jax.random.uniform(key(raw), (2,)).sum(), None

    return lax.scan(body, 0.0, raw_n4)[0]


def safe(table, index):
    index = jnp.clip(index, 0, 7)
    return table.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def accumulated(grad):
    tx = optax.MultiSteps(optax.sgd(0.1), 2)
    return tx.update(grad, tx.init(grad), grad)


big = np.arange(5000, dtype=np.float32)

# Rule: functions that break it, with their arguments.
PLANTED = {
    "integer division": [(lambda i: i // 3, I), (lambda i: i % 3, I), (lambda x: x % 2.0, F)],
    "special function": [(jnp.arctan2, F, F), (jnp.tan, F), (jax.scipy.special.gammaln, F)],
    "erfc": [(functools.partial(jax.nn.gelu, approximate=False), F)],
    "erf": [(lax.erf, F), (jax.scipy.stats.norm.cdf, F)],
    "top_k": [(lambda x: lax.top_k(x, 2), F)],
    "next_after": [(jnp.nextafter, F, F)],
    "is_finite": [(jnp.isfinite, F), (jax.nn.logsumexp, F)],
    "rounding": [(jnp.round, F)],
    "reduce_precision": [(lambda x: lax.reduce_precision(x, 5, 10), F)],
    "kept for the backward pass": [(kept(lambda x: jnp.tanh(x @ x)), M)],
    "arithmetic shift": [(lambda i: i >> 1, jax.ShapeDtypeStruct((8,), jnp.int8))],
    "bit counting": [(lax.population_count, I)],
    "bitcast": [(lambda x: lax.bitcast_convert_type(x, jnp.uint16), F)],
    "random bits": [
        (
            lambda raw: lax.rng_bit_generator(
                raw, (4,), algorithm=lax.RandomAlgorithm.RNG_THREE_FRY
            )[1],
            RAW,
        ),
    ],
    "draws in a loop": [
        (two_draws, jax.ShapeDtypeStruct((3, 4), jnp.uint32)),
    ],
    "constant": [
        (lambda x: x + big, jax.ShapeDtypeStruct((5000,), jnp.float32)),
        (lambda x: jnp.where(x > 0, x, -jnp.inf), F),
        (lambda x: x + np.array([1] * 7 + [np.nan], "f4"), F),
        (
            lambda x: x + jnp.asarray([1, np.inf], jnp.bfloat16),
            jax.ShapeDtypeStruct((2,), jnp.bfloat16),
        ),
    ],
    "padding": [
        (lambda x: lax.associative_scan(jnp.add, x), F),
        (jax.grad(lambda x: x[::2].sum()), F),
    ],
    "reverse": [(lambda x: x[::-1], jax.ShapeDtypeStruct((5000,), jnp.float32))],
    "gather": [
        (safe, F, I),
        (lambda m, i: jax.vmap(lambda row, k: lax.dynamic_slice(row, (k,), (2,)))(m, i), M, I),
    ],
    "gather index": [
        (lambda x, i: x[i], F, I),
        (lambda x, i: jnp.take(x, i, mode="clip"), F, I),
        (lambda x, i: jnp.take_along_axis(x, i, 0), F, I),
        (lambda x, i: safe(x[:7], i), F, I),
        (lambda x, i: nnx.Embed(8, 8, rngs=nnx.Rngs(0))(i), F, I),
    ],
    "gather along a sharded axis": [],  # below: needs a mesh
    "scatter": [
        (lambda x, i: x.at[i].set(1.0), F, I),
        (lambda x, i: x.at[i].add(1.0), F, I),
        (lambda x, i: jax.ops.segment_sum(x, i, 4), F, I),
        (jax.grad(lambda x, i: safe(x, i).sum()), F, I),
    ],
    "sort": [
        (jnp.sort, F),
        (jnp.argsort, F),
        (jnp.median, F),
        (lambda k: jax.random.permutation(k, 8), KEY),
    ],
    "reduction of several operands": [
        (jnp.argmax, F),
        (jnp.argmin, F),
        (lambda k, x: jax.random.categorical(k, x), KEY, F),
    ],
    "kind of reduction": [(lambda x: lax.reduce(x, 0.0, lambda a, b: a * b + a, (0,)), F)],
    "integer reduction": [
        (jnp.sum, I),
        (jnp.max, I),
        (lambda i: jnp.sum(jnp.clip(i, 0, 2**22)), I),
    ],
    "reduce_window": [(jnp.cumsum, F), (lambda x: lax.cummax(x), F)],
    "integer product": [(jnp.dot, I, I)],
    "convolution": [(lambda x: jnp.convolve(x, x[:3]), F)],
    "loop": [
        (lambda x: lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x), F),
        (lambda n, x: lax.fori_loop(0, n, lambda _, v: v * 2, x), ONE, F),
        (lambda n, x: lax.fori_loop(n, 9, lambda _, v: v * 2, x), ONE, F),
        (lambda x: lax.while_loop(lambda v: v < 9, lambda v: v + 1, np.uint32(0)) * x, F),
        (lambda x: lax.while_loop(lambda v: v < 9, lambda v: v - 1, np.int32(0)) * x, F),
    ],
    "branch": [
        (lambda n, x: lax.cond(n > 0, jnp.sin, jnp.cos, x), ONE, F),
        (lambda n, x: lax.switch(n, [jnp.sin, jnp.cos, jnp.tanh], x), ONE, F),
        (accumulated, F),
    ],
    "linear algebra": [
        (jnp.linalg.cholesky, M),
        (lambda a, b: jax.scipy.linalg.solve_triangular(a, b), M, M),
    ],
    "fft": [(lambda x: jnp.abs(jnp.fft.fft(x)), F)],
    "complex": [(lambda x: jnp.real(lax.complex(x, x)), F)],
    "key arithmetic": [
        (lambda k: jax.random.key_data(jax.random.split(k)), KEY),
        (lambda k: jax.random.uniform(k, (8,)), KEY),
    ],
    "donation": [(jax.jit(lambda x: x + 1, donate_argnums=0), F)],
    "large tensor": [(lambda x: jnp.broadcast_to(x, (2**28, 8)) * 2.0, F)],
    "arguments": [(sum, [F] * 129)],
    "type": [
        (lambda x: x * 2, jax.ShapeDtypeStruct((8,), jnp.int8)),
        (lambda x: x + 1, jax.ShapeDtypeStruct((8,), jnp.int16)),
        (lambda x: lax.complex(x, x), F),
        (lambda x: x.astype(jnp.float8_e4m3fn) + 1, F),
        (lambda x: x.astype(jnp.float64) * 2, F),
    ],
}
# Rules whose operations JAX does not make here: as text.
WRITTEN = {
    "custom call": "%0 = stablehlo.custom_call @lapack_sgetrf(%a) : (tensor<f32>) -> tensor<f32>",
    "rng": "%0 = stablehlo.rng %a, %a, %s, distribution = UNIFORM : "
    "(tensor<f32>, tensor<f32>, tensor<1xi64>) -> tensor<?xf32>",
    "sum over devices": '%0 = "stablehlo.all_reduce"(%i) <{replica_groups = dense<[[0, 1]]> : '
    "tensor<1x2xi64>}> ({ ^bb0(%x: tensor<i32>, %y: tensor<i32>): "
    "%z = stablehlo.add %x, %y : tensor<i32> stablehlo.return %z : tensor<i32> }) : "
    "(tensor<i32>) -> tensor<i32>",
    "host traffic": "%0 = stablehlo.create_token : !stablehlo.token",
    "dynamic shape": "%0 = stablehlo.get_dimension_size %s, dim = 0 : "
    "(tensor<1xi64>) -> tensor<i32>",
    "integer power": "%0 = stablehlo.power %i, %i : tensor<i32>",
    lint.UNKNOWN: '%0 = stablehlo.einsum %a, %a, config = ",->" : '
    "(tensor<f32>, tensor<f32>) -> tensor<f32>",
}
CASES = [(rule, case) for rule, cases in PLANTED.items() for case in cases]


def rules(function, *args, **options):
    report = lint.check(function, *args, allowed=(), **options)
    return {finding.rule for finding in report.findings}


@pytest.mark.parametrize("rule, case", CASES, ids=[rule for rule, _ in CASES])
def test_a_planted_violation_is_found(rule, case):
    function, *args = case
    if rule == "type" and "float64" in str(getattr(function, "__code__", "").co_names):
        with jax.enable_x64(True):
            assert rule in rules(function, *args)
    else:
        assert rule in rules(function, *args)


@pytest.mark.parametrize("rule", WRITTEN)
def test_a_written_violation_is_found(rule):
    arguments = "%a: tensor<f32>, %i: tensor<i32>, %s: tensor<1xi64>"
    text = f"module {{ func.func public @main({arguments}) {{ {WRITTEN[rule]}\n return }} }}"
    with lint.lower(jnp.sin, F).context:
        report = lint.lint(ir.Module.parse(text), "written", allowed=())
    assert rule in {finding.rule for finding in report.findings}


def test_every_row_has_a_planted_violation():
    strict = {row.name for row in ROWS if row.verdict in (NO, CHECKED)}
    assert strict == {*PLANTED, *WRITTEN} - {lint.UNKNOWN}
    assert all(row.why and row.instead and row.source for row in ROWS if row.verdict != OK)
    assert all((row.check is not None) == (row.verdict == CHECKED) for row in ROWS)


def test_a_callback_does_not_even_lower():
    def looks(x):
        jax.debug.print("{}", x)
        return x

    with pytest.raises(NotImplementedError, match="neuron"):
        lint.lower(looks, F)


def test_a_table_divided_along_the_looked_up_axis():
    mesh = make(MeshConfig(1, 2, 4))
    table = NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))
    whole = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    args = (
        jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=table),
        jax.ShapeDtypeStruct((8,), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec())),
    )
    rule = "gather along a sharded axis"

    def first(table, index):
        return safe(jax.lax.with_sharding_constraint(table, whole).astype(jnp.bfloat16), index)

    assert rule in rules(safe, *args)
    assert rule not in rules(first, *args)
    assert rule in rules(lambda table, index: safe(table * 2, index), *args)  # unknown
    one = make(MeshConfig(8, 1, 1))  # the axis has one device
    narrow = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(one, s))
        for a, s in zip(args, (PartitionSpec("tensor"), PartitionSpec()), strict=True)
    ]
    assert rule not in rules(safe, *narrow)


def layers(x, w_nDD):
    body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), jnp.sum(x)))
    return lax.scan(body, x, w_nDD)


W = jax.ShapeDtypeStruct((3, 8, 8), jnp.float32)
FINE = {
    "scan": (layers, M, W),
    "gradient of a scan with remat": (jax.grad(lambda x, w: layers(x, w)[0].sum(), (0, 1)), M, W),
    "scan backwards": (lambda x: lax.scan(lambda c, y: (c + y, c), 0.0, x, reverse=True), F),
    "map": (lambda x: lax.map(jnp.sin, x), F),
    "static fori": (lambda x: lax.fori_loop(0, 5, lambda k, v: v + k, x), F),
    "gradient of a static fori": (
        jax.grad(lambda x: lax.fori_loop(0, 5, lambda _, v: jnp.sin(v), x).sum()),
        F,
    ),
    "loops in loops": (
        lambda x: lax.map(lambda y: lax.fori_loop(0, 3, lambda _, v: v * y, y), x),
        F,
    ),
    "softmax": (jax.nn.softmax, M),
    "count below 2^24": (lambda x: jnp.sum((x > 0).astype(jnp.int32)), F),
    "argmax by two reductions": (lambda x: jnp.min(jnp.where(x == x.max(), jnp.arange(8), 7)), F),
    "cast through int8": (lambda x: x.astype(jnp.int8).astype(jnp.float32), F),
    "one draw a round": (
        lambda raws: lax.map(lambda raw: jax.random.uniform(key(raw), (3,)), raws),
        W.update(shape=(3, 4), dtype=jnp.uint32),
    ),
    "adamw": (lambda g, p: (tx := optax.adamw(1e-3)).update(g, tx.init(p), p), M, M),
    "products kept outside scans": (jax.grad(lambda x: jnp.sum(jnp.tanh(x @ x))), M),
}


@pytest.mark.parametrize("name", FINE)
def test_what_is_allowed_is_clean(name):
    function, *args = FINE[name]
    assert rules(function, *args) == set()


def test_a_finding_names_program_operation_and_line():
    def planted(x):
        return jnp.sort(x)

    report = lint.check(planted, F, program="mine", allowed=())
    (finding,) = [f for f in report.findings if f.rule == "sort"]
    line = planted.__code__.co_firstlineno + 1
    assert str(finding) == f"mine: sort at tests/neuron/test_table.py:{line}: sort"
    assert "comparisons" in finding.instead and "EVRF029" in finding.source


def test_exceptions_are_for_their_place_and_program_and_must_be_used():
    def planted(x):
        return jnp.round(x)

    site = "tests/neuron/test_table.py:" + planted.__qualname__
    here = lint.Allowed("rounding", site, "a test", programs="mi*")
    elsewhere = lint.Allowed("rounding", "tests/neuron/test_table.py:other", "a test")
    module = lint.lower(planted, F)
    report = lint.lint(module, "mine", allowed=(here, elsewhere))
    assert not report.errors and report.findings[0].allowed is here
    assert lint.unused([report], (here, elsewhere)) == [elsewhere]
    assert lint.lint(module, "other", allowed=(here,)).errors


def test_limits_are_per_device():
    function, *args = PLANTED["large tensor"][0]
    assert "large tensor" not in rules(function, *args, limits=Limits(devices=8))
