"""Length rewards: what a response earns for its number of tokens.

Each form is `(lengths, options) -> reward_PG`; LENGTH_FORMS at the foot names them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from g2rpo_jax.shaping.options import ShapingConfig
from g2rpo_jax.tables import lookup

Leaf = Any  # an array; something else while JAX maps over the structure
PG = Float[Array, "P G"]

NEVER_TOKENS = 1e9  # a band out there rewards no response at all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lengths:
    """What a length reward sees of P prompts with G responses each.

    Attributes:
      length_PG: response lengths in **tokens**, integer or float.
      accuracy_PG: raw accuracy in [0, 1], float32.
      band_P4: corners of each prompt's trapezoid (minimum, low, high, maximum), float32, in tokens.
      limit_P: tokens that a response to the prompt may have, float32.
      step: steps that the run has finished, a float32 scalar.
    """

    length_PG: Leaf
    accuracy_PG: Leaf
    band_P4: Leaf
    limit_P: Leaf
    step: Leaf


def length_bands(corners: Sequence[Sequence[int | float] | None]) -> Float[np.ndarray, "K 4"]:
    """Corners of each task's trapezoid, float32 [K, 4], in tokens.

    Args:
      corners: one (minimum, low, high, maximum) per task id; None: no length reward.
    Raises:
      ValueError: corners that are not four finite numbers in ascending order from 0; names the task
        id.
    """
    rows = []
    for task, corner in enumerate(corners):
        values = [NEVER_TOKENS] * 4 if corner is None else [float(value) for value in corner]
        finite = all(math.isfinite(value) and value >= 0 for value in values)
        if len(values) != 4 or not finite or values != sorted(values):
            raise ValueError(
                f"length band of task {task} is {corner}: the trapezoid needs four token counts"
                " 0 <= minimum <= low <= high <= maximum"
            )
        rows.append(values)
    return np.asarray(rows, np.float32).reshape(-1, 4)


def length_reward(lengths: Lengths, options: ShapingConfig) -> PG:
    """The chosen form's reward, and 0 for responses below `options.length_min_accuracy`.

    Returns:
      float32 [P, G]. Invalid responses get whatever their length earns: mask them later.
    Raises:
      ValueError: unknown `options.length_form`.
    """
    form = lookup(LENGTH_FORMS, options.length_form, kind="shaping.length_form")
    lengths = dataclasses.replace(
        lengths, length_PG=jnp.asarray(lengths.length_PG).astype(jnp.float32)
    )
    fit = lengths.accuracy_PG >= options.length_min_accuracy
    return jnp.where(fit, form(lengths, options), 0.0)


def trapezoid(lengths: Lengths, options: ShapingConfig) -> PG:
    """Full reward for lengths between two corners, falling to nothing at two outer ones.

        R = 0                             L < Lmin or L > Lmax
        R = (L - Lmin) / (Llow - Lmin)    Lmin <= L < Llow
        R = 1                             Llow <= L <= Lhigh
        R = (Lmax - L) / (Lmax - Lhigh)   Lhigh < L <= Lmax

    A degenerate side is a step: with Lmin = Llow the reward is 1 at Lmin and 0 below it, with Lhigh
    = Lmax 1 at Lmax and 0 above. No side divides by zero, in values or in gradients. The corners
    are those of the task table (`tasks.NAME.length`), or found by `shaping.length=auto`.

    Source: OpenVLThinkerV2 (2026) eq. 9, in tokens as there; the authors' release counts
    characters.
    """
    length_PG = lengths.length_PG
    minimum_P1, low_P1, high_P1, maximum_P1 = (lengths.band_P4[:, i : i + 1] for i in range(4))
    # Where low = min the rising side is never taken; its divisor must still not be zero.
    rise_P1 = jnp.where(low_P1 > minimum_P1, low_P1 - minimum_P1, 1.0)
    fall_P1 = jnp.where(maximum_P1 > high_P1, maximum_P1 - high_P1, 1.0)
    up_PG = jnp.where(length_PG < low_P1, (length_PG - minimum_P1) / rise_P1, 1.0)
    down_PG = jnp.where(length_PG > high_P1, (maximum_P1 - length_PG) / fall_P1, 1.0)
    inside_PG = (length_PG >= minimum_P1) & (length_PG <= maximum_P1)
    return jnp.where(inside_PG, up_PG * down_PG, 0.0)


def soft_overlong(lengths: Lengths, options: ShapingConfig) -> PG:
    """A penalty that grows over the last tokens before the limit.

        R = 0                              L <= Lmax - Lcache
        R = (Lmax - Lcache - L) / Lcache   Lmax - Lcache < L <= Lmax
        R = -1                             L > Lmax

    In [-1, 0]. Lcache = overlong_share Lmax; Lmax = length_max, or the limit of the row's task. The
    paper weighs it like the accuracy: length_weight = (1 - format_weight) / 2.

    Source: DAPO: An Open-Source LLM Reinforcement Learning System at Scale (2025), Lmax 20480,
    Lcache 4096.
    """
    maximum_P1 = _maximum(lengths, options)
    cache_P1 = options.overlong_share * maximum_P1
    return jnp.clip((maximum_P1 - cache_P1 - lengths.length_PG) / cache_P1, -1.0, 0.0)


def cosine(lengths: Lengths, options: ShapingConfig) -> PG:
    """Half a cosine of length: right responses earn less, wrong ones lose less, as they grow.

        c = (1 + cos(pi min(L / Lmax, 1))) / 2
        R = a (r1 + (r0 - r1) c) + (1 - a) (w1 + (w0 - w1) c)

    r0, r1 are the rewards of a right response at length 0 and at Lmax (cosine_right), w0, w1 those
    of a wrong one (cosine_wrong), a the accuracy: a graded one lies between. It says itself what is
    right: length_weight = 1 - format_weight leaves no accuracy beside it.

    Source: Reinforcement Learning for Reasoning in Small LLMs: What Works and What Doesn't (2025),
    right 1 to 0.5, wrong -1 to -0.5. The public code counts characters and does not clip L / Lmax.
    """
    share_PG = jnp.clip(lengths.length_PG / _maximum(lengths, options), 0.0, 1.0)
    falling_PG = 0.5 * (1.0 + jnp.cos(jnp.pi * share_PG))
    right_PG, wrong_PG = (
        end + (start - end) * falling_PG
        for start, end in (options.cosine_right, options.cosine_wrong)
    )
    return wrong_PG + lengths.accuracy_PG * (right_PG - wrong_PG)


def budget(lengths: Lengths, options: ShapingConfig) -> PG:
    """A triangle around a target length that shrinks as training goes on.

        b = max(1, b0 g^floor(t / T))
        R = max(0, min(L / b, 2 - L / b))

    In [0, 1]: 1 at L = b, 0 at 0 and from 2b on. b0 = budget, g = budget_decay, T = budget_steps, t
    the steps finished. The paper weighs accuracy and length 0.3 : 0.6 or 0.6 : 0.3: length_weight
    is 2/3 or 1/3 of 1 - format_weight.

    Source: Train Long, Think Short: Curriculum Learning for Efficient Reasoning (2025), from 256 to
    87 tokens, as three decays by 0.7 do; the interval is ours.
    """
    decays = jnp.floor(lengths.step / options.budget_steps)
    target = jnp.maximum(options.budget * jnp.exp(math.log(options.budget_decay) * decays), 1.0)
    share_PG = lengths.length_PG / target
    return jnp.maximum(jnp.minimum(share_PG, 2.0 - share_PG), 0.0)


def _maximum(lengths: Lengths, options: ShapingConfig) -> Float[Array, "P 1"]:
    limit_P1 = jnp.asarray(lengths.limit_P).astype(jnp.float32)[:, None]
    if options.length_max:
        limit_P1 = jnp.full_like(limit_P1, float(options.length_max))
    return jnp.maximum(limit_P1, 1.0)


LENGTH_FORMS = {
    "trapezoid": trapezoid,
    "soft_overlong": soft_overlong,
    "cosine": cosine,
    "budget": budget,
}
