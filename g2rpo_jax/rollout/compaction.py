"""Finished responses leave: what still decodes moves together into smaller, declared shapes.

A batch of P rows x G responses may halve a few times: first the responses of a row, then, with one
response each, the rows. A row that has more responses left than the smaller shape holds becomes
several, each with the prompt's keys and values. Rows never leave their device: every shard of the
rows is laid out anew by itself, and all take the same shape.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from g2rpo_jax.parallel.mesh import ROWS
from g2rpo_jax.rollout.decode import DecodeState, shardings


class Shape(NamedTuple):
    """Slots of one shard of the rows: `rows` rows of `responses` each."""

    rows: int
    responses: int


def ladder(rows: int, responses: int, halvings: int) -> tuple[Shape, ...]:
    """The shapes that a shard of `rows` x `responses` may take, the largest first.

    Whatever fits one of them fits those before it.
    """
    found = [Shape(rows, responses)]
    while len(found) <= halvings and found[-1] != (1, 1):
        rows, responses = found[-1]
        halved = (rows, responses / 2) if responses > 1 else (rows / 2, 1)
        found.append(Shape(*map(math.ceil, halved)))
    return tuple(found)


def steps_down(finished_PG: Any, smaller: tuple[Shape, ...], ways: int) -> Any:
    """How many of the smaller shapes what is alive fits, in all shards; one more if nothing is.

    Args:
      finished_PG: bool, NumPy or jax: rows of `ways` shards.
      smaller: the rest of the ladder.
    Returns:
      float32 scalar.
    """
    live_P = (~finished_PG).astype(np.float32).sum(1)
    found = (live_P.max() <= 0).astype(np.float32)
    for rows, responses in smaller:
        # ceil(live / responses), in comparisons
        parts = range(0, finished_PG.shape[1], responses)
        needed_P = sum((live_P > begun).astype(np.float32) for begun in parts)
        fits = needed_P.reshape(ways, -1).sum(1).max() <= rows
        found = found + fits.astype(np.float32)
    return found


class Seats(NamedTuple):
    """Which response each slot decodes, on the host, for the rows of one process.

    Attributes:
      row_P: int32, the row as the call of `generate` counts it.
      response_PG: int32, the response of that row; -1: nobody's.
    """

    row_P: np.ndarray
    response_PG: np.ndarray

    @classmethod
    def all(cls, P: int, G: int) -> "Seats":
        """Every response at its own place."""
        return cls(np.arange(P, dtype=np.int32), np.tile(np.arange(G, dtype=np.int32), (P, 1)))


class Move(NamedTuple):
    """What goes where when the shape gets smaller; numbers are of the larger shape.

    Attributes:
      row_P: int32, for each row the one it comes from, counted within its shard.
      slot_PG: int32, for each slot the one it comes from, row * G + response within its shard; any
        where it is nobody's.
      finished_PG: bool, the slot is nobody's: nothing that has finished comes along.
    """

    row_P: np.ndarray
    slot_PG: np.ndarray
    finished_PG: np.ndarray


def move(seats: Seats, finished_PG: np.ndarray, to: Shape, ways: int) -> tuple[Move, Seats]:
    """Lays out what is alive in a smaller shape that it fits.

    Args:
      seats: now.
      finished_PG: bool, now.
      to: the shape of each shard.
      ways: shards of these rows.
    """
    P, G = finished_PG.shape
    held = P // ways
    row_P = np.zeros(ways * to.rows, np.int32)
    slot_PG = np.zeros((ways * to.rows, to.responses), np.int32)
    vacant_PG = np.ones(slot_PG.shape, bool)
    for shard in range(ways):
        free, here = shard * to.rows, slice(shard * held, (shard + 1) * held)
        # What became several rows may be one again: a shape fits whatever lies between.
        groups: dict[int, list[int]] = {}
        for row, response in np.argwhere(~finished_PG[here]).tolist():
            groups.setdefault(int(seats.row_P[here][row]), []).append(row * G + response)
        for alive in groups.values():
            for begun in range(0, len(alive), to.responses):
                part = alive[begun : begun + to.responses]
                row_P[free] = part[0] // G
                slot_PG[free, : len(part)] = part
                vacant_PG[free, : len(part)] = False
                free += 1
    shard_P = np.repeat(np.arange(ways, dtype=np.int32), to.rows)
    from_P = shard_P * held + row_P
    response_PG = seats.response_PG.reshape(ways, -1)[shard_P[:, None], slot_PG]
    response_PG = np.where(vacant_PG, -1, response_PG)
    return Move(row_P, slot_PG, vacant_PG), Seats(seats.row_P[from_P], response_PG)


def compact(mesh: Mesh, state: DecodeState, limit_P: jax.Array, to: Move) -> DecodeState:
    """The device's side of a move, each shard by itself.

    One copy after the other at a place that is a number: no gather, which Neuron would not take.

    Args:
      state: of the larger shape; its caches are [layers, rows, ...] with 5 axes for the prompts and
        [layers, rows, responses, ...] with 6.
      limit_P: int32, of the new rows.
      to: arrays on the devices.
    """

    def local(hidden_PGD, cache, row_P, slot_PG):
        def of(x):
            if x.ndim == 5:
                return _take(x, row_P, 1)
            flat = _take(x.reshape(x.shape[0], -1, *x.shape[3:]), slot_PG.reshape(-1), 1)
            return flat.reshape(x.shape[0], *slot_PG.shape, *x.shape[3:])

        hidden_BD = _take(hidden_PGD.reshape(-1, hidden_PGD.shape[-1]), slot_PG.reshape(-1), 0)
        return hidden_BD.reshape(*slot_PG.shape, -1), jax.tree.map(of, cache)

    if mesh.size > 1:
        cache = jax.tree.map(lambda x: x.spec, shardings(state, mesh).cache)
        local = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(ROWS, cache, ROWS, ROWS),
            out_specs=(ROWS, cache),
            check_vma=False,
        )
    hidden_PGD, cache = local(state.hidden_PGD, state.cache, to.row_P, to.slot_PG)
    return DecodeState(hidden_PGD, to.finished_PG, limit_P, cache)


def _take(x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """x[index] along an axis, entry by entry."""

    def one(out, xs):
        source, place = xs
        entry = jax.lax.dynamic_slice_in_dim(x, source, 1, axis)
        return jax.lax.dynamic_update_slice_in_dim(out, entry, place, axis), None

    shape = (*x.shape[:axis], len(index), *x.shape[axis + 1 :])
    places = jnp.arange(len(index), dtype=jnp.int32)
    return jax.lax.scan(one, jnp.zeros(shape, x.dtype), (index, places))[0]
