"""Estimators that divide by a standard deviation of this batch: GRPO, GDPO."""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import (
    PG,
    Group,
    State,
    Valid,
    components_of,
    valid_responses,
    z_score,
)
from g2rpo_jax.advantages.settings import AdvantageConfig


def grpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Z-score of the reward within its prompt; one valid response gives 0 (verl gives R).

        A_i = (R_i - mean(R)) / (std(R) + eps)

    Source: DeepSeekMath: Pushing the Limits of Mathematical Reasoning, 2024 (eq. 2 of
    OpenVLThinkerV2).
    """
    return z_score(group.reward_PG, valid_responses(group), options), state


def gdpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO's z-score per reward component, summed, then whitened over the batch.

        S_i = sum over components c of (R_i^c - mean(R^c)) / (std(R^c) + eps)
        A_i = (S_i - mean of S over the batch) / (std of S over the batch + eps)

    Whitening over tokens counts a response once per token with the population std (NVlabs' verl,
    the release); over responses, once with `ddof` (TRL). A response without tokens gets 0.
    Source: GDPO: Group reward-Decoupled Normalization Policy Optimization, 2026.
    """
    valid_PG = valid_responses(group)
    total_PG = jnp.zeros(group.reward_PG.shape, jnp.float32)
    for component_PG in components_of(group, "gdpo"):
        total_PG += z_score(component_PG, valid_PG, options)
    weight_PG, ddof = WHITENINGS[options.gdpo_whitening](group, valid_PG, options)
    scale = masked.std(total_PG, weight_PG, ddof=ddof) + options.eps
    return masked.center(total_PG, weight_PG) / scale, state


def _token_whitening(group: Group, valid_PG: Valid, options: AdvantageConfig) -> tuple[PG, int]:
    if group.length_PG is None:
        raise ValueError(
            "gdpo whitens over tokens and got no response lengths: pass length_PG, or set"
            " gdpo_whitening='responses'"
        )
    return jnp.where(valid_PG, group.length_PG, 0).astype(jnp.float32), 0


WHITENINGS = {
    "tokens": _token_whitening,
    "responses": lambda group, valid_PG, options: (valid_PG.astype(jnp.float32), options.ddof),
}
