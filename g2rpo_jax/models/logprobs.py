"""Log-probabilities and entropies of response tokens, without a [tokens, vocabulary] array.

The token axis of each row is cut into chunks; one chunk's logits exist at a time, also in the
backward pass (they are computed again there).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from g2rpo_jax.models.products import product
from g2rpo_jax.parallel.constrain import constrain


class Shards(NamedTuple):
    """Logical axes of hidden states [P, tokens, D] and of logits [P, tokens, V]."""

    rows: str
    tokens: str | None
    vocab: str | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenStats:
    """Per response token, float32, nats: log-probability and entropy of its distribution."""

    logp_PGT: jax.Array
    entropy_PGT: jax.Array


def logits_of(hidden: jax.Array, table_VD: jax.Array) -> jax.Array:
    """Unembedding: hidden [..., D] times table [V, D] -> float32 logits [..., V]."""
    return product(hidden, table_VD.astype(hidden.dtype).T).astype(jnp.float32)


def token_stats(
    hidden_PGTD: jax.Array,
    table_VD: jax.Array,
    label_PGT: jax.Array,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
    vocab: str = "tensor",
) -> TokenStats:
    """log softmax(logits / temperature)[label] and the entropy of softmax(logits / temperature).

    Args:
      hidden_PGTD: hidden states that predict the labels.
      table_VD: unembedding, divided as `vocab` says.
      label_PGT: int32 token ids in [0, V).
      temperature: above 0.
      chunk: response tokens of a row whose logits exist at one time.
      vocab: an entry of SHARDS.
    Returns:
      TokenStats; differentiable in hidden and table.
    """
    P, G, T, D = hidden_PGTD.shape
    tokens = G * T
    chunk = min(chunk, tokens)
    pad = -tokens % chunk
    shards = SHARDS[vocab]
    # The prompt axis stays in front, so rows stay on their devices while chunks are scanned.
    hidden_PLD = jnp.pad(hidden_PGTD.reshape(P, tokens, D), ((0, 0), (0, pad), (0, 0)))
    label_PL = jnp.pad(label_PGT.reshape(P, tokens), ((0, 0), (0, pad)))
    hidden_NPcD = hidden_PLD.reshape(P, -1, chunk, D).swapaxes(0, 1)
    hidden_NPcD = constrain(hidden_NPcD, None, "rows")
    label_NPc = label_PL.reshape(P, -1, chunk).swapaxes(0, 1)

    @jax.checkpoint
    def one(hidden_PcD, label_Pc):
        hidden_PcD = constrain(constrain(hidden_PcD, "rows"), shards.rows, shards.tokens)
        label_Pc = constrain(label_Pc, shards.rows, shards.tokens)
        logits_PcV = constrain(logits_of(hidden_PcD, table_VD), *shards) / temperature
        top_Pc1 = jax.lax.stop_gradient(jnp.max(logits_PcV, axis=-1, keepdims=True))
        shifted_PcV = logits_PcV - top_Pc1
        exp_PcV = jnp.exp(shifted_PcV)
        total_Pc = jnp.sum(exp_PcV, axis=-1)
        log_total_Pc = jnp.log(total_Pc)
        # Compare and select instead of a gather along the (sharded) vocabulary.
        here_PcV = jnp.arange(logits_PcV.shape[-1])[None, None] == label_Pc[..., None]
        picked_Pc = jnp.sum(jnp.where(here_PcV, shifted_PcV, 0.0), axis=-1)
        entropy_Pc = log_total_Pc - jnp.sum(exp_PcV * shifted_PcV, axis=-1) / total_Pc
        logp_Pc = picked_Pc - log_total_Pc
        return constrain(logp_Pc, "rows"), constrain(entropy_Pc, "rows")

    if pad == 0 and chunk == tokens:
        logp, entropy = one(hidden_PLD, label_PL)
        return TokenStats(logp.reshape(P, G, T), entropy.reshape(P, G, T))
    _, (logp, entropy) = jax.lax.scan(
        lambda carry, xs: (carry, one(*xs)), None, (hidden_NPcD, label_NPc)
    )

    def rows(x_NPc):
        return x_NPc.swapaxes(0, 1).reshape(P, -1)[:, :tokens].reshape(P, G, T)

    return TokenStats(rows(logp), rows(entropy))


# What the unembedding's table, and with it a chunk of logits, is divided over. "tensor": each row's
# devices share out the vocabulary; the table is gathered over fsdp. "all": fsdp and tensor; the
# table stays where it is, and the hidden states of a chunk are gathered instead. "none": every
# device has the whole table, and the tensor axis shares out the tokens of a chunk.
SHARDS = {
    "tensor": Shards("rows", None, "vocab"),
    "all": Shards("lookup_rows", None, "vocab_all"),
    "none": Shards("rows", "tokens", None),
}
