"""RiskPO: prompts in bundles, and a measure of risk in place of the group's mean."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from g2rpo_jax import masked
from g2rpo_jax.advantages.group import PG, Group, Leaf, valid_responses
from g2rpo_jax.advantages.settings import AdvantageConfig

SMALL = 1e-3  # a deviation up to here counts as none: it may be rounding alone


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrackedQuantiles:
    """State of risk_po: low and high float32 scalars; seen bool."""

    low: Leaf
    high: Leaf
    seen: Leaf

    @staticmethod
    def fresh(num_tasks: int, num_rows: int) -> "TrackedQuantiles":
        """Before any batch."""
        del num_tasks, num_rows
        return TrackedQuantiles(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), bool))


def risk_po(
    group: Group, state: TrackedQuantiles, options: AdvantageConfig
) -> tuple[PG, TrackedQuantiles]:
    """Papers of several prompts, judged by how deep they lie in the lower tail of all papers.

        S_j = sum of the j-th responses' rewards of a bundle of prompts
        rvar_j = [max(S_j - q_d, 0) - max(S_j - q_u, 0) - (q_u - q_d)] / (a_u - a_d)
        cvar_j = -max(q_d - S_j, 0) / a_d
        P_j = (w cvar_j + rvar_j) / (w + 1) / (sd of the bundle's S + eps)
        A_i = P_j, shared out among the paper's responses by `risk_credit`
        after:  q <- q + risk_rate (a - share of papers with S < q)

    Bundles are `risk_bundle` prompts that follow each other in the batch: their order matters here.
    a_d and a_u are `risk_low` and `risk_high`, w is `risk_mix`; -(q_u - q_d), with which no
    advantage is above 0, is left out with risk_baseline=False. q_d and q_u start as the first
    batch's quantiles. Where a paper lacks responses its sum is scaled up; where the papers of a
    bundle score alike nothing is divided (the authors divide by eps).
    Source: RiskPO: Risk-based Policy Optimization via Verifiable Reward for LLM Post-Training,
    2025, and its code, where the first batch takes the quantiles of each bundle.
    """
    valid_PG = valid_responses(group)
    prompts, responses = group.reward_PG.shape
    size = options.risk_bundle
    bundles = -(-prompts // size)
    shape = (bundles, size, responses)
    spare = ((0, bundles * size - prompts), (0, 0))
    reward_NBG = jnp.pad(jnp.where(valid_PG, group.reward_PG, 0.0), spare).reshape(shape)
    valid_NBG = jnp.pad(valid_PG, spare).reshape(shape)

    # Equal rewards score alike to the bit, however many responses a paper has.
    top = jnp.finfo(jnp.float32).max
    lowest = jnp.min(jnp.where(valid_NBG, reward_NBG, top))
    lowest = jnp.where(lowest == top, 0.0, lowest)
    score_NG = size * (masked.mean(reward_NBG - lowest, valid_NBG, axis=1) + lowest)
    paper_NG = masked.count(valid_NBG, axis=1) > 0
    low = jnp.where(state.seen, state.low, _quantile(score_NG, paper_NG, options.risk_low))
    high = jnp.where(state.seen, state.high, _quantile(score_NG, paper_NG, options.risk_high))
    rvar_NG = jnp.maximum(score_NG - low, 0.0) - jnp.maximum(score_NG - high, 0.0)
    if options.risk_baseline:
        rvar_NG -= high - low
    cvar_NG = -jnp.maximum(low - score_NG, 0.0) / options.risk_low
    risk_NG = options.risk_mix * cvar_NG + rvar_NG / (options.risk_high - options.risk_low)
    std_N1 = masked.std(score_NG, paper_NG, axis=1, keepdims=True, ddof=options.ddof)
    scale_N1 = jnp.where(std_N1 > SMALL, std_N1 + options.eps, 1.0)
    value_NG = risk_NG / (options.risk_mix + 1.0) / scale_N1

    credit_NBG = CREDITS[options.risk_credit](reward_NBG, valid_NBG, options)
    adv_NBG = jnp.broadcast_to(value_NG[:, None, :] * credit_NBG, shape)
    adv_PG = adv_NBG.reshape(bundles * size, responses)[:prompts]
    some = masked.count(paper_NG) > 0
    # On first sight the quantiles are the batch's own; from then on they take steps.
    rate = jnp.where(state.seen, options.risk_rate, 0.0)
    number = jnp.maximum(masked.count(paper_NG), 1.0)
    low_step = options.risk_low - masked.count(paper_NG & (score_NG < low)) / number
    high_step = options.risk_high - masked.count(paper_NG & (score_NG < high)) / number
    state = TrackedQuantiles(
        jnp.where(some, low + rate * low_step, state.low),
        jnp.where(some, high + rate * high_step, state.high),
        state.seen | some,
    )
    return jnp.where(valid_PG, adv_PG, 0.0), state


def _quantile(
    value_NG: Float[Array, "N G"], mask_NG: Bool[Array, "N G"], level: float
) -> Float[Array, ""]:
    """Quantile of the values under the mask, interpolated; 0 for none. By counting, unsorted."""
    value_N, mask_N = value_NG.reshape(-1), mask_NG.reshape(-1)
    below_N = masked.count((value_N[None, :] < value_N[:, None]) & mask_N[None, :], axis=1)
    upto_N = masked.count((value_N[None, :] <= value_N[:, None]) & mask_N[None, :], axis=1)
    last = jnp.maximum(masked.count(mask_N) - 1.0, 0.0)
    place = level * last
    lower, top = jnp.floor(place), jnp.finfo(jnp.float32).max

    def at(rank: Float[Array, ""]) -> Float[Array, ""]:
        here_N = mask_N & (below_N <= rank) & (rank < upto_N)  # all of one value
        return jnp.min(jnp.where(here_N, value_N, top))

    low, high = at(lower), at(jnp.minimum(lower + 1.0, last))
    return jnp.where(low == top, 0.0, low + (place - lower) * (high - low))


def _by_mean(
    reward_NBG: Float[Array, "N B G"], valid_NBG: Bool[Array, "N B G"]
) -> Float[Array, "N B G"]:
    """Each response's share of its paper's deviations from the prompts' means; may be negative."""
    deviation_NBG = masked.center(reward_NBG, valid_NBG, axis=2)
    sum_N1G = masked.sum(deviation_NBG, valid_NBG, axis=1, keepdims=True)
    count_N1G = jnp.maximum(masked.count(valid_NBG, axis=1, keepdims=True), 1.0)
    some_N1G = jnp.abs(sum_N1G) > 1e-6
    share_NBG = deviation_NBG / jnp.where(some_N1G, sum_N1G, 1.0)
    return jnp.where(some_N1G, share_NBG, 1.0 / count_N1G)


def _by_std(
    reward_NBG: Float[Array, "N B G"], valid_NBG: Bool[Array, "N B G"], options: AdvantageConfig
) -> Float[Array, "N B 1"]:
    std_NB1 = masked.std(reward_NBG, valid_NBG, axis=2, keepdims=True, ddof=options.ddof)
    return 1.0 / (jnp.where(std_NB1 > SMALL, std_NB1, 1.0) + options.eps)


CREDITS = {
    "uniform": lambda reward_NBG, valid_NBG, options: 1.0,
    "score": lambda reward_NBG, valid_NBG, options: jnp.where(reward_NBG > 0, 0.5, 1.5),
    "std": _by_std,
    "sum_mean": lambda reward_NBG, valid_NBG, options: _by_mean(reward_NBG, valid_NBG),
}
