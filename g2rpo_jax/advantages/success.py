"""Estimators that look at how many responses of a prompt are right: MAPO, BNPO, GRPO-LEAD, ...

Right means an accuracy of at least `options.success`: of the component of that name where there is
one, else of the reward itself. On rewards of 0 and 1 that is what the papers count.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, State, valid_responses, z_score
from g2rpo_jax.advantages.settings import AdvantageConfig

BNPO_TEMPER = 3.0  # the fitted exponents are divided by it
BNPO_CAP = 1e6  # weights at most
NOISE_EPS = 1e-8  # under the roots of the noise-aware weight
FLAT = 1e8  # exponents of a Beta density at most: float32 cannot tell steeper ones apart


def mapo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Blend of GRPO's z-score and the deviation relative to the mean, by how certain the group is.

        A_i = w (R_i - mean(R)) / (std(R) + eps) + (1 - w) (R_i - mean(R)) / (mean(R) + eps)
        w = 4 p (1 - p),   p the share of right responses

    Rewards are 0 or more; without a positive mean the second part is 0. For small p it is large,
    +5.0 / -0.72 for one right response of eight.
    Source: MAPO: Mixed Advantage Policy Optimization, 2025.
    """
    valid_PG = valid_responses(group)
    share_P1 = masked.mean(right(group, options), valid_PG, axis=1, keepdims=True)
    weight_P1 = 4.0 * share_P1 * (1.0 - share_P1)
    z_PG = z_score(group.reward_PG, valid_PG, options)
    return weight_P1 * z_PG + (1.0 - weight_P1) * _relative(group, options), state


