"""A StableHLO module as it is walked: every operation, where it comes from, what its integers are.

Types, locations and values are read through the public `jax.extend.mlir.ir`; nothing is compiled.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jax.extend.mlir import ir

ROOT = Path(__file__).parents[2]  # of the repository: places are shown relative to it
PACKAGE = str(ROOT / "g2rpo_jax")
NOT_OURS = re.compile(r"site-packages|/lib/python3|<frozen|g2rpo_jax/neuron/")
WHILE = "stablehlo.while"


@dataclasses.dataclass(frozen=True)
class Place:
    """One frame of Python: `file` relative to the repository, `function` as Python names it."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def site(self) -> str:
        """What an allow-list names: stays the same when lines move."""
        return f"{self.file}:{self.function}"


PROGRAM = Place("the whole program", 0, "")


def place_of(op: ir.Operation) -> Place:
    """The innermost frame of the package behind an operation; failing that, of its caller."""
    frames = list(_frames(op.location, ""))
    if not frames and op.name == "stablehlo.constant":  # shared by all who need it: the first's
        frames = [
            f for use in op.results[0].uses for f in _frames(use.owner.operation.location, "")
        ]
    others = [f for f in frames if not NOT_OURS.search(f[0])]
    ours = [f for f in others if f[0].startswith(PACKAGE)]
    for file, line, function in (*ours, *others):
        path = Path(file)
        return Place(
            str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else file, line, function
        )
    return PROGRAM


def _frames(location: ir.Location, name: str) -> Iterator[tuple[str, int, str]]:
    """(file, line, function) of a location, innermost first."""
    if location.is_a_callsite():
        yield from _frames(location.callee, name)
        yield from _frames(location.caller, name)
    elif location.is_a_name():
        yield from _frames(location.child_loc, location.name_str)
    elif location.is_a_fused():
        for part in location.locations:
            yield from _frames(part, name)
    elif location.is_a_file():
        yield location.filename, location.start_line, name


def element(kind: ir.Type) -> str:
    """Element type of a tensor type ('f32', 'ui32', ...), or the type itself as text."""
    return str(kind.element_type) if isinstance(kind, ir.RankedTensorType) else str(kind)


def shape(kind: ir.Type) -> tuple[int, ...]:
    """Shape of a tensor type; () for anything else."""
    return tuple(kind.shape) if isinstance(kind, ir.RankedTensorType) else ()


def maker(value: ir.Value) -> ir.Operation | None:
    """The operation whose result a value is; None for an argument of a function or loop."""
    # `.operation`: the views of some operations call their symbol `name`.
    return value.owner.operation if isinstance(value, ir.OpResult) else None


def holder(value: ir.BlockArgument) -> ir.Operation:
    """The function or loop whose argument a value is."""
    return value.owner.owner.operation


def parent(op: ir.Operation) -> ir.Operation | None:
    """The operation around an operation."""
    return op.parent.operation if op.parent is not None else None


def function_of(op: ir.Operation) -> str:
    """Name of the function around an operation."""
    while op.name != "func.func":
        op = parent(op)
    return ir.StringAttr(op.attributes["sym_name"]).value


def returned(block: ir.Block) -> list[ir.Value]:
    """What a function or the body of a loop gives back."""
    return list(list(block.operations)[-1].operation.operands)


Interval = tuple[float, float]
ANYTHING: Interval = (-math.inf, math.inf)
BOOLEAN: Interval = (0, 1)
RANGES = {"i32": (-(2**31), 2**31 - 1), "ui32": (0, 2**32 - 1), "ui8": (0, 255), "i8": (-128, 127)}
# Operations that move numbers and change none: the first operand's numbers are the result's.
MOVES = (
    "broadcast_in_dim",
    "reshape",
    "transpose",
    "slice",
    "dynamic_slice",
    "reverse",
    "gather",
    "all_gather",
    "collective_permute",
    "all_to_all",
)


