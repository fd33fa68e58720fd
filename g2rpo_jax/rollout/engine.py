"""Prompts in, G responses each out: the host loop around the decoding chunks."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from g2rpo_jax.parallel.constrain import over
from g2rpo_jax.parallel.mesh import own_rows, processes, put_rows, put_whole, replicated
from g2rpo_jax.rollout.decode import decode_chunk, prefill
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


def join(parts: Sequence[Rollout], order) -> Rollout:
    """The rows of several rollouts, one after the other, then taken in `order` (integers [P])."""
    columns = [[getattr(part, f.name) for part in parts] for f in dataclasses.fields(Rollout)]
    return Rollout(*(np.concatenate(column)[order] for column in columns))


class Engine:
    """Generation with the same parameters and the same attention as training: nothing to sync.

    Programs are compiled once per input shape; `generate` takes every shape, callers keep them few.

    Attributes:
      prefill, decode: the jitted programs of rollout.decode.
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
    ):
        """
        Args:
          graphdef: of the nnx model.
          mesh: rows are divided over its data and fsdp axes.
          responses, max_tokens, chunk: G, T, and the tokens of one decoding chunk (divides T).
          sampling: temperature, top-k, top-p.
          eos, pad: end-of-sequence token ids, padding token id.
          donate: whether a chunk reuses the memory of the state it was given.
        """
        if max_tokens % chunk:
            raise ValueError(f"max_tokens={max_tokens} is not a multiple of chunk={chunk}")
        if not eos:
            raise ValueError("no end-of-sequence token: generation could never stop early")
        self.mesh, self.responses, self.max_tokens, self.chunk = mesh, responses, max_tokens, chunk
        # Rows come in divided over the mesh; the compiler carries that through state and outputs.
        self.prefill = jax.jit(
            over(mesh, functools.partial(prefill, graphdef, responses=responses, tokens=max_tokens))
        )
        self.decode = jax.jit(
            over(
                mesh,
                functools.partial(decode_chunk, graphdef, sampling=sampling, eos=eos, pad=pad),
            ),
            donate_argnums=(2,) if donate else (),
        )
        # One number, the same in all processes: they stop after the same chunk.
        self.all_finished = jax.jit(
            lambda finished_PG: jnp.min(finished_PG.astype(jnp.float32)),
            out_shardings=replicated(mesh),
        )
        self.greedy, self.eos, self.pad = sampling.temperature == 0, eos, pad

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
          seen: called with (places of a chunk, token_PGT, mask_PGT) once its tokens are there; what
            it is given goes on being filled.
        Returns:
          Rollout with numpy arrays [P, G, T].
        """
        P = len(prompt_ids)
        shape = (P, self.responses, self.max_tokens)
        put = functools.partial(put_rows, self.mesh)
        limit_P = np.full(P, self.max_tokens) if limit_P is None else np.asarray(limit_P)
        limit_P = np.minimum(limit_P, self.max_tokens).astype(np.int32)
        u_PGT = (
            np.zeros(shape, np.float32)
            if self.greedy
            else uniforms(seed, step, prompt_ids, self.responses, self.max_tokens)
        )
        inputs = put(inputs)
        state = self.prefill(params, inputs, put(limit_P))
        token_PGT = np.full(shape, self.pad, np.int32)
        mask_PGT = np.zeros(shape, bool)
        logp_PGT = np.zeros(shape, np.float32)
        for start in range(0, self.max_tokens, self.chunk):
            here = slice(start, start + self.chunk)
            at = put_whole(self.mesh, np.int32(start))
            state, *outs = self.decode(params, inputs, state, put(u_PGT[..., here]), at)
            got = own_rows(self.mesh, outs)
            token_PGT[..., here], mask_PGT[..., here], logp_PGT[..., here] = got
            if seen is not None:
                seen(here, token_PGT, mask_PGT)
            if self._done(state.finished_PG):
                break
        ended_PG = (np.isin(token_PGT, self.eos) & mask_PGT).any(-1)
        return Rollout(token_PGT, mask_PGT, logp_PGT, ended_PG)

    def _done(self, finished_PG: jax.Array) -> bool:
        if processes(self.mesh) == 1:
            return bool(jax.device_get(finished_PG).all())
        return bool(jax.device_get(self.all_finished(finished_PG)))
