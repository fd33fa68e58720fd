"""The two device programs of a rollout: prefill once per row, then fixed-length decoding chunks."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from g2rpo_jax.models.logprobs import SHARDS, logits_of
from g2rpo_jax.models.qwen3_vl.layout import RowInputs
from g2rpo_jax.parallel.constrain import constrain
from g2rpo_jax.parallel.mesh import ROWS, row_sharding
from g2rpo_jax.parallel.rules import path_name
from g2rpo_jax.rollout.sampler import SamplingConfig, sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """What goes from one chunk to the next.

    Attributes:
      hidden_PGD: hidden state that predicts the next token.
      finished_PG: bool, the response has ended or used up its tokens.
      limit_P: int32, tokens that each row's responses may have.
      cache: the model's key/value cache (prompt once per row, responses of T slots).
    """

    hidden_PGD: jax.Array
    finished_PG: jax.Array
    limit_P: jax.Array
    cache: object


def prompts_of(inputs: RowInputs) -> RowInputs:
    """What decoding reads of the prompts: all but the patches of their images, [P, 0, ...]."""
    images = ("patches_PNC", "patch_hw_PN2", "pos_index_PN4", "pos_weight_PN4", "segment_PN")
    return dataclasses.replace(inputs, **{name: getattr(inputs, name)[:, :0] for name in images})


def shardings(state: DecodeState, mesh: Mesh) -> DecodeState:
    """How a decoding state is divided: rows over data and fsdp, key heads over tensor."""

    def of(path, x):
        if not path_name(path).startswith("cache."):
            return row_sharding(mesh)
        # Layers, rows, [responses,] key heads, ...: heads stand third from the right.
        heads = "tensor" if x.shape[-3] % mesh.shape["tensor"] == 0 else None
        middle = [None] * (x.ndim - 5)
        return NamedSharding(mesh, PartitionSpec(None, *ROWS, *middle, heads, None, None))

    return jax.tree_util.tree_map_with_path(of, state)


def prefill(graphdef, params, inputs, limit_P, *, responses: int, tokens: int) -> DecodeState:
    """Runs vision tower and prompt once per row.

    Args:
      inputs: the model's RowInputs.
      limit_P: int32 tokens, 0 for rows that only fill up the batch: they start finished.
      responses, tokens: G and T of the cache.
    """
    model = nnx.merge(graphdef, params)
    hidden_PD, cache = model.prefill(inputs, responses, tokens)
    P, D = hidden_PD.shape
    hidden_PGD = constrain(jnp.broadcast_to(hidden_PD[:, None], (P, responses, D)), "rows")
    finished_PG = jnp.broadcast_to(limit_P[:, None] <= 0, (P, responses))
    return DecodeState(hidden_PGD, constrain(finished_PG, "rows"), limit_P, cache)


def decode_chunk(
    graphdef,
    params,
    inputs,
    state: DecodeState,
    u_PGc: jax.Array,
    start: jax.Array,
    *,
    sampling: SamplingConfig,
    eos: tuple[int, ...],
    pad: int,
):
    """Decodes `c` tokens of every response: a static scan, no data-dependent control flow.

    Args:
      inputs: the prompts, of which the patches are not read (`prompts_of`).
      u_PGc: float32 uniforms of these positions.
      start: int32 scalar, position of the chunk's first token within the response.
      eos: token ids that end a response (the ending token belongs to the response).
      pad: token id written after the end.
    Returns:
      (DecodeState, token_PGc int32, mask_PGc bool, logp_PGc float32): mask is True up to and
      including the end token; log-probs are 0 where it is False.
    """
    model = nnx.merge(graphdef, params)
    table_VD, ready = model.unembedding(model.dtype), model.ready()
    if model.unrolled:
        whole = state.cache
        state = dataclasses.replace(state, cache=whole.apart())
    shards = SHARDS[model.vocab]

    def one(state: DecodeState, xs):
        u_PG, t = xs
        hidden_PGD = constrain(state.hidden_PGD, shards.rows, shards.tokens)
        logits_PGV = constrain(logits_of(hidden_PGD, table_VD), *shards)
        # A token is drawn where its whole distribution lies: a row's devices share its responses.
        logits_PGV = constrain(logits_PGV, "rows", None, "vocab" if shards.vocab else None)
        logits_PGV = constrain(logits_PGV, "rows", "tokens")
        token_PG, logp_PG = sample(sampling, logits_PGV, constrain(u_PG, "rows", "tokens"))
        token_PG, logp_PG = constrain(token_PG, "rows"), constrain(logp_PG, "rows")
        alive_PG = ~state.finished_PG
        token_PG = jnp.where(alive_PG, token_PG, pad)
        ends_PG = token_PG == eos[0]
        for other in eos[1:]:
            ends_PG = ends_PG | (token_PG == other)
        hidden_PGD, cache = model.decode(token_PG, t, state.cache, inputs, ready)
        finished_PG = state.finished_PG | ends_PG | (t + 1 >= state.limit_P)[:, None]
        hidden_PGD, finished_PG = constrain(hidden_PGD, "rows"), constrain(finished_PG, "rows")
        new = DecodeState(hidden_PGD, finished_PG, state.limit_P, cache)
        return new, (token_PG, alive_PG, jnp.where(alive_PG, logp_PG, 0.0))

    positions_c = start + jnp.arange(u_PGc.shape[-1], dtype=jnp.int32)
    state, outs = jax.lax.scan(one, state, (jnp.moveaxis(u_PGc, -1, 0), positions_c))
    if model.unrolled:
        state = dataclasses.replace(state, cache=state.cache.together(whole))
    return (state, *(jnp.moveaxis(x, 0, -1) for x in outs))
