"""Estimators that divide by a standard deviation of the group or the batch: GRPO, GDPO, ..."""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import (
    PG,
    Group,
    State,
    components_of,
    lengths,
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
    return _whitened(group, total_PG, "gdpo", options), state


def lite_ppo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt, over the standard deviation of the whole batch's rewards.

        A_i = (R_i - mean(R)) / (std of R over the batch + eps)

    A prompt of nearly equal rewards is not blown up as in grpo. The batch mixes tasks; the same by
    task is ema_grpo_onethinker with ema_decay=0.
    Source: Part I: Tricks or Traps? A Deep Dive into RL for LLM Reasoning (Lite PPO), 2025; TRL's
    scale_rewards="batch".
    """
    valid_PG = valid_responses(group)
    scale = masked.std(group.reward_PG, valid_PG, ddof=options.ddof) + options.eps
    return masked.center(group.reward_PG, valid_PG, axis=1) / scale, state


def reinforce_pp_baseline(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt, whitened over the batch.

        S_i = R_i - mean(R)
        A_i = (S_i - mean of S over the batch) / (std of S over the batch + eps)

    Whitening over tokens counts a response once per token, with the population std; verl's has a
    correction of 1 / (2 tokens), nothing at its batch sizes. Over responses, once with `ddof`; then
    the mean of S is 0. A response without tokens gets 0.
    Source: REINFORCE++: A Simple and Efficient Approach for Aligning Large Language Models, 2025.
    """
    centred_PG = masked.center(group.reward_PG, valid_responses(group), axis=1)
    return _whitened(group, centred_PG, "reinforce_pp_baseline", options), state


def ngrpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO's z-score, with one imagined best response among those that mean and std are taken of.

        A_i = (R_i - mean(R, best)) / (std(R, best) + eps),   best = ngrpo_best

    All-wrong groups get negative advantages; groups in which all earn the best reward get 0, other
    groups of equal rewards do not. The paper's narrower clip for gains is the loss's business.
    Source: NGRPO: Negative-enhanced Group Relative Policy Optimization, 2025.
    """
    valid_PG = valid_responses(group)
    best_P1 = jnp.full((valid_PG.shape[0], 1), options.ngrpo_best, jnp.float32)
    reward_PH = jnp.concatenate([group.reward_PG, best_P1], axis=1)
    any_P1 = masked.count(valid_PG, axis=1, keepdims=True) > 0
    valid_PH = jnp.concatenate([valid_PG, any_P1], axis=1)
    return z_score(reward_PH, valid_PH, options)[:, :-1], state


def _whitened(group: Group, value_PG: PG, name: str, options: AdvantageConfig) -> PG:
    weight_PG, ddof = WHITENINGS[options.whitening](group, name, options)
    scale = masked.std(value_PG, weight_PG, ddof=ddof) + options.eps
    return masked.center(value_PG, weight_PG) / scale


def _count_tokens(group: Group, name: str, options: AdvantageConfig) -> tuple[PG, int]:
    return lengths(group, name, instead=", or set advantage.whitening=responses"), 0


def _count_responses(group: Group, name: str, options: AdvantageConfig) -> tuple[PG, int]:
    return valid_responses(group).astype(jnp.float32), options.ddof


WHITENINGS = {"tokens": _count_tokens, "responses": _count_responses}
