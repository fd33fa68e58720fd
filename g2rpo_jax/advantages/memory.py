"""Estimators that remember prompts: a few numbers for each row of the training data.

The state holds float32 arrays [E] for E training rows, and `Group.row_P` says which row a prompt
is. A prompt of no known row (-1) has no past and leaves no trace; prompts of one row in one batch
are one visit of it. Rows are found by comparing and adding up, P x E comparisons for each array, so
nothing gathers or scatters.

Dynamic filtering keeps rows that were all right or all wrong from being seen, and so remembered:
these estimators are meant for `filter.enabled=False`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, Leaf, Valid, valid_responses
from g2rpo_jax.advantages.settings import AdvantageConfig

PRIOR = 0.5  # pseudo counts of success and of failure before the first visit (Jeffreys)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BetaTracker:
    """State of single_stream, float32 [E]: pseudo counts of success and of failure."""

    success_E: Leaf
    failure_E: Leaf

    @staticmethod
    def fresh(num_tasks: int, num_rows: int) -> "BetaTracker":
        """Before any visit."""
        del num_tasks
        prior_E = jnp.full(num_rows, PRIOR, jnp.float32)
        return BetaTracker(prior_E, prior_E)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RewardHistory:
    """State of dcpo_smooth, float32 [E]: number of visits; mean and std of all rewards so far."""

    visits_E: Leaf
    mean_E: Leaf
    std_E: Leaf

    @staticmethod
    def fresh(num_tasks: int, num_rows: int) -> "RewardHistory":
        """Before any visit."""
        del num_tasks
        return RewardHistory(jnp.zeros(num_rows), jnp.zeros(num_rows), jnp.zeros(num_rows))


def single_stream(
    group: Group, state: BetaTracker, options: AdvantageConfig
) -> tuple[PG, BetaTracker]:
    """Reward minus the row's remembered success rate, whitened over the batch; needs no group.

        v = a / (a + b);  A = (R - v - mean) / (std + eps)        over the batch's responses
        after:  a <- rho a + sum of R,  b <- rho b + sum of 1 - R

    The sums run over the row's responses of this batch: one for each prompt in the paper, whose
    method saves the group; with more the tracker learns faster and the rest is unchanged. They take
    R cut to 0..1. rho is `tracker_decay`; a and b start at 0.5. A group of equal rewards has
    advantages here, unless they are what was expected.
    Cost: P x E comparisons for E training rows.
    Raises:
      ValueError: the group has no row_P.
    Source: Single-stream Policy Optimization, 2025. The paper moves rho between 0.875 and 0.96 by
    how far the policy went since the row's last visit, which takes a scoring pass over kept
    responses, and starts from offline samples; rho is fixed here and nothing is sampled ahead.
    """
    valid_PG = valid_responses(group)
    here_PE = _here(_rows(group, valid_PG, "single_stream"), state.success_E.shape[0])
    known_P1 = jnp.any(here_PE, axis=1, keepdims=True)
    success_P1 = jnp.where(known_P1, _recall(state.success_E, here_PE), PRIOR)
    failure_P1 = jnp.where(known_P1, _recall(state.failure_E, here_PE), PRIOR)
    surprise_PG = group.reward_PG - success_P1 / (success_P1 + failure_P1)
    std = masked.std(surprise_PG, valid_PG, ddof=options.ddof)
    adv_PG = masked.center(surprise_PG, valid_PG) / (std + options.eps)
    score_PG = jnp.clip(jnp.where(valid_PG, group.reward_PG, 0.0), 0.0, 1.0)
    won_P1 = masked.sum(score_PG, valid_PG, axis=1, keepdims=True)
    lost_P1 = masked.sum(1.0 - score_PG, valid_PG, axis=1, keepdims=True)
    met_E = jnp.any(here_PE, axis=0)
    rho = jnp.where(met_E, options.tracker_decay, 1.0)
    state = BetaTracker(
        rho * state.success_E + _add_up(won_P1, here_PE),
        rho * state.failure_E + _add_up(lost_P1, here_PE),
    )
    return adv_PG, state


def dcpo_smooth(
    group: Group, state: RewardHistory, options: AdvantageConfig
) -> tuple[PG, RewardHistory]:
    """GRPO blended with a z-score over all the row's rewards so far, the smaller of two blends.

        mu_t  = ((i-1) mu_old + mu_n) / i
        var_t = [(i-1) sd_old^2 + sd_n^2 + (i-1)/i (mu_n - mu_old)^2] / i
        A_n = (R - mu_n) / sd_n,  A_t = (R - mu_t) / sd_t         (0 where the std is 0)
        S1 = (i-1)/i A_n + 1/i A_t,  S2 = 1/i A_n + (i-1)/i A_t
        A = whichever of S1 and S2 is nearer to 0

    at the i-th visit of a row; n: this visit's rewards, t: all so far, old: those before. The first
    visit is GRPO without eps. From the second on a group of equal rewards has advantages too, if
    they differ from the row's past: that is the point.
    Cost: P x E comparisons for E training rows.
    Raises:
      ValueError: the group has no row_P.
    Source: DCPO: Dynamic Clipping Policy Optimization, 2025: the smoothed advantage. Its clip
    bounds and its aggregation are the loss's business.
    """
    valid_PG = valid_responses(group)
    row_P = _rows(group, valid_PG, "dcpo_smooth")
    here_PE = _here(row_P, state.visits_E.shape[0])
    mean_P1, std_P1 = _of_visit(group.reward_PG, valid_PG, row_P, options.ddof)
    old_mean_P1, old_std_P1 = _recall(state.mean_E, here_PE), _recall(state.std_E, here_PE)
    old_visits_P1 = _recall(state.visits_E, here_PE)
    visits_P1 = old_visits_P1 + 1.0
    new_P1 = 1.0 / visits_P1
    # So written, equal rewards of all visits keep their mean to the bit, and the std at 0.
    step_P1 = mean_P1 - old_mean_P1
    all_mean_P1 = old_mean_P1 + new_P1 * step_P1
    squares_P1 = old_visits_P1 * (jnp.square(old_std_P1) + new_P1 * jnp.square(step_P1))
    all_std_P1 = jnp.sqrt(new_P1 * (squares_P1 + jnp.square(std_P1)))

    now_PG = _scaled(group.reward_PG - mean_P1, std_P1)
    ever_PG = _scaled(group.reward_PG - all_mean_P1, all_std_P1)
    first_PG = now_PG + new_P1 * (ever_PG - now_PG)
    second_PG = ever_PG + new_P1 * (now_PG - ever_PG)
    adv_PG = jnp.where(jnp.abs(first_PG) < jnp.abs(second_PG), first_PG, second_PG)
    numbers = (visits_P1, all_mean_P1, all_std_P1)
    kept = (state.visits_E, state.mean_E, state.std_E)
    # Prompts of one row carry the same numbers: the first of them leaves its own.
    earlier_PQ = jnp.tril(_same(row_P), -1)
    written_PE = here_PE & ~jnp.any(earlier_PQ, axis=1, keepdims=True)
    met_E = jnp.any(here_PE, axis=0)
    state = RewardHistory(
        *(
            jnp.where(met_E, _add_up(number_P1, written_PE), old_E)
            for number_P1, old_E in zip(numbers, kept, strict=True)
        )
    )
    return jnp.where(valid_PG, adv_PG, 0.0), state


def _rows(group: Group, valid_PG: Valid, name: str) -> Int[Array, " P"]:
    """Which row each prompt is; -1 where unknown, and without a valid response."""
    if group.row_P is None:
        raise ValueError(
            f"{name} remembers prompts and was not told which they are: pass row_P, the training "
            "row of each prompt (-1: none), and num_rows, how many rows there are"
        )
    return jnp.where(jnp.any(valid_PG, axis=1), group.row_P, -1)


def _here(row_P: Int[Array, " P"], rows: int) -> Bool[Array, "P E"]:
    return row_P[:, None] == jnp.arange(rows, dtype=jnp.int32)[None, :]


def _same(row_P: Int[Array, " P"]) -> Bool[Array, "P Q"]:
    """Whether two prompts are one row; every prompt is its own."""
    known_PQ = (row_P[:, None] == row_P[None, :]) & (row_P[:, None] >= 0)
    return known_PQ | jnp.eye(row_P.shape[0], dtype=bool)


def _recall(value_E: Float[Array, " E"], here_PE: Bool[Array, "P E"]) -> Float[Array, "P 1"]:
    """What is kept for each prompt's row; 0 for none."""
    return jnp.sum(jnp.where(here_PE, value_E[None, :], 0.0), axis=1, keepdims=True)


