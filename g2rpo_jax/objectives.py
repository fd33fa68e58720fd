"""Policy losses: log-probs, advantages -> a loss per token; how tokens are averaged; KL.

A batch's loss is sum_PGT(weight * token_loss), with `aggregation_weights` of the **global** batch,
known before the backward pass: cutting the batch into micro-batches or devices is then an exact sum
and changes nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from g2rpo_jax.tables import lookup

AnyArray = Array | np.ndarray
PGT = Float[AnyArray, "P G T"]

# exp overflows float32 near 88; at 20 the ratio is already 5e8, far outside any clip. EasyR1's
# bound.
LOG_RATIO_LIMIT = 20.0


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """The policy loss.

    Attributes:
      name: entry of OBJECTIVES.
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      dual_clip: bound c > 1 on the loss of a negative advantage, -c * A; 0 switches it off.
      aggregation: entry of AGGREGATIONS. Paper: sequence_mean; the authors' release: token_mean.
      fixed_length: the constant token count that `fixed_length` divides by (Dr.GRPO).
      kl_coefficient: weight of the KL term to the reference policy; at 0 no reference copy is
        needed.
      kl_estimator: entry of KL_ESTIMATORS.
      sampler_gap: nats; with several minibatches, the sampler's log-probs serve as those that the
        ratio is taken against while |trainer - sampler| of recent steps (rollout/gap_max) was at
        most this; else the trainer computes them. 0: always computed.
    """

    name: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.3
    dual_clip: float = 3.0
    aggregation: str = "sequence_mean"
    fixed_length: int = 1024
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    sampler_gap: float = 0.0

    def __post_init__(self):
        lookup(OBJECTIVES, self.name, kind="objective")
        lookup(AGGREGATIONS, self.aggregation, kind="aggregation")
        lookup(KL_ESTIMATORS, self.kl_estimator, kind="KL estimator")
        if not 0 <= self.clip_low <= 1:
            raise ValueError(
                f"objective.clip_low={self.clip_low}: the ratio's lower bound is 1 - clip_low and a"
                " ratio is never negative; use a value in [0, 1]"
            )
        if not self.clip_high >= 0:
            raise ValueError(
                f"objective.clip_high={self.clip_high}: the upper bound 1 + clip_high must not lie"
                " below 1; use a value >= 0"
            )
        if self.dual_clip != 0 and not self.dual_clip > 1:
            raise ValueError(
                f"objective.dual_clip={self.dual_clip}: at 1 or below it would cut the first update"
                " too; use a value above 1, or 0 to switch it off"
            )
        if not self.fixed_length > 0:
            raise ValueError(
                f"objective.fixed_length={self.fixed_length}: losses are divided by it; use a"
                " positive token count"
            )
        if not self.kl_coefficient >= 0:
            raise ValueError(
                f"objective.kl_coefficient={self.kl_coefficient}: a negative weight rewards leaving"
                " the reference; use a value >= 0"
            )
        if not self.sampler_gap >= 0:
            raise ValueError(
                f"objective.sampler_gap={self.sampler_gap}: a gap is never negative; use a value"
                " >= 0 (0: log-probs are always computed)"
            )


def token_losses(
    config: ObjectiveConfig, logp_PGT: PGT, old_logp_PGT: PGT, adv_PG: Float[AnyArray, "P G"]
) -> tuple[Float[Array, "P G T"], Float[Array, "P G T"]]:
    """Loss of every token, to be minimised after weighting by `aggregation_weights`.

    Args:
      config: which objective, and its bounds.
      logp_PGT: log-probs (nats, <= 0) of the sampled tokens now; carries the gradient. Finite also
        under the mask.
      old_logp_PGT: the same when sampled, or at the start of the rollout batch; no gradient flows
        here.
      adv_PG: advantage of each response, the same for all its tokens; no gradient flows here.
    Returns:
      (loss_PGT, clipped_PGT): the loss, and 1.0 where clipping stops the token's gradient, else
      0.0.
    Raises:
      ValueError: unknown objective.
    """
    adv_PG1 = jax.lax.stop_gradient(jnp.asarray(adv_PG))[:, :, None]
    adv_PGT = jnp.broadcast_to(adv_PG1, logp_PGT.shape)
    objective = lookup(OBJECTIVES, config.name, kind="objective")
    return objective(config, jnp.asarray(logp_PGT), jax.lax.stop_gradient(old_logp_PGT), adv_PGT)


def clipped_surrogate(
    config: ObjectiveConfig, logp_PGT: PGT, old_logp_PGT: PGT, adv_PGT: PGT
) -> tuple[Float[Array, "P G T"], Float[Array, "P G T"]]:
    """PPO's pessimistic clip with separate bounds and, for A < 0, the dual clip.

        r = exp(clamp(logp - old_logp, -20, 20))
        e = max(-A r, -A clip(r, 1 - low, 1 + high));  if A < 0: e = min(e, -c A)

    On the first update r = 1 exactly and the gradient is the plain policy gradient -A grad logp.
    Source: OpenVLThinkerV2 eq. 14 (one clip, no dual); the dual clip is Ye et al.'s (2020), the
    separate bounds DAPO's; the authors' release has both.
    """
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    ratio_PGT = jnp.exp(_log_ratio(logp_PGT, old_logp_PGT))
    loss_PGT = jnp.maximum(-adv_PGT * ratio_PGT, -adv_PGT * jnp.clip(ratio_PGT, low, high))
    negative_PGT = adv_PGT < 0
    clipped_PGT = ((adv_PGT > 0) & (ratio_PGT > high)) | (negative_PGT & (ratio_PGT < low))
    if config.dual_clip:
        bound_PGT = -config.dual_clip * adv_PGT
        clipped_PGT |= negative_PGT & (ratio_PGT > config.dual_clip)
        loss_PGT = jnp.where(negative_PGT, jnp.minimum(loss_PGT, bound_PGT), loss_PGT)
    return loss_PGT, clipped_PGT.astype(jnp.float32)


def policy_gradient(
    config: ObjectiveConfig, logp_PGT: PGT, old_logp_PGT: PGT, adv_PGT: PGT
) -> tuple[Float[Array, "P G T"], Float[Array, "P G T"]]:
    """GPG's loss -A logp: no ratio, clip, reference or KL. Its alpha sits in the advantage.

    Source: GPG, "A Simple and Strong Reinforcement Learning Baseline for Model Reasoning" (2025).
    """
    del config, old_logp_PGT
    return -adv_PGT * logp_PGT, jnp.zeros(logp_PGT.shape, jnp.float32)


def aggregation_weights(
    name: str, mask_PGT: Bool[AnyArray, "P G T"] | PGT, fixed_length: int = 1024
) -> Float[Array, "P G T"]:
    """Weights w with loss = sum_PGT(w * token_loss), from the mask of the global batch.

    Args:
      name: entry of AGGREGATIONS.
      mask_PGT: true (or 1.0) at generated tokens that count. A response without any is not a
        response.
      fixed_length: constant of `fixed_length`; the others do not read it.
    Returns:
      float32; 0 outside the mask, and 0 everywhere if the mask is empty. `token_mean` and
      `sequence_mean` sum to 1.
    Raises:
      ValueError: unknown name.
    """
    mask_PGT = jnp.asarray(mask_PGT).astype(jnp.float32)
    return lookup(AGGREGATIONS, name, kind="aggregation")(mask_PGT, fixed_length)


def _token_mean(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Every token of the batch weighs the same: a long response weighs more (the release, DAPO)."""
    del fixed_length
    return mask_PGT / jnp.maximum(jnp.sum(mask_PGT), 1.0)


