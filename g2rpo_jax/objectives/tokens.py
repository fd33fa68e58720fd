"""What a policy loss sees of the minibatch's rows, and the sums that losses have in common."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from g2rpo_jax import masked

AnyArray = Array | np.ndarray
PGT = Float[AnyArray, "P G T"]
PG = Float[AnyArray, "P G"]
Losses = tuple[Float[Array, "P G T"], Float[Array, "P G T"]]

# exp overflows float32 near 88; at 20 the ratio is already 5e8, far outside any clip. EasyR1's
# bound.
LOG_RATIO_LIMIT = 20.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """The responses of P whole rows: all G responses of a row, all tokens of a response.

    A row is never cut over micro-batches or devices, so what a loss computes within one is exact;
    what it needs of the whole minibatch is in `seen`. No gradient flows but through `logp_PGT`.

    Attributes:
      logp_PGT: log-probs (nats, <= 0) of the sampled tokens now; carries the gradient. Finite also
        under the mask.
      old_logp_PGT: the same when sampled, or at the start of the rollout batch.
      mask_PGT: bool, generated tokens that count. A response without any is not a response.
      adv_PG: advantage of each response, the same for all its tokens.
      token_PGT: int32 ids; losses that compare the tokens of a group read them.
      entropy_PGT: entropies (nats) of the next-token distributions, or None.
      ref_logp_PGT: log-probs under the reference policy, or None.
      seen: of losses with a look, its sums over the whole minibatch; else None.
    """

    logp_PGT: Any
    old_logp_PGT: Any
    mask_PGT: Any
    adv_PG: Any
    token_PGT: Any = None
    entropy_PGT: Any = None
    ref_logp_PGT: Any = None
    seen: Any = None


def held(tokens: Tokens) -> Tokens:
    """The same, arrays of JAX, with a gradient through `logp_PGT` alone."""
    others = dataclasses.replace(tokens, logp_PGT=None)
    others = jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), others)
    return dataclasses.replace(
        others,
        logp_PGT=jnp.asarray(tokens.logp_PGT),
        mask_PGT=jnp.asarray(others.mask_PGT) != 0,
    )


def log_ratio(logp_PGT: PGT, other_PGT: PGT) -> PGT:
    """logp - other, clamped to +-20 nats."""
    return jnp.clip(logp_PGT - other_PGT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def change(tokens: Tokens) -> PGT:
    """d = logp - old_logp, clamped to +-20 nats; 0 outside the mask."""
    d_PGT = log_ratio(tokens.logp_PGT, tokens.old_logp_PGT)
    return jnp.where(tokens.mask_PGT, d_PGT, 0.0)


def ratio(tokens: Tokens) -> PGT:
    """r = exp(d); 1 outside the mask."""
    return jnp.exp(change(tokens))


def adv_PGT(tokens: Tokens) -> PGT:
    """Every token's advantage: that of its response."""
    return jnp.broadcast_to(tokens.adv_PG[:, :, None], tokens.logp_PGT.shape)


def real_PG(tokens: Tokens) -> Bool[Array, "P G"]:
    """Which responses are responses: those with a token."""
    return jnp.max(tokens.mask_PGT.astype(jnp.float32), axis=-1) > 0


def token_mean(x_PGT: PGT, tokens: Tokens) -> PG:
    """Mean over each response's tokens; 0 for a response without any."""
    return masked.mean(x_PGT, tokens.mask_PGT, axis=-1)


def spread(value_PG: PG | Bool[AnyArray, "P G"], tokens: Tokens) -> PGT:
    """A response's value at each of its tokens: `sequence_mean` takes it back together exactly."""
    return jnp.broadcast_to(
        value_PG.astype(jnp.float32)[:, :, None], tokens.logp_PGT.shape
    ) * tokens.mask_PGT.astype(jnp.float32)


def never(tokens: Tokens) -> PGT:
    """No token at a bound."""
    return jnp.zeros(tokens.logp_PGT.shape, jnp.float32)


def same_token(
    token_PGT: Int[AnyArray, "P G T"], mask_PGT: Bool[AnyArray, "P G T"]
) -> Bool[Array, "P G G T"]:
    """Whether responses i and j of a row have the same token at a place, both within the mask."""
    same_PGGT = token_PGT[:, :, None, :] == token_PGT[:, None, :, :]
    return same_PGGT & mask_PGT[:, :, None, :] & mask_PGT[:, None, :, :]
