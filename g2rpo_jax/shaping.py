"""The paper's task-level shapings: length trapezoid (eq. 9) and entropy envelope (eq. 10).

Per-task numbers are arrays over K tasks; a prompt's task id picks its entry by compare-and-sum (no
gather), and an id outside 0..K-1 picks 0: absent tasks and padding prompts add nothing.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from g2rpo_jax.tables import lookup

AnyArray = Array | np.ndarray
PGT = Float[AnyArray, "P G T"]
TokenMask = Bool[AnyArray, "P G T"] | PGT
Tasks = Int[AnyArray, " P"]
PerTask = Float[AnyArray, " K"]
Leaf = Any  # an array; something else while JAX maps over the structure

NEVER_TOKENS = 1e9  # a band out there rewards no response at all


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LengthBands:
    """Corners of each task's trapezoid, float32 [K], in tokens; minimum <= low <= high <= maximum.

    Build it with `length_bands`, which checks the order.
    """

    minimum_K: Leaf
    low_K: Leaf
    high_K: Leaf
    maximum_K: Leaf


def length_bands(corners: Sequence[Sequence[int | float] | None]) -> LengthBands:
    """LengthBands from one (minimum, low, high, maximum) in tokens per task id; None: no length
    reward.

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
    table_K4 = np.asarray(rows, np.float32).reshape(-1, 4)
    return LengthBands(*table_K4.T)


