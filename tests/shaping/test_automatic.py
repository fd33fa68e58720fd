"""Bounds that a run finds itself: against sorted lengths, order and range, which way they move."""

import dataclasses

import hypothesis as hyp
import hypothesis.strategies as st
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import shaping
from g2rpo_jax.shaping import EntropyStatistics, LengthStatistics, ShapingConfig

DEFAULT = ShapingConfig()


def statistics(limit, tasks=1):
    """(edges, empty statistics)."""
    edges = shaping.length_edges(limit)
    empty_KB = np.zeros((tasks, len(edges) - 1))
    return edges, LengthStatistics(empty_KB, empty_KB)


def bands_of(right_R, wrong_R, limit, options=DEFAULT):
    """(corners [4], pressure) after rows of one right and one wrong response each."""
    edges, empty = statistics(limit)
    length_RG = np.stack([right_R, wrong_R], axis=1)
    right_RG = np.broadcast_to([True, False], length_RG.shape)
    seen = shaping.see_lengths(
        empty, edges, length_RG, right_RG, np.zeros(len(length_RG), int), options.auto_decay
    )
    band_K4, pressure_K = shaping.automatic_bands(seen, edges, np.array([limit]), options)
    return band_K4[0], pressure_K[0]


@pytest.mark.parametrize("limit", [1, 5, 28, 4096, 32768])
def test_bins_hold_every_length_once_and_short_ones_alone(limit):
    edges = shaping.length_edges(limit)
    assert edges[0] == 0 and edges[-1] == limit + 1 and np.all(np.diff(edges) >= 1)
    alone = np.arange(min(limit, 8) + 1)
    assert_array_equal(edges[: len(alone)], alone)
    assert np.all(np.diff(edges)[edges[:-1] > 20] <= 0.1 * edges[:-1][edges[:-1] > 20] + 1)


def test_corners_are_the_quantiles_of_the_right_lengths_when_wrong_ones_are_elsewhere():
    rng = np.random.default_rng(0)
    right_R = rng.integers(5, 15, 400)  # one token a bin: quantiles are exact
    band_4, pressure = bands_of(right_R, np.full(400, 28), 28)
    assert pressure == 1
    expected = np.quantile(right_R, DEFAULT.auto_quantiles, method="inverted_cdf")
    assert_allclose(band_4, expected * [1 / 1.25, 1, 1, 1.25])


def test_quantiles_of_wide_bins_are_right_to_a_bins_width():
    right_R = np.random.default_rng(1).integers(300, 900, 2000)
    band_4, _ = bands_of(right_R, np.full(2000, 4096), 4096)
    expected = np.quantile(right_R, DEFAULT.auto_quantiles) * [1 / 1.25, 1, 1, 1.25]
    assert_allclose(band_4, expected, rtol=0.03)


