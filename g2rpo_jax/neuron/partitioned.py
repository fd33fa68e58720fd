"""The second look: a program divided over a mesh, as XLA's partitioner leaves it for the CPU.

It is not Neuron's own copy of the partitioner: a guide, not proof. The CPU's compiler may widen
bfloat16 to float32; arrays are sized by the type that they had before it, where that is clear.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Set
from pathlib import Path

import numpy as np

from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.neuron.lint import Finding
from g2rpo_jax.neuron.walk import PACKAGE, PROGRAM, ROOT, Place

COMMUNICATORS = 12  # distinct replica groups per program; 16 from SDK 2.32
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"f64": 8, "s64": 8, "u64": 8}
INTEGERS = {"pred", "s8", "u8", "s32", "u32", "s64", "u64"}
SUMS = ("all-reduce", "reduce-scatter")
MOVES = ("all-gather", "all-to-all", "collective-broadcast")
RING = "collective-permute"

LINE = re.compile(
    r"= (?P<type>\(.*?\)|\S+) (?P<kind>" + "|".join((*SUMS, *MOVES, RING)) + r")(?:-start)?\("
)
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))? \{([^}]*)\}"
)
SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")

GROUPS = "replica groups"
RULES = {
    "sum over devices": (
        "integers are summed over devices in float32 (an error in newer compilers)",
        "convert to float32 first",
        "docs: NCC_EVRF061, EVRF063",
    ),
    "integers between devices": (
        "only floats are documented for collectives; numbers below 2^24 come through",
        "keep indices whole on every device",
        "docs: collectives",
    ),
    "permutation": (
        "only full rings are documented",
        "shard another axis: a slice of a divided axis is the usual cause",
        "docs: collectives; issue 1030",
    ),
    GROUPS: (
        f"a program may have {COMMUNICATORS} communicators",
        "fewer mesh axes, or fewer combinations of them",
        "docs: release notes 2.32",
    ),
    "large tensor": (
        "one array above 4 GB on a device reads back zeros or fails to allocate",
        "smaller chunks, or another mesh",
        "docs: NCC_EVRF024; report",
    ),
}


@dataclasses.dataclass(frozen=True)
class Partitioned:
    """What a compiled program says.

    Attributes:
      program: its name.
      collectives: number of each kind, in its text (a loop's body counts once).
      groups: distinct replica groups, each a tuple of groups of device numbers.
      largest: bytes of the largest array on one device, and its type.
      findings: as in `lint.Report`.
    """

    program: str
    collectives: dict[str, int]
    groups: frozenset
    largest: tuple[int, str]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """Findings that are not only warnings."""
        return [finding for finding in self.findings if not finding.warns]


def lint(
    text: str,
    program: str,
    devices: int,
    limits: Limits | None = None,
    shapes: Set[tuple[str, tuple[int, ...]]] = frozenset(),
) -> Partitioned:
    """Reads a compiled program.

    Args:
      text: `compiled.as_text()`, compiled for a mesh of `devices` virtual CPU devices.
      program: the name that findings bear.
      devices: of the mesh.
      limits: numbers that rules compare with.
      shapes: types and shapes of the program before it was divided (`walk.Module.shapes`): an array
        that was bfloat16 there counts as that.
    """
    limits, frames = limits or Limits(), _frames(text)
    collectives: collections.Counter = collections.Counter()
    groups, largest = set(), (0, "")
    counted: dict[tuple, Finding] = {}

    def add(rule: str, operation: str, detail: str, place: Place, warns: bool = False) -> None:
        why, instead, source = RULES[rule]
        new = Finding(program, rule, operation, detail, place, 1, warns, why, instead, source)
        key = (rule, operation, place)
        old = counted.get(key)
        counted[key] = dataclasses.replace(old, count=old.count + 1) if old else new

    # What happens inside a fusion never lies in memory.
    inside, fused = set(re.findall(r" fusion\(.*calls=%([\w.-]+)", text)), False
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%([\w.-]+) .*\{$", line):
            fused = header[1] in inside
        if " = " not in line or fused:
            continue
        for kind, sizes in SHAPE.findall(line.partition(" = ")[2].partition("(%")[0]):
            shape = tuple(int(n) for n in sizes.split(",") if n)
            size = math.prod(shape) * BYTES.get(kind, 0)
            if size > largest[0] or size > limits.bytes:
                kind = _before(kind, shape, shapes, devices)
                size = math.prod(shape) * BYTES[kind]
                largest = max(largest, (size, f"{kind}[{sizes}]"))
            if size > limits.bytes:
                add("large tensor", kind, f"[{sizes}]: {size / 1e9:.1f} GB", _place(line, frames))
        found = LINE.search(line)
        if not found:
            continue
        name, place = found["kind"], _place(line, frames)
        collectives[name] += 1
        whole = {kind for kind, _ in SHAPE.findall(found["type"])} & INTEGERS
        detail = f"of {', '.join(sorted(whole))}"
        if whole and name in SUMS:
            add("sum over devices", name, detail, place)
        elif whole:
            add("integers between devices", name, detail, place, warns=True)
        if name == RING:
            if not _is_ring(line, devices):
                add("permutation", name, _pairs(line), place)
        else:
            groups.add(_groups(line, devices))
    if len(groups) > COMMUNICATORS:
        add(GROUPS, "collectives", f"{len(groups)} different ones", PROGRAM)
    return Partitioned(
        program, dict(collectives), frozenset(groups), largest, tuple(counted.values())
    )


def _before(kind: str, shape: tuple[int, ...], shapes: Set, devices: int) -> str:
    """The type that an array had before the CPU's compiler: bf16 where only that could be it."""

    def part_of(whole: tuple[int, ...]) -> bool:
        """Whether `shape` can be one device's part of an array."""
        if len(whole) != len(shape):
            return False
        parts = [w / s if s else math.inf for w, s in zip(whole, shape, strict=True)]
        return all(p == int(p) for p in parts if p < math.inf) and math.prod(parts) <= devices

    if kind != "f32":
        return kind
    found = {name for name, whole in shapes if name in ("f32", "bf16") and part_of(whole)}
    return "bf16" if found == {"bf16"} else kind


def _groups(line: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """Groups of device numbers, from any of HLO's three notations."""
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        rows = re.findall(r"\{([\d,]*)\}", found[1])
        return tuple(sorted(tuple(int(n) for n in row.split(",") if n) for row in rows))
    if found := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", line):
        shape = [int(n) for n in re.findall(r"\d+", found[1].partition("<=")[0])]
        return _rows(_iota(found[1].partition("<=")[2]).reshape(shape))
    if found := MESH_GROUPS.search(line):
        axes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        numbers = _iota(found[2]) if found[2] else np.arange(devices)
        numbers = numbers.reshape([int(n) for n in axes.values()])
        inside = [list(axes).index(name) for name in re.findall(r"'([^']+)'", found[3])]
        width = math.prod(numbers.shape[i] for i in inside)
        return _rows(np.moveaxis(numbers, inside, range(-len(inside), 0)).reshape(-1, width))
    return (tuple(range(devices)),)


def _iota(text: str) -> np.ndarray:
    """'[2,4]T(1,0)': the numbers 0..7 laid out as 2 x 4, then transposed."""
    shape, _, order = text.partition("T")
    sizes = [int(n) for n in re.findall(r"\d+", shape)]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in re.findall(r"\d+", order)]) if order else numbers