def _add_up(value_P1: Float[Array, "P 1"], here_PE: Bool[Array, "P E"]) -> Float[Array, " E"]:
    """The sum of the prompts' numbers by row."""
    return jnp.sum(jnp.where(here_PE, value_P1, 0.0), axis=0)


def _of_visit(
    reward_PG: PG, valid_PG: Valid, row_P: Int[Array, " P"], ddof: int
) -> tuple[Float[Array, "P 1"], Float[Array, "P 1"]]:
    """Mean and standard deviation of the valid rewards of each prompt's row in this batch.

    Equal rewards have exactly themselves as mean and 0 as deviation, however many there are.
    """
    prompts = reward_PG.shape[0]
    shape = (prompts, *reward_PG.shape)
    reward_PQG = jnp.broadcast_to(jnp.where(valid_PG, reward_PG, 0.0)[None], shape)
    mask_PQG = jnp.broadcast_to(valid_PG[None], shape) & _same(row_P)[:, :, None]
    top = jnp.finfo(jnp.float32).max
    lowest_P11 = jnp.min(jnp.where(mask_PQG, reward_PQG, top), axis=(1, 2), keepdims=True)
    lowest_P11 = jnp.where(lowest_P11 == top, 0.0, lowest_P11)
    mean_P = masked.mean(reward_PQG - lowest_P11, mask_PQG, axis=(1, 2)) + lowest_P11[:, 0, 0]
    std_P = masked.std(reward_PQG, mask_PQG, axis=(1, 2), ddof=ddof)
    return mean_P[:, None], std_P[:, None]


def _scaled(value_PG: PG, std_P1: Float[Array, "P 1"]) -> PG:
    return jnp.where(std_P1 > 0, value_PG / jnp.where(std_P1 > 0, std_P1, 1.0), 0.0)