def test_equal_lengths_press_nobody_and_too_few_rows_reward_nobody():
    lengths_R = np.random.default_rng(2).integers(1, 100, 200)
    band_4, pressure = bands_of(lengths_R, lengths_R[::-1], 100)
    assert pressure == 0 and band_4.tolist() == [0, 0, 100, 100]
    few = slice(0, 15)
    band_4, pressure = bands_of(lengths_R[few] // 50, lengths_R[few], 100)
    assert pressure == 0 and np.all(band_4 > 1e8)


def test_a_difference_that_chance_explains_presses_nobody():
    """Two samples of 40 from the same distribution, 200 times: 5 % may differ by more."""
    rng = np.random.default_rng(3)
    pressures = [bands_of(*rng.integers(1, 100, (2, 40)), 100)[1] for _ in range(200)]
    assert np.mean(np.array(pressures) > 0) < 0.06


def test_hard_prompts_with_long_answers_are_no_difference():
    """Prompts of two kinds, each as long right as wrong; the hard ones are mostly wrong."""
    rng = np.random.default_rng(4)
    hard_R = rng.random(400) < 0.5
    length_RG = np.where(hard_R[:, None], 80, 20) + rng.integers(-5, 6, (400, 8))
    right_RG = rng.random((400, 8)) < np.where(hard_R, 0.2, 0.8)[:, None]
    pooled = length_RG[right_RG].mean(), length_RG[~right_RG].mean()
    assert pooled[1] - pooled[0] > 20  # all responses together say that wrong ones are longer
    edges, empty = statistics(100)
    seen = shaping.see_lengths(empty, edges, length_RG, right_RG, np.zeros(400, int), 0.95)
    band_K4, pressure_K = shaping.automatic_bands(seen, edges, np.array([100]), DEFAULT)
    assert pressure_K[0] == 0 and band_K4[0].tolist() == [0, 0, 100, 100]


lengths_60 = st.lists(st.integers(1, 60), min_size=20, max_size=60)


@hyp.given(lengths_60, st.integers(0, 40), st.floats(0.01, 1.0))
def test_bands_rise_inside_the_limit(right, shift, difference):
    options = dataclasses.replace(DEFAULT, auto_difference=difference)
    right_R = np.array(right)
    band_4, pressure = bands_of(right_R, np.minimum(right_R + shift, 100), 100, options)
    assert np.all(np.diff(band_4) >= 0) and band_4[0] >= 0 and band_4[3] <= 100
    assert 0 <= pressure <= 1


@hyp.given(lengths_60, st.integers(1, 20))
def test_longer_right_answers_move_every_corner_up(right, shift):
    right_R = np.array(right)
    before, _ = bands_of(right_R, np.full(len(right), 200), 200)
    after, _ = bands_of(right_R + shift, np.full(len(right), 200), 200)
    assert np.all(after >= before - 1e-9)


def test_rows_weigh_the_same_and_those_without_both_kinds_say_nothing():
    edges, empty = statistics(10)
    length_RG = np.array([[3, 3, 3, 9], [4, 8, 8, 8], [5, 5, 5, 5], [6, 6, 6, 6]])
    right_RG = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    seen = shaping.see_lengths(empty, edges, length_RG, right_RG, np.zeros(4, int), 0.5)
    expected = np.zeros((2, len(edges) - 1))
    expected[0, [3, 4]], expected[1, [9, 8]] = 1, 1
    assert_allclose(np.concatenate([seen.right_KB, seen.wrong_KB]), expected)
    assert_allclose(seen.rows_K, [2])


def test_old_rows_fade_only_in_tasks_with_new_ones():
    edges, empty = statistics(10, tasks=2)
    length_RG, right_RG = np.array([[3, 5], [4, 6]]), np.array([[True, False]] * 2)
    both = shaping.see_lengths(empty, edges, length_RG, right_RG, np.array([0, 1]), 0.5)
    again = shaping.see_lengths(both, edges, length_RG[:1], right_RG[:1], np.array([0]), 0.5)
    assert_allclose(again.rows_K, [1.5, 1.0])
    assert_allclose(both.rows_K, [1.0, 1.0])  # the statistics before are not touched


def entropies(steps, options=DEFAULT):
    """(bounds, known) after steps of (sum, tokens) of one task."""
    seen = EntropyStatistics(np.zeros(1), np.zeros(1), np.zeros(1))
    for total, tokens in steps:
        sums = np.array([total]), np.array([tokens])
        seen = shaping.see_entropy(seen, *sums, options.auto_steps)
    bounds_K2, known_K = shaping.automatic_envelope(seen, options)
    return bounds_K2[0], bool(known_K[0])


def test_entropy_bounds_stand_around_the_early_mean_and_stay():
    options = dataclasses.replace(DEFAULT, auto_steps=2)
    early = [(3.0, 10.0), (27.0, 40.0)]  # 0.6 nats a token, weighed by tokens
    assert entropies(early[:1], options) == (pytest.approx([0, 1e9]), False)
    for later in ([], [(0.0, 0.0)], [(900.0, 100.0)] * 3):
        bounds_2, known = entropies([*early, *later], options)
        assert_allclose(bounds_2, [0.3, 0.9])
        assert known


def test_steps_without_tokens_of_a_task_do_not_count():
    options = dataclasses.replace(DEFAULT, auto_steps=2)
    assert entropies([(1.0, 2.0), (0.0, 0.0), (1.0, 2.0)], options)[1]
    assert not entropies([(1.0, 2.0), (0.0, 0.0)], options)[1]


@hyp.given(
    st.floats(0, 20),
    st.tuples(st.floats(0, 3), st.floats(0, 3)).map(sorted),
    st.tuples(st.floats(0, 5), st.floats(0, 5)).map(sorted),
)
def test_entropy_bounds_are_ordered_and_inside_their_range(early, factors, inside):
    options = dataclasses.replace(
        DEFAULT, auto_steps=1, auto_entropy=tuple(factors), auto_entropy_range=tuple(inside)
    )
    (low, high), _ = entropies([(early * 7, 7.0)], options)
    assert inside[0] <= low <= high <= inside[1]
    if inside[0] < early * factors[0] < inside[1]:
        assert_allclose(low, early * factors[0], rtol=1e-9)