def _sequence_mean(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Mean over a response's tokens, then over responses (paper eqs. 1 and 14)."""
    del fixed_length
    length_PG1 = jnp.sum(mask_PGT, axis=-1, keepdims=True)
    return mask_PGT / jnp.maximum(length_PG1, 1.0) / _responses(mask_PGT)


def _fixed_length(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Sum over a response's tokens over a constant, then mean over responses (Dr.GRPO)."""
    return mask_PGT / fixed_length / _responses(mask_PGT)


def _responses(mask_PGT: PGT) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(jnp.max(mask_PGT, axis=-1)), 1.0)


def kl(estimator: str, logp_PGT: PGT, ref_logp_PGT: PGT) -> Float[Array, "P G T"]:
    """Estimate of KL(policy || reference) at each sampled token, in nats.

    With d = logp - ref_logp: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d; d is clamped to +-20.
    As values, on-policy, k1 and k3 are unbiased and k2 is not. As losses their expected gradients
    differ: k1's is 0 (nothing but noise), k2's is that of KL(policy || reference), k3's that of
    KL(reference || policy).

    Args:
      estimator: entry of KL_ESTIMATORS.
      logp_PGT: log-probs under the policy; carries the gradient.
      ref_logp_PGT: log-probs of the same tokens under the reference; no gradient flows here.
    Raises:
      ValueError: unknown estimator.
    Source: J. Schulman, "Approximating KL Divergence" (2020).
    """
    d_PGT = _log_ratio(jnp.asarray(logp_PGT), jax.lax.stop_gradient(ref_logp_PGT))
    return lookup(KL_ESTIMATORS, estimator, kind="KL estimator")(d_PGT)


def _log_ratio(logp_PGT: PGT, other_PGT: PGT) -> PGT:
    return jnp.clip(logp_PGT - other_PGT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


OBJECTIVES = {"clip": clipped_surrogate, "gpg": policy_gradient}

AGGREGATIONS = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "fixed_length": _fixed_length,
}

KL_ESTIMATORS = {
    "k1": lambda d_PGT: d_PGT,
    "k2": lambda d_PGT: 0.5 * jnp.square(d_PGT),
    "k3": lambda d_PGT: jnp.exp(-d_PGT) - 1.0 + d_PGT,
}
