"""The conditions of the table: what one operation, or a whole program, must satisfy.

Of an operation: `(operation, module, limits) -> what is wrong, or None`. Of a program:
`(module, limits) -> [(operation, what is wrong)]`.
"""

import collections
import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir

from g2rpo_jax.neuron.walk import WHILE, Module, element, function_of, holder, maker, shape

EXACT = 2**24  # integers beyond it are not all float32 numbers
FLOATS = ("f32", "bf16", "f16", "tf32", "f64")  # f64 has a row of its own
TYPES = ("f32", "tf32", "bf16", "f16", "ui8", "i32", "ui32", "i1")
STORED = ("i8", "f8E4M3FN", "f8E5M2")  # moved and cast, never computed with
MOVING = frozenset(
    "func.call func.func func.return return while convert slice reshape transpose concatenate pad "
    "broadcast_in_dim dynamic_slice dynamic_update_slice select constant optimization_barrier "
    "sdy.sharding_constraint".split()
)
OWN_TARGETS = re.compile(r"AwsNeuron|Sharding$|SPMDFullToShardShape$|SPMDShardToFullShape$")
BYTES = {"f32": 4, "tf32": 4, "i32": 4, "ui32": 4, "bf16": 2, "f16": 2, "f64": 8, "i64": 8}
DTYPES = {"f32": np.float32, "tf32": np.float32, "f64": np.float64, "f16": np.float16}
DTYPES["bf16"] = jnp.bfloat16
WIDTHS = {"f32": (8, 23), "bf16": (8, 7), "f16": (5, 10)}  # exponent, mantissa
REDUCERS = ("add", "multiply", "maximum", "minimum", "and", "or")


@dataclasses.dataclass(frozen=True)
class Limits:
    """Numbers that rules compare with.

    Attributes:
      constant: elements of a constant.
      reversed: elements of an array that is reversed.
      arguments: of the entry function, beyond which dispatch gets slow.
      shifts: shift and xor operations in one function before they count as threefry.
      bytes: of one array on one device.
      devices: over which a program's arrays may be divided; the exact share per device is known
        only after partitioning (`partitioned`).
    """

    constant: int = 4096
    reversed: int = 4096
    arguments: int = 128
    shifts: int = 40
    bytes: float = 4e9
    devices: int = 1


