"""Estimators that keep the order of rewards alone: G2RPO's family, and the win rate."""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import (
    PG,
    Group,
    State,
    components_of,
    valid_responses,
    z_score,
)
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.ranks import RANKS

SUM_GRID = 2.0**18  # sums of quantiles are taken on this grid: exact in float32 up to 64


def g2rpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Normal quantile of the reward's rank within its prompt (the paper's G2RPO).

        A_i = mean of sqrt(2) erfinv(2 (k - 0.5) / n - 1) over the ranks k that R_i shares

    Source: OpenVLThinkerV2, 2026, eqs. 5-8 and 13.
    """
    rank = RANKS[options.ranks].within_group
    return rank(group.reward_PG, valid_responses(group), options.unit_variance), state


def g2rpo_task(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Normal quantile of the reward's rank among all responses of its task in the batch.

        A_i = mean of sqrt(2) erfinv(2 (k - 0.5) / N - 1) over the ranks k that R_i shares

    Ranks are those in the task, N its valid responses. No prompt has a baseline: a solved one is
    pushed up, a failed one down, and groups of equal rewards keep their gradient.
    Cost: (P G)^2 comparisons.
    Source: OpenVLThinkerV2, 2026, as Algorithm 1 is worded; its equations are g2rpo's.
    """
    return _second_stage(group, group.reward_PG, options), state


def g2rpo_release(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """The authors' code (`gs_grpo`): ranks within the prompt, then ranks of those within the task.

        A_i = q(rank in the task of q(rank of R_i in its prompt)), q the quantiles of g2rpo

    The second stage mixes prompts, so a prompt's advantages no longer sum to 0, and a group of
    equal rewards gets what the middle of its task gets.
    Cost: (P G)^2 comparisons.
    Source: the code of OpenVLThinkerV2, 2026; not in the paper.
    """
    return _second_stage(group, _within_group(group, group.reward_PG, options), options), state


def gaussian_gdpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """The authors' code (`gs_gdpo`): first stage per reward component, summed; second as above.

        A_i = q(rank in the task of sum over components c of q(rank of R_i^c in its prompt))

    The first stage's quantiles are cut to multiples of 2^-18, so that their sum is exact: responses
    with the same quantiles in another order, or with some that cancel, stay tied. In floats such
    sums differ in the last bit, by the order of adding, and would be ranked by it.
    Cost: (P G)^2 comparisons.
    Source: the code of OpenVLThinkerV2, 2026; not in the paper.
    """
    total_PG = jnp.zeros(group.reward_PG.shape, jnp.float32)
    for component_PG in components_of(group, "gaussian_gdpo"):
        rank_PG = _within_group(group, component_PG, options)
        total_PG += (rank_PG * SUM_GRID).astype(jnp.int32).astype(jnp.float32)
    return _second_stage(group, total_PG / SUM_GRID, options), state


def win_rate(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Z-score of the share of its prompt's other responses that a response beats.

        W_i = (#{j: R_j < R_i} + #{j != i: R_j = R_i} / 2) / (n - 1)
        A_i = (W_i - mean(W)) / (std(W) + eps)

    Like g2rpo it keeps the order of rewards alone; the ranks stay evenly spaced.
    Source: Pref-GRPO, 2025, carried over: there a preference model compares pictures of a flow
    model; here the rewards are compared, and a tie is half a win.
    """
    valid_PG = valid_responses(group)
    mine_PG1, other_P1G, peer_P1G = (
        group.reward_PG[:, :, None],
        group.reward_PG[:, None, :],
        valid_PG[:, None, :],
    )
    below_PG = jnp.sum((other_P1G < mine_PG1) & peer_P1G, axis=2, dtype=jnp.float32)
    tied_PG = jnp.sum((other_P1G == mine_PG1) & peer_P1G, axis=2, dtype=jnp.float32)
    others_P1 = masked.count(valid_PG, axis=1, keepdims=True) - 1.0
    rate_PG = (below_PG + 0.5 * (tied_PG - 1.0)) / jnp.maximum(others_P1, 1.0)
    return z_score(rate_PG, valid_PG, options), state


def _within_group(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    return RANKS[options.ranks].within_group(value_PG, valid_responses(group))


def _second_stage(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    rank = RANKS[options.ranks].within_task
    valid_PG = valid_responses(group)
    return rank(value_PG, valid_PG, group.task_P, group.num_tasks, options.unit_variance)
