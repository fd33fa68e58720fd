"""Estimators that divide by a moving standard deviation of the task: EMA-GRPO, two readings."""

import dataclasses

import jax
import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, Leaf, one_hot, per_prompt, valid_responses
from g2rpo_jax.advantages.settings import AdvantageConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskScale:
    """State of ema_grpo: scale_K float32, the moving standard deviation; seen_K bool."""

    scale_K: Leaf
    seen_K: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskMoments:
    """State of ema_grpo_onethinker, float32: mean_K = m1, variance_K = m2 - m1^2; seen_K bool."""

    mean_K: Leaf
    variance_K: Leaf
    seen_K: Leaf


def ema_grpo(group: Group, state: TaskScale, options: AdvantageConfig) -> tuple[PG, TaskScale]:
    """Reward less its prompt's mean, over a moving average of the task's group stds.

        s_task <- decay s_task + (1 - decay) std(R),   A_i = (R_i - mean(R)) / (s_task + eps)

    Updated with the batch, then used. The paper leaves two things open: several groups of a task in
    one batch count with the mean of their standard deviations; a task seen for the first time
    starts from the batch's. Groups of fewer than two have none.
    Source: OneThinker, 2025, as eq. 3 of OpenVLThinkerV2 has it.
    """
    valid_PG = valid_responses(group)
    std_P1 = masked.std(group.reward_PG, valid_PG, axis=1, keepdims=True, ddof=options.ddof)
    pair_P1 = masked.count(valid_PG, axis=1, keepdims=True) >= 2
    here_PK = one_hot(group) * pair_P1
    groups_K = jnp.sum(here_PK, axis=0)
    batch_K = jnp.sum(here_PK * std_P1, axis=0) / jnp.maximum(groups_K, 1.0)
    keep_K = jnp.where(state.seen_K, options.ema_decay, 0.0)
    scale_K = keep_K * state.scale_K + (1.0 - keep_K) * batch_K
    present_K = groups_K > 0
    state = TaskScale(jnp.where(present_K, scale_K, state.scale_K), state.seen_K | present_K)
    scale_P1 = per_prompt(group, state.scale_K) + options.eps
    return masked.center(group.reward_PG, valid_PG, axis=1) / scale_P1, state


def ema_grpo_onethinker(
    group: Group, state: TaskMoments, options: AdvantageConfig
) -> tuple[PG, TaskMoments]:
    """EMA-GRPO as OneThinker's code has it: s_task from moving moments of all the task's rewards.

        m1, m2 <- decay m + (1 - decay) batch mean of R, R^2      (the batch's on first sight)
        s = max(sqrt(m2 - m1^2), ema_floor)
        A_i = (R_i - mean(R)) / (s + eps)

    A group with any |A| > ema_guard is divided by its own population std instead. So s holds the
    variance between prompts too, unlike eq. 3. The state is (m1, m2 - m1^2), updated in closed
    form: in float32, m2 - m1^2 would cancel.
    Source: the code of OneThinker: All-in-one Reasoning Model for Image and Video, 2025.
    """
    valid_PG = valid_responses(group)
    here_PK = one_hot(group)
    number_K = jnp.sum(here_PK * masked.count(valid_PG, axis=1, keepdims=True), axis=0)
    divisor_K = jnp.maximum(number_K, 1.0)
    sum_P1 = masked.sum(group.reward_PG, valid_PG, axis=1, keepdims=True)
    mean_K = jnp.sum(here_PK * sum_P1, axis=0) / divisor_K
    square_PG = jnp.square(group.reward_PG - per_prompt(group, mean_K))
    square_P1 = masked.sum(square_PG, valid_PG, axis=1, keepdims=True)
    variance_K = jnp.sum(here_PK * square_P1, axis=0) / divisor_K

    keep_K = jnp.where(state.seen_K, options.ema_decay, 0.0)
    between_K = keep_K * (1.0 - keep_K) * jnp.square(state.mean_K - mean_K)
    mixed_K = keep_K * state.variance_K + (1.0 - keep_K) * variance_K + between_K
    present_K = number_K > 0
    state = TaskMoments(
        jnp.where(present_K, keep_K * state.mean_K + (1.0 - keep_K) * mean_K, state.mean_K),
        jnp.where(present_K, mixed_K, state.variance_K),
        state.seen_K | present_K,
    )
    scale_K = jnp.maximum(jnp.sqrt(state.variance_K), options.ema_floor)
    centered_PG = masked.center(group.reward_PG, valid_PG, axis=1)
    adv_PG = centered_PG / (per_prompt(group, scale_K) + options.eps)
    own_P1 = masked.std(group.reward_PG, valid_PG, axis=1, keepdims=True) + options.eps
    wild_P1 = jnp.max(jnp.abs(adv_PG), axis=1, keepdims=True) > options.ema_guard
    return jnp.where(wild_P1, centered_PG / own_P1, adv_PG), state


def fresh_scale(num_tasks: int, num_rows: int) -> TaskScale:
    """No task seen yet."""
    return TaskScale(jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool))


def fresh_moments(num_tasks: int, num_rows: int) -> TaskMoments:
    """No task seen yet."""
    return TaskMoments(jnp.zeros(num_tasks), jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool))
