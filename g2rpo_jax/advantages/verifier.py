"""Estimators for a verifier that errs at known rates, one for all tasks or one for each.

A verifier says right of a wrong response with probability false_positive, and wrong of a right one
with probability false_negative. Correcting the reward is affine within a prompt, so whatever
divides by a standard deviation of the prompt (grpo) or ranks (g2rpo) is the same with it; it
matters where the scale is kept and tasks have unlike rates. Hence estimators of their own, not a
transform before all others.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, State, per_prompt, valid_responses
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.advantages.success import right


def verifier_backward(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Dr.GRPO on rewards corrected for the verifier's errors: unbiased for the true rewards.

        R^_i = (R_i - false_positive) / (1 - false_positive - false_negative)
        A_i = R^_i - mean(R^)

    A task whose verifier errs more is scaled up, so that in expectation each task weighs what it
    would with a perfect one.
    Source: Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect Verifiers,
    2025; on rewards between 0 and 1 it is carried over from the paper's 0 and 1.
    """
    positive_P1 = _rate(group, "false_positive", options.false_positive)
    negative_P1 = _rate(group, "false_negative", options.false_negative)
    centred_PG = masked.center(group.reward_PG, valid_responses(group), axis=1)
    return centred_PG / (1.0 - positive_P1 - negative_P1), state


def verifier_forward(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Weights whose mean, given what is true, points the right way; needs false_negative alone.

        A_i = false_negative if right else false_negative - 1

    In the mean over the verifier's errors a right response gets 0 and a wrong one
    -(1 - false_positive - false_negative): wrong responses are pushed down, nothing is pulled up.
    No baseline: a prompt without a right response keeps its gradient.
    Source: Reinforcement Learning with Verifiable yet Noisy Rewards under Imperfect Verifiers,
    2025 (likely: the paper's wording may differ).
    """
    negative_P1 = _rate(group, "false_negative", options.false_negative)
    adv_PG = right(group, options) - 1.0 + negative_P1
    return jnp.where(valid_responses(group), adv_PG, 0.0), state


def _rate(group: Group, field: str, rates: tuple[float, ...]) -> Float[Array, "P 1"]:
    if len(rates) not in (1, group.num_tasks):
        raise ValueError(
            f"advantage.{field} has {len(rates)} rates, but there are {group.num_tasks} tasks: give"
            " one for all, or one for each"
        )
    rate_K = jnp.broadcast_to(jnp.asarray(rates, jnp.float32), (group.num_tasks,))
    return per_prompt(group, rate_K)
