"""EMA-GRPO, both readings: how the moving scale of a task moves."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import advantages
from tests.advantages.references import G, P, center, z_score
from tests.advantages.test_ranked import compute


def test_ema_grpo_moves_with_each_batch_and_is_updated_before_use():
    first = np.array([[0, 1, 0, 1.0], [0, 0, 0, 1]])
    second = np.array([[0, 2, 2, 2.0], [0, 0, 0, 4]])
    task = np.array([0, 1])
    adv, state = advantages.compute("ema_grpo", first, task_P=task, ema_decay=0.75, num_tasks=3)
    sd = np.std(first, axis=1, ddof=1)
    assert_allclose(state.scale_K, [*sd, 0], rtol=1e-6)  # first sight: the batch's own
    assert_array_equal(state.seen_K, [True, True, False])
    absent = np.array([1, -1])
    adv, state = advantages.compute("ema_grpo", second, task_P=absent, state=state, ema_decay=0.75)
    moved = 0.75 * sd[1] + 0.25 * np.std(second[0], ddof=1)
    assert_allclose(state.scale_K, [sd[0], moved, 0], rtol=1e-6)
    expected = (second[0] - second[0].mean()) / (moved + 1e-6)
    assert_allclose(adv, [expected, np.zeros(4)], rtol=1e-5)


def test_onethinker_moments_follow_the_tracker_over_many_batches():
    """Against m1, m2 in float64, with a task that is absent from some batches."""
    rng = np.random.default_rng(5)
    state, moments = None, {}
    for step in range(12):
        reward = (0.9 + 0.01 * rng.integers(0, 5, (P, G))).astype(np.float32)
        task = np.array([0, 0, 1, 1]) if step % 3 else np.zeros(P, int)
        adv, state = advantages.compute(
            "ema_grpo_onethinker", reward, task_P=task, state=state, num_tasks=2
        )
        for k in set(task.tolist()):
            scores = reward[task == k].astype(np.float64)
            batch = np.array([scores.mean(), np.square(scores).mean()])
            moments[k] = 0.99 * moments[k] + 0.01 * batch if k in moments else batch
        for p in range(P):
            m1, m2 = moments[task[p]]
            scale = np.sqrt(max(m2 - m1**2, 1e-6))
            expected = center(reward[p].astype(np.float64)) / (scale + 1e-6)
            assert np.max(np.abs(expected)) < 5
            assert_allclose(adv[p], expected, rtol=1e-4, atol=1e-5)


def test_onethinker_guard_and_floor():
    moments = advantages.TaskMoments(jnp.full(1, 0.5), jnp.full(1, 1e-4), jnp.ones(1, bool))
    reward = np.array([[0.0, 1.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.51]])
    adv = compute("ema_grpo_onethinker", reward, state=moments, ema_decay=1.0)
    assert_allclose(adv[0], z_score(reward[0], ddof=0), rtol=1e-5)  # |A| = 50: its own std
    assert_allclose(adv[1], center(reward[1]) / 0.01, rtol=1e-3)
    still = dataclasses.replace(moments, variance_K=jnp.zeros(1))
    adv = compute("ema_grpo_onethinker", reward[1:] * 0.1, state=still, ema_decay=1.0)
    assert_allclose(adv[0], center(reward[1] * 0.1) / 1e-3, rtol=2e-3)
