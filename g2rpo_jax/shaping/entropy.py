"""Entropy terms of the loss: the paper's envelope (eq. 10), a plain bonus, and what stands for a
token's entropy.

Sums over tasks are arrays over K tasks; a prompt's task id picks its entry by compare-and-sum (no
gather), and an id outside 0..K-1 picks 0: absent tasks and padding prompts add nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from g2rpo_jax.tables import lookup

AnyArray = Array | np.ndarray
PGT = Float[AnyArray, "P G T"]
TokenMask = Bool[AnyArray, "P G T"] | PGT
Tasks = Int[AnyArray, " P"]
PerTask = Float[AnyArray, " K"]
Bounds = Float[AnyArray, "P 2"]


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
    Source: OpenVLThinkerV2 (2026) eq. 10.
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


def entropy_coefficient(
    form: str, sums: tuple[PerTask, PerTask], task_P: Tasks, bounds_P2: Bounds | None
) -> Float[Array, " P"]:
    """What multiplies `entropy_term` at every generated token of each prompt.

    The penalty is weight * sum_PGT(coefficient_P * entropy_term * mask): linear in the tokens, so
    with `entropy_sums` added up over micro-batches or devices first, cutting the batch changes
    nothing.

    Args:
      form: entry of ENTROPY_FORMS.
      sums: `entropy_sums` of the whole minibatch.
      task_P: task id of each prompt.
      bounds_P2: (minimum, maximum) of each prompt's task, nats per token; only `envelope` reads it.
    Returns:
      float32 [P], without gradient; 0 for absent tasks and padding.
    Raises:
      ValueError: unknown form, or `envelope` without bounds.
    """
    return lookup(ENTROPY_FORMS, form, kind="shaping.entropy_form")(*sums, task_P, bounds_P2)


def envelope(
    sum_K: PerTask, count_K: PerTask, task_P: Tasks, bounds_P2: Bounds | None
) -> Float[Array, " P"]:
    """Pushes a task's entropy back where it has left its band, and does nothing inside.

        H_k = mean over the task's generated tokens of their entropy
        loss += weight sum_k [max(0, H_k - Hmax) + max(0, Hmin - H_k)]

    As coefficients: sign / tokens of the task, sign +1 above Hmax, -1 below Hmin, 0 between. An
    absent task adds nothing (in the authors' release it adds weight * Hmin). The bounds are those
    of the task table (`tasks.NAME.entropy`), or found by `shaping.entropy=auto`.

    Cost: with several micro-batches one more forward pass, to know H_k before the gradient.
    Source: OpenVLThinkerV2 (2026) eq. 10; the release takes H_k of each micro-batch.
    """
    if bounds_P2 is None:
        raise ValueError(
            "shaping.entropy_form=envelope needs the bounds of every prompt's task "
            "(StepBatch.entropy_bounds_P2) and got none; give them, or choose 'bonus'"
        )
    low_P, high_P = bounds_P2[:, 0], bounds_P2[:, 1]
    count_P = _per_prompt(count_K, task_P)
    mean_P = _per_prompt(sum_K, task_P) / jnp.maximum(count_P, 1.0)
    sign_P = jnp.where(mean_P > high_P, 1.0, 0.0) - jnp.where(mean_P < low_P, 1.0, 0.0)
    return jnp.where(count_P > 0, sign_P, 0.0) / jnp.maximum(count_P, 1.0)


def bonus(
    sum_K: PerTask, count_K: PerTask, task_P: Tasks, bounds_P2: Bounds | None
) -> Float[Array, " P"]:
    """Raises the entropy of the whole minibatch, wherever it stands.

        loss += -weight mean over all generated tokens of H

    Source: Asynchronous Methods for Deep Reinforcement Learning (2016), weight 0.01.
    """
    del sum_K, bounds_P2
    here_P = jnp.where(_per_prompt(count_K, task_P) > 0, 1.0, 0.0)
    return -here_P / jnp.maximum(jnp.sum(count_K), 1.0)


def exact(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    """The full-vocabulary entropy of the next-token distribution, value and gradient.

        H = -sum_v p_v log p_v

    Source: the definition.
    """
    del logp_PGT
    if entropy_PGT is None:
        raise ValueError(
            "entropy.estimator=exact needs the full-vocabulary entropy of every token and got"
            " none; compute it with the log-probs, or choose 'score'"
        )
    return jnp.asarray(entropy_PGT)


def sampled(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    """The sampled token's -log p, differentiated as it stands: on-policy pure noise.

        H = -log p(token), gradient -grad log p(token), 0 in expectation

    Source: the authors' release of OpenVLThinkerV2 (2026).
    """
    del entropy_PGT
    return -jnp.asarray(logp_PGT)


def score(logp_PGT: PGT, entropy_PGT: PGT | None) -> Array:
    """The sampled token's -log p, with a gradient that is the entropy's in expectation.

        H = -log p(token), gradient -log p(token) grad log p(token)

    Source: Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement
    Learning (1992), with -log p as reward.
    """
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


ENTROPY_FORMS = {"envelope": envelope, "bonus": bonus}
ENTROPY_ESTIMATORS = {"exact": exact, "sampled": sampled, "score": score}
