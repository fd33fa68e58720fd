"""Estimators that replace a reward by the normal quantile of its rank: G2RPO's family."""

import jax.numpy as jnp

from g2rpo_jax.advantages.group import PG, Group, State, components_of, valid_responses
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


def _within_group(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    return RANKS[options.ranks].within_group(value_PG, valid_responses(group))


def _second_stage(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    rank = RANKS[options.ranks].within_task
    valid_PG = valid_responses(group)
    return rank(value_PG, valid_PG, group.task_P, group.num_tasks, options.unit_variance)