class Module:
    """A lowered program.

    Attributes:
      operations: every operation of every function, calls' and composites' targets included.
      functions: by symbol name.
    """

    def __init__(self, module: ir.Module):
        self.module = module  # keeps the context of everything below alive
        self.operations = list(_walk(module.operation))
        named = [op for op in self.operations if op.name == "func.func"]
        self.functions = {ir.StringAttr(op.attributes["sym_name"]).value: op for op in named}
        self.calls = collections.defaultdict(list)
        for op in self.operations:
            if op.name == "func.call":
                self.calls[_symbol(op.attributes["callee"])].append(op)
        self._known: dict[ir.Value, Interval] = {}

    def shapes(self) -> set[tuple[str, tuple[int, ...]]]:
        """Element type and shape of every array in the program."""
        return {(element(x.type), shape(x.type)) for op in self.operations for x in op.results}

    def place(self, op: ir.Operation) -> Place:
        """The innermost frame of the package behind an operation; failing that, of a caller of the
        function that it stands in (JAX's own jitted functions bear no lines of ours)."""
        place = place_of(op)
        if place is PROGRAM and op.name not in ("builtin.module", "func.func"):
            for call in self.calls[function_of(op)]:
                if (place := self.place(call)) is not PROGRAM:
                    break
        return place

    @property
    def main(self) -> ir.Operation:
        """The entry function."""
        return self.functions["main"]

    def argument_attributes(self) -> list[set[str]]:
        """Names of the attributes of each argument of the entry function."""
        count = len(self.main.regions[0].blocks[0].arguments)
        if "arg_attrs" not in self.main.attributes:
            return [set()] * count
        return [
            {key if isinstance(key, str) else key.name for key in ir.DictAttr(each)}
            for each in ir.ArrayAttr(self.main.attributes["arg_attrs"])
        ]

    def interval(self, value: ir.Value) -> Interval:
        """Bounds of an integer value, from constants, clamps, iotas and comparisons; those of its
        type where nothing else bounds it."""
        if element(value.type) == "i1":
            return BOOLEAN
        if value not in self._known:
            # While it is being looked at, that is when a loop carries it: anything.
            self._known[value] = RANGES.get(element(value.type), ANYTHING)
            low, high = self._interval(value)
            least, most = RANGES.get(element(value.type), ANYTHING)
            # Beyond its type's range a number wraps round, to anything.
            inside = least <= low and high <= most
            self._known[value] = (low, high) if inside else (least, most)
        return self._known[value]

    def constant(self, value: ir.Value) -> float | None:
        """The number that an integer value always is, or None."""
        low, high = self.interval(value)
        return low if low == high else None

    def source(self, value: ir.Value) -> ir.Value:
        """The value that a function's parameter stands for, where all calls pass the same one."""
        while isinstance(value, ir.BlockArgument) and holder(value).name == "func.func":
            passed = [call.operands[value.arg_number] for call in self._callers(value)]
            if len(passed) != 1:
                break
            value = passed[0]
        return value

    def loop_counter(self, loop: ir.Operation) -> tuple[int, Interval] | None:
        """Which carried value counts a `while`, and from where to where; None if nothing says that
        the number of rounds is fixed.

        A fixed number: the condition is `counter < constant`, the counter starts at a constant and
        the body adds a constant.
        """
        condition, body = (region.blocks[0] for region in loop.regions)
        ends = maker(returned(condition)[0])
        if ends is None or ends.name != "stablehlo.compare":
            return None
        counter, bound = ends.operands
        if "LT" not in str(ends.attributes["comparison_direction"]):
            return None
        if not isinstance(counter, ir.BlockArgument) or counter.owner != condition:
            return None
        k = counter.arg_number
        limit, start = self._bound(bound, loop), self.constant(loop.operands[k])
        after = maker(returned(body)[k])
        if limit is None or start is None or after is None:
            return None
        steps = [self.constant(x) for x in after.operands if x != body.arguments[k]]
        grows = after.name == "stablehlo.add" and len(steps) == 1 and (steps[0] or 0) > 0
        return (k, (start, max(start, limit - 1))) if grows else None

    def _bound(self, value: ir.Value, loop: ir.Operation) -> float | None:
        """A constant in the condition, or one that the loop carries along unchanged."""
        if isinstance(value, ir.BlockArgument):
            body = loop.regions[1].blocks[0]
            if returned(body)[value.arg_number] != body.arguments[value.arg_number]:
                return None
            value = loop.operands[value.arg_number]
        return self.constant(value)

    def _callers(self, value: ir.BlockArgument) -> list[ir.Operation]:
        return self.calls[ir.StringAttr(holder(value).attributes["sym_name"]).value]

    def _union(self, values) -> Interval:
        found = [self.interval(value) for value in values]
        return (min(f[0] for f in found), max(f[1] for f in found)) if found else ANYTHING

    def _interval(self, value: ir.Value) -> Interval:
        if isinstance(value, ir.BlockArgument):
            return self._argument(value)
        op = maker(value)
        name = op.name.removeprefix("stablehlo.")
        operands = list(op.operands)
        if name == "constant":
            return _constant(op)
        if name == "iota":
            return 0, max(0, shape(value.type)[_int(op, "iota_dimension")] - 1)
        if name in MOVES:
            return self.interval(operands[0])
        if name == "convert":
            whole = element(operands[0].type).lstrip("u").startswith("i")
            return self.interval(operands[0]) if whole else ANYTHING
        if name == "select":
            return self._union(operands[1:])
        if name in ("concatenate", "pad", "dynamic_update_slice"):
            return self._union(operands[: 2 if name != "concatenate" else None])
        if name in ("optimization_barrier", "sdy.sharding_constraint"):
            return self.interval(operands[ir.OpResult(value).result_number])
        if name in ARITHMETIC:
            return ARITHMETIC[name](*(self.interval(x) for x in operands))
        if name == "reduce":
            return self.reduced(op)
        if name == "func.call":
            returned = list(
                self.functions[_symbol(op.attributes["callee"])].regions[0].blocks[0].operations
            )[-1]
            return self.interval(returned.operands[ir.OpResult(value).result_number])
        if name == "while":
            return self._carried(op, ir.OpResult(value).result_number)
        return ANYTHING

    def _argument(self, value: ir.BlockArgument) -> Interval:
        owner = holder(value)
        if owner.name == "func.func":
            return self._union(call.operands[value.arg_number] for call in self._callers(value))
        if owner.name == WHILE:
            counter = self.loop_counter(owner)
            if counter and counter[0] == value.arg_number:
                return counter[1]
            return self._carried(owner, value.arg_number)
        return ANYTHING

    def _carried(self, loop: ir.Operation, k: int) -> Interval:
        """Of a value that a loop carries: what it starts with, if the body only passes it on or
        writes values as bounded into it."""
        body = loop.regions[1].blocks[0]
        after = returned(body)[k]
        if after == body.arguments[k]:
            return self.interval(loop.operands[k])
        op = maker(after)
        if op is not None and op.name == "stablehlo.dynamic_update_slice":
            if op.operands[0] == body.arguments[k]:
                return self._union((loop.operands[k], op.operands[1]))
        return ANYTHING

    def reduced(self, op: ir.Operation) -> Interval:
        """Bounds of a one-operand integer reduction: add, max or min."""
        (low, high), (first_low, first_high) = map(self.interval, (op.operands[0], op.operands[1]))
        kind = list(op.regions[0].blocks[0].operations)[0].operation.name
        if kind == "stablehlo.add":
            before, after = (
                math.prod(shape(op.operands[0].type)),
                math.prod(shape(op.results[0].type)),
            )
            number = before // max(1, after)
            return first_low + number * min(low, 0), first_high + number * max(high, 0)
        if kind == "stablehlo.maximum":
            return max(low, first_low), max(high, first_high)
        if kind == "stablehlo.minimum":
            return min(low, first_low), min(high, first_high)
        return ANYTHING


def _walk(op: ir.Operation) -> Iterator[ir.Operation]:
    yield op
    for region in op.regions:
        for block in region:
            for inner in block:
                yield from _walk(inner.operation)


def _symbol(attribute: ir.Attribute) -> str:
    return ir.FlatSymbolRefAttr(attribute).value


def _int(op: ir.Operation, name: str) -> int:
    return ir.IntegerAttr(op.attributes[name]).value


def _constant(op: ir.Operation) -> Interval:
    value = op.attributes["value"]
    if not isinstance(value, ir.DenseIntElementsAttr):
        return ANYTHING
    if value.is_splat:
        number = ir.IntegerAttr(value.get_splat_value()).value
        return number, number
    numbers = np.asarray(value)
    return (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)


def _times(a: Interval, b: Interval) -> Interval:
    products = [x * y if x and y else 0 for x in a for y in b]
    return min(products), max(products)


def _clamp(low: Interval, x: Interval, high: Interval) -> Interval:
    return tuple(min(max(x[i], low[i]), high[i]) for i in (0, 1))


ARITHMETIC = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "subtract": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "multiply": _times,
    "negate": lambda a: (-a[1], -a[0]),
    "maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "clamp": _clamp,
    "sign": lambda a: (-1, 1),
}