def maxrl(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt, over that mean: towards the gradient of log p instead of p.

        A_i = (R_i - mean(R)) / (mean(R) + eps)

    With n responses of reward 0 or 1, its mean is the gradient of log p = - sum of (1 - p)^k / k,
    cut off after k = n - 1. Rewards are 0 or more; without a positive mean it is 0.
    Source: Maximum Likelihood Reinforcement Learning, 2026.
    """
    return _relative(group, options), state


def bnpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt, divided by a Beta density fitted to the batch's success rates.

        A_i = (R_i - p) min(1 / Beta(p; alpha, beta), 1e6),   p = mean(R)
        alpha = max(1 + a / 3, 1),   a = (m (1 - m) / v - 1) m
        beta  = max(1 + b / 3, 1),   b = (m (1 - m) / v - 1) (1 - m)

    m and v are mean and sample variance of p over the batch's prompts. Rewards lie in [0, 1]. Where
    v is 0 nothing can be fitted and the density counts as 1: dr_grpo. TRL's loss of this name is
    something else.
    Source: BNPO: Beta Normalization Policy Optimization, 2025.
    """
    del options
    valid_PG = valid_responses(group)
    share_P = masked.mean(group.reward_PG, valid_PG, axis=1)
    prompt_P = masked.count(valid_PG, axis=1) > 0
    mean = masked.mean(share_P, prompt_P)
    variance = jnp.square(masked.std(share_P, prompt_P, ddof=1))
    known = variance > 0
    precision = mean * (1.0 - mean) / jnp.where(known, variance, 1.0) - 1.0
    alpha, beta = (
        jnp.clip(1.0 + precision * side / BNPO_TEMPER, 1.0, FLAT) for side in (mean, 1.0 - mean)
    )
    log_weight_P = jnp.minimum(-_log_beta_density(share_P, alpha, beta), np.log(BNPO_CAP))
    weight_P = jnp.where(known, jnp.exp(log_weight_P), 1.0)
    return masked.center(group.reward_PG, valid_PG, axis=1) * weight_P[:, None], state


def grpo_lead(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO's z-score times a weight that grows with the prompt's difficulty.

        A_i = z_i w(p) if z_i > 0 else z_i w(1 - p),   z_i = (R_i - mean(R)) / (std(R) + eps)
        w(x) = lead_low + lead_span / (1 + exp(lead_slope (x - lead_middle)))

    p is the share of right responses. The paper's length-decayed reward is not part of this: it
    is a length reward, and shaping has others.
    Source: GRPO-LEAD: A Difficulty-Aware Reinforcement Learning Approach, 2025 (the weight).
    """
    valid_PG = valid_responses(group)
    share_P1 = masked.mean(right(group, options), valid_PG, axis=1, keepdims=True)
    z_PG = z_score(group.reward_PG, valid_PG, options)

    def weight(x_P1: Float[Array, "P 1"]) -> Float[Array, "P 1"]:
        steep_P1 = jnp.exp(options.lead_slope * (x_P1 - options.lead_middle))
        return options.lead_low + options.lead_span / (1.0 + steep_P1)

    return z_PG * jnp.where(z_PG > 0, weight(share_P1), weight(1.0 - share_P1)), state


def noise_aware(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO's z-score, shrunk where the group's success rate could be flipped labels alone.

        A_i = w (R_i - mean(R)) / (std(R) + eps)
        w = (1 - 2 f) t (1 - t) / (sqrt(q (1 - q) + e) sqrt(t (1 - t) + e))
        t = clip((q - f) / (1 - 2 f), 0, 1)

    q is the share of right responses, f the flip_rate, e = 1e-8. With f = 0 it is grpo, up to e.
    Source: Mitigating Think-Answer Mismatch in LLM Reasoning Through Noise-Aware Advantage
    Reweighting (S-GRPO), 2025.
    """
    valid_PG = valid_responses(group)
    q_P1 = masked.mean(right(group, options), valid_PG, axis=1, keepdims=True)
    keep = 1.0 - 2.0 * options.flip_rate
    t_P1 = jnp.clip((q_P1 - options.flip_rate) / keep, 0.0, 1.0)
    seen_P1, true_P1 = q_P1 * (1.0 - q_P1), t_P1 * (1.0 - t_P1)
    root_P1 = jnp.sqrt(seen_P1 + NOISE_EPS) * jnp.sqrt(true_P1 + NOISE_EPS)
    return keep * true_P1 / root_P1 * z_score(group.reward_PG, valid_PG, options), state


def raft(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Right responses alone are trained on; there is no baseline.

        A_i = max(R_i, 0), rewards of +1 for right and -1 for wrong

    A prompt whose responses are all right keeps its gradient. With the clipped ratio loss it is
    RAFT++.
    Source: A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce, 2025.
    """
    return right(group, options), state


def reinforce_rej(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """The bare reward, of prompts whose responses are neither all right nor all wrong.

        A_i = R_i if std(R) > 0 else 0, rewards of +1 for right and -1 for wrong

    Source: A Minimalist Approach to LLM Reasoning: from Rejection Sampling to Reinforce, 2025.
    """
    valid_PG = valid_responses(group)
    right_PG = right(group, options)
    share_P1 = masked.mean(right_PG, valid_PG, axis=1, keepdims=True)
    mixed_P1 = (share_P1 > 0) & (share_P1 < 1)
    return jnp.where(valid_PG & mixed_P1, 2.0 * right_PG - 1.0, 0.0), state


def right(group: Group, options: AdvantageConfig) -> PG:
    """1.0 where a response is valid and right (see the top of the file), else 0.0."""
    accuracy_PG = group.components.get("accuracy", group.reward_PG)
    right_PG = valid_responses(group) & (accuracy_PG >= options.success)
    return right_PG.astype(jnp.float32)


def _relative(group: Group, options: AdvantageConfig) -> PG:
    valid_PG = valid_responses(group)
    mean_P1 = masked.mean(group.reward_PG, valid_PG, axis=1, keepdims=True)
    centred_PG = masked.center(group.reward_PG, valid_PG, axis=1)
    positive_P1 = mean_P1 > 0
    return jnp.where(
        positive_P1, centred_PG / (jnp.where(positive_P1, mean_P1, 1.0) + options.eps), 0.0
    )


def _log_beta_density(
    p_P: Float[Array, " P"], alpha: Float[Array, ""], beta: Float[Array, ""]
) -> Float[Array, " P"]:
    """log Beta(p; alpha, beta), alpha and beta at least 1, by Binet's form of log gamma.

    Around p = alpha / (alpha + beta) the large terms cancel before they are rounded; a difference
    of log gammas would not, and Neuron has no log gamma.
    """
    tiny = 1e-7
    p_P = jnp.clip(p_P, tiny, 1.0 - tiny)
    total = alpha + beta
    middle, rest = jnp.log(alpha / total), jnp.log(beta / total)
    shape_P = (alpha - 1.0) * (jnp.log(p_P) - middle) + (beta - 1.0) * (jnp.log1p(-p_P) - rest)
    scale = 0.5 * (jnp.log(total) - middle - rest - np.log(2.0 * np.pi))
    return shape_P + scale - (_binet(alpha) + _binet(beta) - _binet(total))


def _binet(x: Float[Array, ""]) -> Float[Array, ""]:
    """log gamma(x) - ((x - 1/2) log x - x + log(2 pi) / 2) for x >= 1, to 1e-6."""
    steps = [(x + i + 0.5) * jnp.log1p(1.0 / (x + i)) - 1.0 for i in range(3)]
    far = 1.0 / (x + 3.0)
    return sum(steps) + far / 12.0 - far**3 / 360.0 + far**5 / 1260.0
