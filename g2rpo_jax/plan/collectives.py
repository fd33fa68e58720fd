"""Collectives of a compiled program: how many, how many bytes, along which axes of the mesh."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from g2rpo_jax.plan.hlo import Computation, Instruction, Module
from g2rpo_jax.plan.memory import held_bytes, narrow_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind along the same axes.

    Attributes:
      kind: as HLO calls it.
      axes: mesh axes that a group runs along, outermost first; ("other",) where it is no product
        of axes.
      group: devices in a group.
      count: how often one runs in one call of the program.
      bytes: what it gives on one device, summed over all runs (an all-reduce: its result; a
        reduce-scatter: what goes in).
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    count: int
    bytes: int

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends, with ring algorithms."""
        share = (self.group - 1) / self.group
        if self.kind == "collective-permute":
            return float(self.bytes)
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def collectives(module: Module, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """Every collective of the program, loops counted as often as they run.

    Args:
      module: of one device.
      mesh: size of each axis, outermost first; devices are numbered along the last one first.
    """
    narrow = narrow_of(module)
    found: dict[tuple, list[int]] = {}
    for i, computation, times in module.walk():
        kind = i.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        groups = _groups(i, tuple(mesh.values()))
        size = len(groups[0]) if len(groups) else int(np.prod(list(mesh.values())))
        if kind != "collective-permute" and size == 1:
            continue
        axes = _axes(groups, mesh) if len(groups) else tuple(mesh)
        entry = found.setdefault((kind, axes, size), [0, 0])
        entry[0] += times
        entry[1] += times * _bytes(kind, i, computation, narrow)
    return tuple(
        Collective(kind, axes, size, count, total)
        for (kind, axes, size), (count, total) in sorted(found.items())
    )


def _bytes(kind: str, i: Instruction, computation: Computation, narrow) -> int:
    # The CPU's compiler adds up 16-bit values in 32 bits: what only widens counts as it was.
    sources = [computation.by_name[name] for name in i.operands]
    given = sum(held_bytes(source, narrow(computation, source)) for source in sources)
    raw = sum(source.bytes for source in sources)
    if kind == "reduce-scatter":
        return given
    return i.bytes * given // raw if raw else 0


def _groups(i: Instruction, shape: tuple[int, ...]) -> np.ndarray:
    """Device numbers [groups, devices in a group]; empty for one group of all."""
    text = i.attributes
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)
    if pairs:
        moves = [tuple(map(int, p.split(","))) for p in re.findall(r"\{(\d+,\d+)\}", pairs[1])]
        away = [(a, b) for a, b in moves if a != b]
        return np.asarray(away or [(0, 0)])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text)
    if named:
        sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = re.findall(r"'(\w+)'", named[2])
        return _along(list(sizes), list(sizes.values()), along)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        dims, source = _numbers(iota[1]), _numbers(iota[2])
        ids = np.arange(np.prod(source)).reshape(source)
        return ids.transpose(_numbers(iota[3]) if iota[3] else range(len(source))).reshape(dims)
    listed = re.search(r"replica_groups=\{((?:\{[\d,]+\},?)*)\}", text)
    if listed and listed[1]:
        return np.asarray([_numbers(g) for g in re.findall(r"\{([\d,]+)\}", listed[1])])
    return np.zeros((0, 0), int)


def _along(names: list[str], sizes: list[int], along: list[str]) -> np.ndarray:
    ids = np.arange(np.prod(sizes)).reshape(sizes)
    inner = [names.index(name) for name in along]
    outer = [k for k in range(len(names)) if k not in inner]
    group = int(np.prod([sizes[k] for k in inner]))
    return ids.transpose(outer + inner).reshape(-1, group)


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the devices of the first group differ."""
    places = np.stack(np.unravel_index(groups[0], tuple(mesh.values())))
    varying = [name for name, p in zip(mesh, places, strict=True) if len(set(p.tolist())) > 1]
    product = int(np.prod([mesh[name] for name in varying]))
    if groups.shape[1] == product or len(varying) == 1:
        return tuple(varying)
    return ("other",)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]
