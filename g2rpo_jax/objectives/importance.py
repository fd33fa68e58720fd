"""Weights for the gap between the policy that sampled and the same parameters in the trainer."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from g2rpo_jax import masked
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.tokens import LOG_RATIO_LIMIT, PGT, AnyArray, log_ratio

Weights = tuple[Float[Array, "P G T"], Float[Array, "P G T"]]


def importance_weights(
    options: Options,
    old_logp_PGT: PGT,
    sampler_logp_PGT: PGT,
    mask_PGT: Bool[AnyArray, "P G T"],
) -> Weights:
    """What each token's loss is multiplied by, without gradient.

    Args:
      options: which correction, of what, and its bounds.
      old_logp_PGT: the trainer's log-probs under the parameters that sampled: those that the ratio
        of the loss is taken against.
      sampler_logp_PGT: the rollout's log-probs of the same tokens.
      mask_PGT: generated tokens.
    Returns:
      (weight_PGT, cut_PGT): >= 0; and 1.0 where the bound changed it.
    """
    gap_PGT = jnp.where(mask_PGT, log_ratio(old_logp_PGT, sampler_logp_PGT), 0.0)
    gap_PGT = IMPORTANCE_LEVELS[options.importance_level](gap_PGT, mask_PGT)
    ratio_PGT = jnp.exp(jnp.clip(gap_PGT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return IMPORTANCE[options.importance](options, jnp.broadcast_to(ratio_PGT, mask_PGT.shape))


def uncorrected(options: Options, ratio_PGT: PGT) -> Weights:
    """Sampler and trainer are taken for the same policy.

        w = 1

    Source: GRPO (2024), where they are.
    """
    del options
    return jnp.ones_like(ratio_PGT), jnp.zeros_like(ratio_PGT)


def truncated(options: Options, ratio_PGT: PGT) -> Weights:
    """Truncated importance sampling (TIS): the ratio trainer / sampler, bounded from above.

        rho = exp(old_logp - sampler_logp) ;  w = min(rho, C)

    C = 2.

    Source: "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).
    """
    cut_PGT = ratio_PGT > options.importance_cap
    return jnp.minimum(ratio_PGT, options.importance_cap), cut_PGT.astype(jnp.float32)


def masked_ratio(options: Options, ratio_PGT: PGT) -> Weights:
    """Masked importance sampling (IcePop, MIS): the ratio where it is trusted, else nothing.

        rho = exp(old_logp - sampler_logp) ;  w = rho if low <= rho <= high, else 0

    0.5 and 5. Tokens of weight 0 still count in the loss's averages.

    Source: IcePop, in "Every Step Evolves: Scaling Reinforcement Learning for Trillion-Scale
    Thinking Model" (Ring-1T, 2025).
    """
    inside_PGT = (ratio_PGT >= options.importance_low) & (ratio_PGT <= options.importance_high)
    return jnp.where(inside_PGT, ratio_PGT, 0.0), 1.0 - inside_PGT.astype(jnp.float32)


IMPORTANCE = {"none": uncorrected, "truncated": truncated, "masked": masked_ratio}

# From log-ratios of tokens to those that are bounded: each its own, the response's sum (unbiased,
# of a variance that grows with its length), or the response's mean.
IMPORTANCE_LEVELS = {
    "token": lambda gap_PGT, mask_PGT: gap_PGT,
    "sequence": lambda gap_PGT, mask_PGT: masked.sum(gap_PGT, mask_PGT, -1, keepdims=True),
    "geometric": lambda gap_PGT, mask_PGT: masked.mean(gap_PGT, mask_PGT, -1, keepdims=True),
}
