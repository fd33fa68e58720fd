"""Estimators that take a baseline off the reward: Dr.GRPO, RLOO, OPO, AsymRE, GPG, pass@k."""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import (
    PG,
    Group,
    State,
    count_any,
    lengths,
    valid_responses,
    z_score,
)
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


def opo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt weighted by response length, the baseline of least variance.

        A_i = R_i - sum_j L_j R_j / sum_j L_j,   L_j tokens of response j

    A response without tokens gets 0, and so does the only response of a prompt (verl gives R).
    Source: On-Policy RL with Optimal Reward Baseline, 2025.
    """
    del options
    return masked.center(group.reward_PG, lengths(group, "opo"), axis=1), state


def asymre(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - a baseline that lies off the prompt's mean by asymre_shift.

        A_i = R_i - (mean(R) + asymre_shift)

    Below the mean (a negative shift) right responses weigh more than wrong ones, which old samples
    bear better; groups of equal rewards get -asymre_shift.
    Source: Asymmetric REINFORCE for off-Policy Reinforcement Learning, 2025; the default shift as
    in Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm, 2025.
    """
    valid_PG = valid_responses(group)
    adv_PG = masked.center(group.reward_PG, valid_PG, axis=1) - options.asymre_shift
    return jnp.where(valid_PG, adv_PG, 0.0), state


def grpo_passk(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Only the prompt's best response is trained on, by how far it leads the second best.

        A_best = (R_best - R_second) / (std(R) + eps),   all others 0

    Nothing is divided with passk_scale="none". Where two share the best reward nobody leads: 0.
    Source: verl's `grpo_passk`, after Optimizing Language Models for Inference Time Objectives
    using Reinforcement Learning, 2025.
    """
    valid_PG = valid_responses(group)
    reward_PG = jnp.where(valid_PG, group.reward_PG, 0.0)
    least = -jnp.finfo(jnp.float32).max  # finite: no infinities in device code
    best_P1 = jnp.max(jnp.where(valid_PG, reward_PG, least), axis=1, keepdims=True)
    best_PG = valid_PG & (reward_PG == best_P1)
    behind_PG = valid_PG & ~best_PG
    second_P1 = jnp.max(jnp.where(behind_PG, reward_PG, least), axis=1, keepdims=True)
    alone_P1 = masked.count(best_PG, axis=1, keepdims=True) == 1
    leads_PG = best_PG & alone_P1 & (second_P1 > least)
    lead_PG = jnp.where(leads_PG, reward_PG - second_P1, 0.0)
    if options.passk_scale == "none":
        return lead_PG, state
    std_P1 = masked.std(reward_PG, valid_PG, axis=1, keepdims=True, ddof=options.ddof)
    return lead_PG / (std_P1 + options.eps), state


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
