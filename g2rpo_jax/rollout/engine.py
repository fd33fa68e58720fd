"""Prompts in, G responses each out: the host loop around the decoding chunks."""

import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from g2rpo_jax.parallel.constrain import over
from g2rpo_jax.parallel.mesh import (
    own_rows,
    processes,
    put_rows,
    put_whole,
    replicated,
    row_sharding,
    row_ways,
)
from g2rpo_jax.rollout import compaction
from g2rpo_jax.rollout.compaction import Move, Seats, Shape
from g2rpo_jax.rollout.decode import DecodeState, decode_chunk, prefill, prompts_of, shardings
from g2rpo_jax.rollout.sampler import SamplingConfig, uniforms


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Sampled responses, on the host.

    Attributes:
      token_PGT: int32; the pad id after the end.
      mask_PGT: bool; True for generated tokens, the end token included.
      logp_PGT: float32 log-probabilities under the sampler (0 where masked), temperature applied.
      ended_PG: bool; False where the row's limit came before an end token.
    """

    token_PGT: np.ndarray
    mask_PGT: np.ndarray
    logp_PGT: np.ndarray
    ended_PG: np.ndarray

    @property
    def length_PG(self) -> np.ndarray:
        """Generated tokens of each response, int."""
        return self.mask_PGT.sum(-1)


def chunk_tokens(asked: int, max_tokens: int, longest: int) -> int:
    """Tokens of a decoding chunk.

    Args:
      asked: so many; 0: as few chunks as `longest` allows, of the same length.
      longest: what the back end likes at most.
    """
    return asked or math.ceil(max_tokens / math.ceil(max_tokens / longest))


def join(parts: Sequence[Rollout], order) -> Rollout:
    """The rows of several rollouts, one after the other, then taken in `order` (integers [P])."""
    columns = [[getattr(part, f.name) for part in parts] for f in dataclasses.fields(Rollout)]
    return Rollout(*(np.concatenate(column)[order] for column in columns))


class Engine:
    """Generation with the same parameters and the same attention as training: nothing to sync.

    Programs are compiled once per input shape; `generate` takes every shape, callers keep them few.
    Those for the smaller shapes that a batch shrinks to (rollout.compaction) are compiled with it,
    at the first call: later nothing is.

    Attributes:
      prefill, decode: the jitted programs of rollout.decode.
      look, compact: those of rollout.compaction: (finished_PG, smaller shapes) -> how many of them
        fit; (state, limit_P, Move) -> a smaller state.
      slots: tokens decoded so far for the rows of this process, used or not.
    """

    def __init__(
        self,
        graphdef,
        mesh: Mesh,
        *,
        responses: int,
        max_tokens: int,
        chunk: int,
        sampling: SamplingConfig,
        eos: tuple[int, ...],
        pad: int,
        donate: bool = True,
        halvings: int = 0,
    ):
        """
        Args:
          graphdef: of the nnx model.
          mesh: rows are divided over its data and fsdp axes.
          responses, max_tokens, chunk: G, T, and the tokens of one decoding chunk. Where it does
            not divide T, the last one goes beyond, unseen.
          sampling: temperature, top-k, top-p.
          eos, pad: end-of-sequence token ids, padding token id.
          donate: whether a chunk reuses the memory of the state it was given.
          halvings: how often the batch may halve as responses finish; 0: never.
        """
        if not eos:
            raise ValueError("no end-of-sequence token: generation could never stop early")
        self.mesh, self.responses, self.max_tokens, self.chunk = mesh, responses, max_tokens, chunk
        self.halvings, self.room = halvings, math.ceil(max_tokens / chunk) * chunk
        # Rows come in divided over the mesh; the compiler carries that through state and outputs.
        self.prefill = jax.jit(
            over(mesh, functools.partial(prefill, graphdef, responses=responses, tokens=self.room))
        )
        self.decode = jax.jit(
            over(
                mesh,
                functools.partial(decode_chunk, graphdef, sampling=sampling, eos=eos, pad=pad),
            ),
            donate_argnums=(2,) if donate else (),
        )
        # One number, the same in all processes: they stop, and get smaller, after the same chunk.
        self.look = jax.jit(
            functools.partial(compaction.steps_down, ways=row_ways(mesh)),
            static_argnums=(1,),
            out_shardings=replicated(mesh),
        )
        # Nothing to donate: no array keeps its size.
        self.compact = jax.jit(functools.partial(compaction.compact, mesh))
        self.greedy, self.eos, self.pad = sampling.temperature == 0, eos, pad
        self.slots = 0
        self._compiled: set = set()

    def generate(
        self, params, inputs, prompt_ids, *, seed: int, step: int = 0, limit_P=None, seen=None
    ) -> Rollout:
        """Samples G responses for each of P rows: those of this process, which are decoded
        together with as many of every other.

        Args:
          params: the nnx parameters.
          inputs: packed rows.
          prompt_ids: P integers that, with seed and step, determine the samples.
          limit_P: tokens that each row's responses may have, at most max_tokens (the default); 0
            for filler rows. Decoding stops with the chunk in which the last response finishes.
          seen: called with (places of a chunk, token_PGT, mask_PGT) once its tokens are there, as
            the next chunk is being decoded; what it is given goes on being filled.
        Returns:
          Rollout with numpy arrays [P, G, T].
        """
        P, G, room = len(prompt_ids), self.responses, self.room
        put = functools.partial(put_rows, self.mesh)
        limit_P = np.full(P, self.max_tokens) if limit_P is None else np.asarray(limit_P)
        limit_P = np.minimum(limit_P, self.max_tokens).astype(np.int32)
        state = self.prefill(params, put(inputs), put(limit_P))
        prompts = jax.tree.map(np.asarray, prompts_of(inputs))
        decoded = put(prompts)
        u_PGT = (
            np.zeros((P, G, room), np.float32)
            if self.greedy
            else uniforms(seed, step, prompt_ids, G, room)
        )
        shapes, seats = self._ladder(P * processes(self.mesh)), Seats.all(P, G)
        self._compile(params, decoded, state, shapes)
        results = _Results.empty((P, G, room), self.pad)
        finished_PG = np.tile(limit_P[:, None] <= 0, (1, G))
        for start in range(0, room, self.chunk):
            down = self._steps_down(finished_PG, state, shapes[1:])
            if down == len(shapes):
                break
            for _ in range(down):
                shapes = shapes[1:]
                to, seats = compaction.move(seats, finished_PG, shapes[0], self._ways)
                state = self.compact(state, put(limit_P[seats.row_P]), put(to))
                finished_PG = to.finished_PG
            if down:
                decoded = put(jax.tree.map(lambda x, rows=seats.row_P: x[rows], prompts))
            here = slice(start, start + self.chunk)
            u_PGc = u_PGT[seats.row_P[:, None], seats.response_PG, here]
            at = put_whole(self.mesh, np.int32(start))
            state, *outs = self.decode(params, decoded, state, put(u_PGc), at)
            self.slots += u_PGc.size
            results.fetch(self.mesh, seen)
            results.coming = seats, here, outs
            finished_PG = own_rows(self.mesh, state.finished_PG)
        results.fetch(self.mesh, seen)
        token_PGT, mask_PGT, logp_PGT = (x[..., : self.max_tokens] for x in results.arrays)
        ended_PG = (np.isin(token_PGT, self.eos) & mask_PGT).any(-1)
        return Rollout(token_PGT, mask_PGT, logp_PGT, ended_PG)

    def calls(self, params, prompts, state: DecodeState) -> list[tuple[str, object, tuple]]:
        """(name, jitted function, arguments) of what is run after prefill, shape by shape.

        Args:
          params, prompts, state: as `decode` takes them at first; arrays or ShapeDtypeStructs with
            shardings.
        """
        rows, whole = row_sharding(self.mesh), replicated(self.mesh)

        def shape(*sizes: int, dtype=np.int32, sharding=rows):
            return jax.ShapeDtypeStruct(sizes, np.dtype(dtype), sharding=sharding)

        found, shapes = [], self._ladder(len(state.limit_P))
        while True:
            u_PGc = shape(*state.finished_PG.shape, self.chunk, dtype=np.float32)
            at = shape(sharding=whole)
            found += [
                ("decode", self.decode, (params, prompts, state, u_PGc, at)),
                ("look", self.look, (state.finished_PG, shapes[1:])),
            ]
            shapes = shapes[1:]
            if not shapes:
                return found
            P, G = shapes[0].rows * row_ways(self.mesh), shapes[0].responses
            to = Move(shape(P), shape(P, G), shape(P, G, dtype=bool))
            found.append(("compact", self.compact, (state, shape(P), to)))
            state = jax.eval_shape(self.compact, state, shape(P), to)
            state = jax.tree.map(
                lambda x, s: shape(*x.shape, dtype=x.dtype, sharding=s),
                state,
                shardings(state, self.mesh),
            )
            prompts = jax.tree.map(lambda x, P=P: shape(P, *x.shape[1:], dtype=x.dtype), prompts)

    def _compile(self, params, prompts, state: DecodeState, shapes: tuple[Shape, ...]) -> None:
        """Compiles what a batch of a new shape may run before it ends, side by side."""
        key = tuple(x.shape for x in jax.tree.leaves(prompts))
        if len(shapes) == 1 or key in self._compiled:
            return
        self._compiled.add(key)
        lowered = [
            function.lower(*args)
            for name, function, args in self.calls(params, prompts, state)
            if name != "look" or processes(self.mesh) > 1
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda program: program.compile(), lowered))

    @property
    def _ways(self) -> int:
        """Shards of the rows of this process."""
        return row_ways(self.mesh) // processes(self.mesh)

    def _ladder(self, P: int) -> tuple[Shape, ...]:
        return compaction.ladder(P // row_ways(self.mesh), self.responses, self.halvings)

    def _steps_down(
        self, finished_PG: np.ndarray, state: DecodeState, smaller: tuple[Shape, ...]
    ) -> int:
        """How many of the smaller shapes what is alive fits, in all processes; one more if nothing
        is."""
        if processes(self.mesh) == 1:
            return int(compaction.steps_down(finished_PG, smaller, self._ways))
        return int(jax.device_get(self.look(state.finished_PG, smaller)))


@dataclasses.dataclass
class _Results:
    """What has been decoded, on the host.

    Attributes:
      arrays: tokens, masks and log-probs, [P, G, T] each.
      coming: seats, places and device arrays of a chunk; they are fetched while the next one is
        decoded.
    """

    arrays: tuple[np.ndarray, ...]
    coming: tuple[Seats, slice, list[jax.Array]] | None = None

    @classmethod
    def empty(cls, shape: tuple[int, int, int], pad: int) -> "_Results":
        return cls((np.full(shape, pad, np.int32), np.zeros(shape, bool), np.zeros(shape, "f4")))

    def fetch(self, mesh: Mesh, seen=None) -> None:
        """Puts the coming chunk where it belongs, and lets `seen` know (see Engine.generate)."""
        if self.coming is None:
            return
        seats, here, outs = self.coming
        held_PG = seats.response_PG >= 0
        row_PG = np.broadcast_to(seats.row_P[:, None], held_PG.shape)
        where = (row_PG[held_PG], seats.response_PG[held_PG], here)
        for whole_PGT, part_PGc in zip(self.arrays, own_rows(mesh, outs), strict=True):
            whole_PGT[where] = part_PGc[held_PG]
        self.coming = None
        if seen is not None:
            seen(here, *self.arrays[:2])
