"""Which rows are packed together for an update, and into how many places (models' `Packing`)."""

import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl.packing import Packing, by_pack, fed, layout
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel.processes import Group

ALIGNED = 8  # places come in multiples of it, as matrix units like them


def sizes(config: RunConfig, mesh: Mesh) -> tuple[int, ...]:
    """Places of a pack, L, for each of batch.packed_shares that is less than all of its slots."""
    batch = config.batch
    packs = meshes.row_ways(mesh) * batch.microbatches
    rows = batch.prompts // batch.minibatches // packs
    slots = rows * config.responses * (config.max_tokens - 1)
    asked = {ALIGNED * math.ceil(share * slots / ALIGNED) for share in batch.packed_shares}
    return tuple(sorted(places for places in asked if places < slots))


@dataclasses.dataclass(frozen=True)
class Packed:
    """A step's packings.

    Attributes:
      minibatches: the packing of this process's rows of every minibatch; None where they are not
        packed, in any process.
      used, slots: response tokens that are fed to the model in the step, by all processes, and the
        places that hold them; the rest is padding.
    """

    minibatches: list[Packing | None]
    used: int
    slots: int


class Packs:
    """Packs the minibatches of a run; every process its own rows, into as many places as all."""

    def __init__(self, config: RunConfig, mesh: Mesh, group: Group):
        self._minibatches, self._parts = config.batch.minibatches, config.batch.microbatches
        self._shards = meshes.row_ways(mesh) // group.count
        self._sizes, self._group = sizes(config, mesh), group

    def even(self, length_PG: np.ndarray) -> np.ndarray:
        """An order of this process's rows of a step in which the packs of a minibatch hold about as
        much as one another; no row changes its minibatch.

        The longest row that is left goes to the pack with the least in it that has room for a row.
        """
        n, order_P = self._minibatches, np.arange(len(length_PG))
        if not self._sizes:
            return order_P
        for k in range(n):
            rows = order_P[k::n]
            packs_BR = by_pack(len(rows), self._shards, self._parts)
            B, R = packs_BR.shape
            fed_P = fed(length_PG[k::n]).sum(1)
            held, total = [[] for _ in range(B)], np.zeros(B, np.int64)
            for row in np.argsort(-fed_P, kind="stable"):
                free = [b for b in range(B) if len(held[b]) < R]
                b = min(free, key=total.__getitem__)
                held[b].append(row)
                total[b] += fed_P[row]
            chosen = np.empty(len(rows), np.int64)
            chosen[packs_BR] = np.array(held)
            order_P[k::n] = rows[chosen]
        return order_P

    def layouts(
        self, response_PGT: np.ndarray, mask_PGT: np.ndarray, next_position_P: np.ndarray
    ) -> Packed:
        """Packings of a step's rows, in the order that `even` gave; a collective call."""
        n, parts, shards = self._minibatches, self._parts, self._shards
        length_PG = mask_PGT.sum(-1)
        _, G, T = response_PGT.shape
        needed, used = [], int(fed(length_PG).sum())
        for k in range(n):
            fed_P = fed(length_PG[k::n]).sum(1)
            packs_BR = by_pack(len(fed_P), shards, parts)
            needed.append(int(fed_P[packs_BR].sum(1).max()))
        everybodys = self._group.gather((needed, used), "packed responses")
        most = np.max([each for each, _ in everybodys], axis=0)
        packings, slots = [], 0
        for k in range(n):
            part = tuple(x[k::n] for x in (response_PGT, length_PG, next_position_P))
            # One place is padding.
            places = next((size for size in self._sizes if size > most[k]), None)
            packings.append(None if places is None else layout(*part, shards, parts, places))
            rows = len(part[0]) * G * (T - 1)
            slots += rows if places is None else shards * parts * places
        return Packed(packings, sum(used for _, used in everybodys), slots * self._group.count)
