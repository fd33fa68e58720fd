"""Estimators that take a baseline off the reward and leave its scale: Dr.GRPO, RLOO, GPG."""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, State, count_any, valid_responses, z_score
from g2rpo_jax.advantages.settings import AdvantageConfig


def dr_grpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt; Dr.GRPO's other half is the `fixed_length` aggregation.

        A_i = R_i - mean(R)

    Source: Understanding R1-Zero-Like Training: A Critical Perspective, 2025.
    """
    del options
    return masked.center(group.reward_PG, valid_responses(group), axis=1), state


def rloo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt's other responses; 0 where there is no other.

        A_i = R_i - mean of R_j over j != i = n / (n - 1) (R_i - mean(R))

    Source: Back to Basics: Revisiting REINFORCE Style Optimization, 2024.
    """
    del options
    valid_PG = valid_responses(group)
    count_P1 = masked.count(valid_PG, axis=1, keepdims=True)
    factor_P1 = count_P1 / jnp.maximum(count_P1 - 1.0, 1.0)
    return masked.center(group.reward_PG, valid_PG, axis=1) * factor_P1, state


def gpg(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt, scaled up by the share of prompts that carry a gradient.

        A_i = alpha (R_i - mean(R)) / F_norm,   alpha = B / (B - M)

    B prompts have a valid response and M of them no gradient, their rewards being all equal; alpha
    makes up for those. F_norm is 1, or std + eps with gpg_scale="std". Accumulating batches until
    the valid share reaches beta_th is the loop's business.
    Source: GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning, 2025, eq.
    for alpha; verl's version counts rewards that are not 0 instead.
    """
    valid_PG = valid_responses(group)
    adv_PG = GPG_SCALES[options.gpg_scale](group.reward_PG, valid_PG, options)
    prompts = count_any(valid_PG)
    alive = count_any(adv_PG != 0)
    return adv_PG * (prompts / jnp.maximum(alive, 1.0)), state


GPG_SCALES = {
    "none": lambda value_PG, valid_PG, options: masked.center(value_PG, valid_PG, axis=1),
    "std": z_score,
}