def floats(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    kinds = {element(x.type) for x in op.operands} - set(FLOATS)
    return f"operands of type {', '.join(sorted(kinds))}" if kinds else None


def division(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    if op.name == "stablehlo.remainder":
        return f"remainder of {element(op.results[0].type)}"
    return floats(op, module, limits)


def bits32(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    kind = element(op.results[0].type)
    return None if kind in ("i32", "ui32") else f"on {kind}"


def bitcast(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    kinds = tuple(element(x.type) for x in (op.operands[0], op.results[0]))
    fine = set(kinds) <= {"f32", "i32", "ui32"} or set(kinds) == {"ui32", "ui64"}
    return None if fine else f"{kinds[0]} to {kinds[1]}"


def random_bits(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    if "DEFAULT" not in str(op.attributes["rng_algorithm"]):
        return f"algorithm {op.attributes['rng_algorithm']}"
    return None


def draws(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    loops = [op for op in module.operations if op.name == WHILE]
    counts = [(loop, _draws(loop.regions[1].blocks[0], module)) for loop in loops]
    return [(loop, f"{count} draws in one round") for loop, count in counts if count > 1]


def _draws(block: ir.Block, module: Module) -> int:
    """Draws of random bits in one run of a block, those of inner loops left out."""
    count = 0
    for op in (view.operation for view in block.operations):
        inside = [op] if op.name != WHILE else []
        if op.name == "func.call":
            inside = [module.functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value]]
        blocks = [inner for one in inside for region in one.regions for inner in region]
        count += sum(_draws(inner, module) for inner in blocks)
        count += op.name == "stablehlo.rng_bit_generator"
    return count


def constant(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    kind, value = op.results[0].type, op.attributes["value"]
    size, splat = math.prod(shape(kind)), getattr(value, "is_splat", False)
    if size > limits.constant and not splat:
        return f"{size:,} elements"
    if element(kind) not in FLOATS or not isinstance(value, ir.DenseElementsAttr):
        return None
    if _finite(value, element(kind)):
        return None
    return None if _only_bounds(op.results[0]) else "infinity or NaN as data"


def _finite(value: ir.DenseElementsAttr, kind: str) -> bool:
    if value.is_splat:
        return math.isfinite(ir.FloatAttr(value.get_splat_value()).value)
    # As text: short ones are lists, where only what is not finite is hexadecimal; long ones are
    # their bytes.
    text = str(value).partition("dense<")[2].partition(">")[0]
    if not text.startswith('"0x'):
        return "0x" not in text
    numbers = np.frombuffer(bytes.fromhex(text[3:-1]), DTYPES[kind]).astype(float)
    return bool(np.isfinite(numbers).all())


def _only_bounds(value: ir.Value) -> bool:
    """Whether a number only starts reductions, or is the other side of a maximum or minimum."""
    for use in value.uses:
        op = use.owner.operation
        name = op.name.removeprefix("stablehlo.")
        if name in ("broadcast_in_dim", "convert"):
            if not _only_bounds(op.results[0]):
                return False
        elif name == "reduce":
            if use.operand_number < len(list(op.operands)) // 2:
                return False
        elif name not in ("maximum", "minimum"):
            return False
    return True


def narrowing(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    return None if _keeps_width(op) else f"of {element(op.results[0].type)}"


def kept_residual(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    return f"{element(op.results[0].type)} to its own width" if _keeps_width(op) else None


def _keeps_width(op: ir.Operation) -> bool:
    bits = [
        ir.IntegerAttr(op.attributes[name]).value for name in ("exponent_bits", "mantissa_bits")
    ]
    return tuple(bits) == WIDTHS.get(element(op.results[0].type))


def padding(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    inside = list(ir.DenseI64ArrayAttr(op.attributes["interior_padding"]))
    return f"{max(inside)} between elements" if any(inside) else None


def small(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    size = math.prod(shape(op.results[0].type))
    return f"{size:,} elements" if size > limits.reversed else None


def gather_index(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    low, high = module.interval(op.operands[1])
    sizes, slices = (
        shape(op.operands[0].type),
        list(ir.DenseI64ArrayAttr(op.attributes["slice_sizes"])),
    )
    room = [sizes[d] - slices[d] for d in _dimensions(op, "start_index_map")]
    if 0 <= low and high <= min(room, default=0):
        return None
    return f"indices in [{low:g}, {high:g}] of a table that ends at {min(room, default=0)}"


def _dimensions(op: ir.Operation, name: str) -> list[int]:
    found = re.search(rf"{name} = \[([\d, ]*)\]", str(op.attributes["dimension_numbers"]))
    return [int(x) for x in found[1].split(",")] if found and found[1].strip() else []


def gather_sharded(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    axes = _axes(op.operands[0], module)
    if axes is None:
        return "nothing says how the table is divided" if _wide_axes(module) else None
    indexed = {axes[d] for d in _dimensions(op, "start_index_map") if d < len(axes) and axes[d]}
    return f"divided over {', '.join(sorted(indexed))}" if indexed else None


def _axes(value: ir.Value, module: Module) -> list[str] | None:
    """Mesh axes (of more than one device) that each dimension is divided over; None where neither
    an argument's sharding nor a constraint says so."""
    value = module.source(value)
    while (op := maker(value)) is not None and op.name == "stablehlo.convert":
        value = module.source(op.operands[0])
    if op is not None:
        if op.name != "sdy.sharding_constraint":
            return None
        text = str(op.attributes["sharding"])
    else:
        owner = holder(value)
        if owner.name != "func.func" or "arg_attrs" not in owner.attributes:
            return None
        text = str(ir.ArrayAttr(owner.attributes["arg_attrs"])[value.arg_number])
    found = re.search(r"\[(\{[^\]]*\})\]", text)
    if not found:
        return None
    wide = _wide_axes(module)
    dimensions = re.findall(r"\{([^}]*)\}", found[1])
    return [" ".join(a for a in re.findall(r'"([^"]+)"', d) if a in wide) for d in dimensions]


def _wide_axes(module: Module) -> set[str]:
    meshes = [str(op) for op in module.operations if op.name == "sdy.mesh"]
    pairs = [pair for mesh in meshes for pair in re.findall(r'"([^"]+)"=(\d+)', mesh)]
    return {name for name, size in pairs if int(size) > 1}


def one_operand(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    number = len(list(op.results))
    return f"{number} operands" if number > 1 else None


def plain_reduction(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    body = [inner.operation.name.removeprefix("stablehlo.") for inner in op.regions[0].blocks[0]]
    single = len(body) == 2 and body[0] in REDUCERS
    return None if single or len(list(op.results)) > 1 else f"of {' '.join(body[:-1])}"


def exact_reduction(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    kind = element(op.operands[0].type)
    if kind in FLOATS or kind == "i1" or len(list(op.results)) > 1:
        return None
    low, high = module.reduced(op)
    return f"{kind} in [{low:g}, {high:g}]" if max(-low, high) >= EXACT else None


def static_loop(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    counter = module.loop_counter(op)
    if counter is None:
        return "its end depends on data"
    kind = element(op.operands[counter[0]].type)
    return None if kind == "i32" else f"its counter is {kind}, not i32"


def custom_call(op: ir.Operation, module: Module, limits: Limits) -> str | None:
    target = ir.StringAttr(op.attributes["call_target_name"]).value
    return None if OWN_TARGETS.match(target) else f"target {target}"


def types(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    found = []
    for op in module.operations:
        name = op.name.removeprefix("stablehlo.")
        inner = [a for region in op.regions for block in region for a in block.arguments]
        kinds = _element_types([*op.results, *inner])
        if name not in MOVING:
            kinds |= _element_types(op.operands) & set(STORED)
        fine = {*TYPES, *(STORED if name in MOVING else ())}
        if name in ("bitcast_convert", "rng_bit_generator"):
            fine.add("ui64")  # the generator's state
        found += [(op, f"{name} of {kind}") for kind in sorted(kinds - fine)]
    return found


def _element_types(values) -> set[str]:
    tensors = [value.type for value in values if isinstance(value.type, ir.RankedTensorType)]
    return {element(kind) for kind in tensors}


def key_arithmetic(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    counts, first = collections.Counter(), {}
    names = {"stablehlo.xor", "stablehlo.shift_left", "stablehlo.shift_right_logical"}
    for op in module.operations:
        if op.name in names and element(op.results[0].type) == "ui32":
            key = function_of(op)
            counts[key] += 1
            first.setdefault(key, op)
    return [(first[k], f"{n} shifts and xors") for k, n in counts.items() if n > limits.shifts]


def donation(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    given = [{"tf.aliasing_output", "jax.buffer_donor"} & a for a in module.argument_attributes()]
    number = sum(bool(each) for each in given)
    return [(module.main, f"{number} donated arguments")] if number else []


def large_tensor(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    found = []
    for op in module.operations:
        for value in op.results:
            size = math.prod(shape(value.type)) * BYTES.get(element(value.type), 1)
            if size / limits.devices > limits.bytes and op.name != "stablehlo.constant":
                share = f" over {limits.devices} devices" if limits.devices > 1 else ""
                found.append((op, f"{value.type}: {size / 1e9:.1f} GB{share}"))
    return found


def arguments(module: Module, limits: Limits) -> list[tuple[ir.Operation, str]]:
    number = len(module.argument_attributes())
    return [(module.main, f"{number} arguments")] if number > limits.arguments else []
