"""Reads the text of a compiled HLO module: computations, instructions in their order of execution.

Only what accounting needs: shapes, operands, called computations, loop trip counts, device groups.
"""

import dataclasses
import functools
import math
import re

BITS = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 8),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    **dict.fromkeys(("c128",), 128),
    **dict.fromkeys(("s4", "u4"), 4),
    **dict.fromkeys(("token", "opaque"), 0),
}
HALF = ("f16", "bf16")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array: element type and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes, without padding."""
        return self.size * BITS[self.dtype] // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      arrays: what it gives; the leaves of a tuple, in order.
      widths: for a tuple, how many leaves each of its elements has; None for an array.
      operands: names; within the same computation.
      attributes: the text behind the operands.
      literal: the text between the brackets: a parameter's number, a constant.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    widths: tuple[int, ...] | None
    operands: tuple[str, ...]
    attributes: str
    literal: str

    def called(self, role: str) -> str | None:
        """Name of the computation in the role `calls`, `body`, `condition` or `to_apply`."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of a conditional."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return tuple(re.findall(r"%([\w.\-]+)", found.group(1)))
        roles = (self.called("true_computation"), self.called("false_computation"))
        return tuple(name for name in roles if name)

    @property
    def trips(self) -> int | None:
        """Trip count of a loop, if the compiler knows it."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found.group(1)) if found else None

    @property
    def bytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.bytes for array in self.arrays)

    @property
    def index(self) -> int:
        """Element that a get-tuple-element takes."""
        return int(re.search(r"\bindex=(\d+)", self.attributes).group(1))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in their order; the last one that was marked ROOT is the result."""

    name: str
    instructions: tuple[Instruction, ...]
    root: str

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        """Instructions by name."""
        return {i.name: i for i in self.instructions}

    @functools.cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """Parameters in the order of their numbers."""
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return tuple(sorted(found, key=lambda i: int(i.literal)))

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Instructions that take each name as an operand."""
        found: dict[str, list[Instruction]] = {i.name: [] for i in self.instructions}
        for i in self.instructions:
            for operand in dict.fromkeys(i.operands):
                found[operand].append(i)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program of one device."""

    computations: dict[str, Computation]
    entry: Computation

    def walk(self, computation: Computation | None = None, times: int = 1):
        """Yields (instruction, its computation, how often it runs), loops and fusions entered.

        A loop whose trip count the compiler does not know counts once. Of a conditional's branches
        all are entered: an upper bound.
        """
        computation = computation or self.entry
        for i in computation.instructions:
            yield i, computation, times
            inside = [(i.called("calls"), times), (i.called("body"), times * (i.trips or 1))]
            inside += [(name, times) for name in i.branches]
            if i.opcode == "call":
                inside.append((i.called("to_apply"), times))
            for name, count in inside:
                if name:
                    yield from self.walk(self.computations[name], count)


def parse(text: str) -> Module:
    """The module that `compiled.as_text()` prints.

    Raises:
      ValueError: a line that is none of HLO's.
    """
    computations, entry, name, lines = {}, None, None, []
    for line in text.splitlines():
        if name is None:
            found = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if found:
                name, lines = found.group(2), []
                entry = name if found.group(1) else entry
        elif line.startswith("}"):
            computations[name], name = _computation(name, lines), None
        elif line.strip():
            lines.append(line.strip())
    if entry is None:
        raise ValueError("this is no HLO module: it has no ENTRY computation")
    return Module(computations, computations[entry])


def _computation(name: str, lines: list[str]) -> Computation:
    instructions = [_instruction(line) for line in lines]
    roots = [i.name for i, s in zip(instructions, lines, strict=True) if s.startswith("ROOT ")]
    return Computation(name, tuple(instructions), roots[-1] if roots else instructions[-1].name)


def _instruction(line: str) -> Instruction:
    found = re.match(r"(?:ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        raise ValueError(f"not an HLO instruction: {line[:120]}")
    rest = line[found.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].strip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    arrays = tuple(_array(m) for m in ARRAY.finditer(kind))
    return Instruction(
        name=found.group(1),
        opcode=rest[:opening],
        arrays=arrays,
        widths=_widths(kind) if kind.startswith("(") else None,
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        attributes=rest[closing + 1 :],
        literal=inside,
    )


ARRAY = re.compile(r"\b(" + "|".join(sorted(BITS, key=len, reverse=True)) + r")\[([\d,<=]*)\]")


def _array(found: re.Match) -> Array:
    dims = tuple(int(d.lstrip("<=")) for d in found.group(2).split(",") if d)
    return Array(found.group(1), dims)


def _closing(text: str, opening: int) -> int:
    """Place of the bracket that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"brackets do not close: {text[:120]}")


def _widths(kind: str) -> tuple[int, ...]:
    """Leaves in each element of a tuple type."""
    elements, depth, start = [], 0, 1
    for place, letter in enumerate(kind):
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(letter, 0)
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            elements.append(kind[start:place])
            start = place + 1
    return tuple(len(ARRAY.findall(element)) for element in elements if element.strip())