def length_reward(
    length_PG: Real[AnyArray, "P G"], task_P: Tasks, bands: LengthBands
) -> Float[Array, "P G"]:
    """Trapezoid over the response length: 0 outside [min, max], 1 on [low, high], linear between.

        (L - min) / (low - min)   for min <= L < low
        (max - L) / (max - high)  for high < L <= max

    A degenerate side is a step: with min = low the reward is 1 at L = min and 0 below it, with high
    = max 1 at L = max and 0 above. No side divides by zero, in values or in gradients.

    Args:
      length_PG: response lengths in **tokens**, integer or float.
      task_P: task id of each prompt.
      bands: corners per task.
    Returns:
      float32 in [0, 1]; 0 for an absent task. Invalid responses get whatever their length earns:
      mask them later.
    Source: OpenVLThinkerV2 eq. 9, in tokens as there; the authors' release counts characters.
    """
    length_PG = jnp.asarray(length_PG).astype(jnp.float32)
    minimum_P1, low_P1, high_P1, maximum_P1 = (
        _per_prompt(corner_K, task_P)[:, None]
        for corner_K in (bands.minimum_K, bands.low_K, bands.high_K, bands.maximum_K)
    )
    # Where low = min the rising side is never taken; its divisor must still not be zero.
    rise_P1 = jnp.where(low_P1 > minimum_P1, low_P1 - minimum_P1, 1.0)
    fall_P1 = jnp.where(maximum_P1 > high_P1, maximum_P1 - high_P1, 1.0)
    up_PG = jnp.where(length_PG < low_P1, (length_PG - minimum_P1) / rise_P1, 1.0)
    down_PG = jnp.where(length_PG > high_P1, (maximum_P1 - length_PG) / fall_P1, 1.0)
    known_P1 = _known(task_P, bands.low_K)[:, None]
    inside_PG = (length_PG >= minimum_P1) & (length_PG <= maximum_P1) & known_P1
    return jnp.where(inside_PG, up_PG * down_PG, 0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Envelope:
    """Where each task's entropy stands, float32 [K], from sums over the whole global batch.

    Attributes:
      mean_K: entropy per generated token in nats; 0 for a task without tokens.
      sign_K: +1 above the upper bound, -1 below the lower, 0 inside or without tokens.
      count_K: generated tokens.
      excess_K: max(0, H - high) + max(0, low - H); 0 without tokens. Its sum is the penalty of eq.
        10.
    """

    mean_K: Leaf
    sign_K: Leaf
    count_K: Leaf
    excess_K: Leaf


def entropy_term(estimator: str, logp_PGT: PGT, entropy_PGT: PGT | None) -> Float[Array, "P G T"]:
    """Entropy of the next-token distribution at each generated token, in nats: value and gradient.

        name      value                    gradient
        exact     H = -sum_v p_v log p_v   that of H, through the logits
        sampled   -log p(token)            its own, which is 0 in expectation (the release)
        score     -log p(token)            -log p(token) grad log p(token), in expectation that of H

    `sampled`, differentiated directly, pushes nothing but noise on the first minibatch of a
    rollout, because the expectation of grad log p under p is 0. `score` assumes that tokens were
    drawn from p: it corrects for no staleness.

    Args:
      estimator: entry of ENTROPY_ESTIMATORS.
      logp_PGT: log-probs of the sampled tokens, with gradient.
      entropy_PGT: full-vocabulary entropies, with gradient; only `exact` reads it.
    Returns:
      [P, G, T]; meaningless outside the response mask.
    Raises:
      ValueError: unknown estimator, or `exact` without entropies.
    Source: OpenVLThinkerV2 eq. 10.
    """
    return lookup(ENTROPY_ESTIMATORS, estimator, kind="entropy estimator")(logp_PGT, entropy_PGT)


def entropy_sums(
    entropy_PGT: PGT, mask_PGT: TokenMask, task_P: Tasks, num_tasks: int
) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """Each task's sum of entropies and count of generated tokens. Sums of micro-batches add up.

    Args:
      entropy_PGT: `entropy_term` at the start of the minibatch; any value outside the mask.
      mask_PGT: generated tokens.
      task_P: task id of each prompt.
      num_tasks: K, static.
    Returns:
      (sum_K, count_K), float32 and without gradient.
    """
    mask_PGT = jnp.asarray(mask_PGT) != 0
    kept_PGT = jnp.where(mask_PGT, jax.lax.stop_gradient(entropy_PGT), 0.0)
    here_PK = _one_hot(task_P, num_tasks)
    sum_P1 = jnp.sum(kept_PGT, axis=(1, 2))[:, None]
    count_P1 = jnp.sum(mask_PGT.astype(jnp.float32), axis=(1, 2))[:, None]
    return jnp.sum(here_PK * sum_P1, axis=0), jnp.sum(here_PK * count_P1, axis=0)


def envelope(sum_K: PerTask, count_K: PerTask, low_K: PerTask, high_K: PerTask) -> Envelope:
    """Compares each task's mean entropy over the global batch with its band [low, high] in nats.

    An absent task is neither above nor below and adds nothing (in the authors' release it adds the
    constant low).
    """
    present_K = count_K > 0
    mean_K = sum_K / jnp.where(present_K, count_K, 1.0)
    above_K = jnp.where(present_K, jnp.maximum(mean_K - high_K, 0.0), 0.0)
    below_K = jnp.where(present_K, jnp.maximum(low_K - mean_K, 0.0), 0.0)
    sign_K = jnp.where(above_K > 0, 1.0, 0.0) - jnp.where(below_K > 0, 1.0, 0.0)
    return Envelope(jnp.where(present_K, mean_K, 0.0), sign_K, count_K, above_K + below_K)


def token_coefficient(bounds: Envelope, task_P: Tasks) -> Float[Array, " P"]:
    """sign / count of each prompt's task; 0 inside the band, for absent tasks and padding.

    The penalty is weight * sum_PGT(coefficient_P * entropy_term * mask): its value is eq. 10's up
    to constants, its gradient exactly eq. 10's, and it is linear in the tokens: with `entropy_sums`
    added up over micro-batches or devices first, cutting the batch changes nothing.
    """
    return _per_prompt(bounds.sign_K / jnp.maximum(bounds.count_K, 1.0), task_P)


def _exact(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    del logp_PGT
    if entropy_PGT is None:
        raise ValueError(
            "entropy.estimator=exact needs the full-vocabulary entropy of every token and got"
            " none; compute it with the log-probs, or choose 'score'"
        )
    return jnp.asarray(entropy_PGT)


def _sampled(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    del entropy_PGT
    return -jnp.asarray(logp_PGT)


def _score(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    del entropy_PGT
    surprise_PGT = -jax.lax.stop_gradient(logp_PGT)
    # The bracket is 0 in value and grad log p in gradient.
    return surprise_PGT + surprise_PGT * (logp_PGT + surprise_PGT)


def _one_hot(task_P: Tasks, num_tasks: int) -> Float[Array, "P K"]:
    ids_1K = jnp.arange(num_tasks, dtype=jnp.int32)[None, :]
    return (jnp.asarray(task_P)[:, None] == ids_1K).astype(jnp.float32)


def _per_prompt(value_K: PerTask, task_P: Tasks) -> Float[Array, " P"]:
    here_PK = _one_hot(task_P, value_K.shape[0])
    return jnp.sum(here_PK * jnp.asarray(value_K)[None, :], axis=1)


def _known(task_P: Tasks, value_K: PerTask) -> Bool[Array, " P"]:
    return jnp.sum(_one_hot(task_P, value_K.shape[0]), axis=1) > 0


ENTROPY_ESTIMATORS = {"exact": _exact, "sampled": _sampled, "score": _score}
