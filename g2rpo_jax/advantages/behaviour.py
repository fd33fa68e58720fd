"""Estimators that look at how a response was sampled: how likely it was, and how surprising.

`Group.surprise_PG` is the mean of -log p over a response's tokens, nats: an unbiased estimate of
its mean entropy H_i, noisy where responses are short. `Group.logp_PG` is the sum of log p. Both are
numbers here: no gradient flows into them.
"""

import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, State, Valid, valid_responses, z_score
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.advantages.success import right


def edge_grpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO, times the group's mean entropy over the response's own: sure responses move more.

        A_i = z_i mean_j(H_j) / H_i

    z_i is GRPO's z-score, H_i the response's `surprise_PG`, raised to `entropy_floor` where lower.
    So a confident mistake is punished most. A group of equal rewards keeps its exact zeros.
    Raises:
      ValueError: the group has no surprise_PG.
    Source: EDGE-GRPO: Entropy-Driven GRPO with Guided Error Correction for Advantage Diversity,
    2025: the scaling alone, without the guide that corrects wrong answers. Its code averages
    entropies over padding too.
    """
    valid_PG = valid_responses(group)
    entropy_PG = _entropy(group, valid_PG, options, "edge_grpo")
    mean_P1 = masked.mean(entropy_PG, valid_PG, axis=1, keepdims=True)
    return z_score(group.reward_PG, valid_PG, options) * (mean_P1 / entropy_PG), state


def unlikeliness(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO on rewards that are scaled down by how likely the response was: rare successes count.

        R_i <- R_i (1 - unlikeliness rank_i / n),   rank_i = 0 .. n-1 by rising log-likelihood

    `logp_PG` gives the ranks; equal ones share the mean of theirs. Meant for rewards >= 0: what
    is 0 stays 0. In a group of equal rewards above 0 the less likely response gains, by design.
    Raises:
      ValueError: the group has no logp_PG.
    Source: Rewarding the Unlikely: Lifting GRPO Beyond Distribution Sharpening, 2025.
    """
    valid_PG = valid_responses(group)
    if group.logp_PG is None:
        raise _missing("unlikeliness", "logp_PG", "the sum of log p of each response's tokens")
    logp_PG = jnp.where(valid_PG, group.logp_PG, 0.0)
    mine_PG1, other_P1G, peer_P1G = logp_PG[:, :, None], logp_PG[:, None, :], valid_PG[:, None]
    below_PG = masked.count((other_P1G < mine_PG1) & peer_P1G, axis=-1)
    equal_PG = masked.count((other_P1G == mine_PG1) & peer_P1G, axis=-1)  # itself among them
    rank_PG = below_PG + 0.5 * (equal_PG - 1.0)
    count_P1 = jnp.maximum(masked.count(valid_PG, axis=1, keepdims=True), 1.0)
    factor_PG = 1.0 - options.unlikeliness * rank_PG / count_P1
    reward_PG = jnp.where(valid_PG, group.reward_PG, 0.0) * factor_PG
    return z_score(reward_PG, valid_PG, options), state


def grpo_s(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO on rewards shaped by entropy: uncertain successes gain more, sure mistakes lose more.

        right: r_i =  1 + a d H_i / sum of right H
        wrong: r_i = -1 - a h (1 / H_i) / sum of wrong 1 / H
        A_i = z-score of r over the group

    d and h count the group's right and wrong responses, a is `entropy_share`, H_i the response's
    `surprise_PG`, raised to `entropy_floor` where lower. In a group that is all right or all wrong
    the entropies alone decide, by design. entropy_scope="sets" takes the z-score over the right and
    over the wrong ones apart, as the paper can be read: each set then sums to 0, and no response
    gains by being right.
    Raises:
      ValueError: the group has no surprise_PG.
    Source: GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy, 2025: the
    sequence form. Likely: versions of the paper differ.
    """
    valid_PG = valid_responses(group)
    entropy_PG = _entropy(group, valid_PG, options, "grpo_s")
    right_PG = right(group, options) > 0
    wrong_PG = valid_PG & ~right_PG
    gain_PG = 1.0 + options.entropy_share * _relative(entropy_PG, right_PG)
    loss_PG = 1.0 + options.entropy_share * _relative(1.0 / entropy_PG, wrong_PG)
    shaped_PG = jnp.where(right_PG, gain_PG, -loss_PG)
    parts = ENTROPY_SCOPES[options.entropy_scope](valid_PG, right_PG, wrong_PG)
    adv_PG = jnp.zeros(group.reward_PG.shape, jnp.float32)
    for part_PG in parts:
        adv_PG += z_score(shaped_PG, part_PG, options)
    return adv_PG, state


def _relative(value_PG: PG, mask_PG: Valid) -> PG:
    """Each value over its group's mean; 1 for all where all are equal."""
    mean_P1 = masked.mean(value_PG, mask_PG, axis=1, keepdims=True)
    return value_PG / jnp.where(mean_P1 > 0, mean_P1, 1.0)


def _entropy(group: Group, valid_PG: Valid, options: AdvantageConfig, name: str) -> PG:
    if group.surprise_PG is None:
        raise _missing(name, "surprise_PG", "the mean of -log p of each response's tokens, nats")
    return jnp.where(valid_PG, jnp.maximum(group.surprise_PG, options.entropy_floor), 1.0)


def _missing(name: str, field: str, what: str) -> ValueError:
    return ValueError(f"{name} looks at how responses were sampled: pass {field}, {what}")


ENTROPY_SCOPES = {
    "group": lambda valid_PG, right_PG, wrong_PG: (valid_PG,),
    "sets": lambda valid_PG, right_PG, wrong_PG: (right_PG, wrong_PG),
}