def _rows(numbers: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(tuple(int(n) for n in row) for row in numbers))


def _pairs(line: str) -> str:
    found = re.search(r"source_target_pairs=\{(.*?)\}\}", line)
    return f"{{{found[1]}}}}}" if found else ""


def _is_ring(line: str, devices: int) -> bool:
    """Whether every device sends to one and receives from one."""
    pairs = [tuple(map(int, pair)) for pair in re.findall(r"(\d+),(\d+)", _pairs(line))]
    everyone = set(range(devices))
    return {a for a, _ in pairs} == everyone == {b for _, b in pairs}


def _frames(text: str) -> dict[int, Place]:
    """stack_frame_id -> innermost frame of the package, from the tables at the program's head."""

    def table(name: str, pattern: str) -> dict[int, tuple[str, ...]]:
        section = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
        rows = re.findall(rf"^(\d+) {pattern}", section[1] if section else "", re.MULTILINE)
        return {int(number): tuple(values) for number, *values in rows}

    files = table("FileNames", r'"(.*)"')
    functions = table("FunctionNames", r'"(.*)"')
    lines = table("FileLocations", r"\{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)")
    stack = table("StackFrames", r"\{file_location_id=(\d+)(?: parent_frame_id=(\d+))?")
    found = {}
    for frame in stack:
        at, seen = frame, set()
        while at in stack and at not in seen:
            seen.add(at)
            file, function, line = (int(n) for n in lines[int(stack[at][0])])
            path = files[file][0]
            if path.startswith(PACKAGE):
                relative = str(Path(path).relative_to(ROOT))
                found[frame] = Place(relative, line, functions[function][0])
                break
            at = int(stack[at][1] or 1) - 1  # parents are counted from 1, the root being 1
    return found


def _place(line: str, frames: dict[int, Place]) -> Place:
    found = re.search(r"stack_frame_id=(\d+)", line)
    return frames.get(int(found[1]), PROGRAM) if found else PROGRAM
