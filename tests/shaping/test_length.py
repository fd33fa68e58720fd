"""Length rewards: closed forms in float64, edges, graded accuracy, options that are refused."""

import dataclasses
import functools
import math

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import shaping
from g2rpo_jax.shaping import LENGTH_FORMS, Lengths, ShapingConfig

DEFAULT = ShapingConfig()
WIDE = np.array([[0, 0, 1e6, 1e6]], np.float32)


@functools.cache
def compiled(options):
    return jax.jit(functools.partial(shaping.length_reward, options=options))


def one(lengths, options=DEFAULT, accuracy=1.0, band=WIDE, limit=4096, step=0):
    """Rewards of one prompt's responses."""
    length_PG = np.asarray([lengths], np.float32)
    accuracy_PG = np.broadcast_to(np.asarray(accuracy, np.float32), length_PG.shape)
    seen = Lengths(
        length_PG,
        accuracy_PG,
        np.asarray(band, np.float32).reshape(1, 4),
        np.array([limit], np.float32),
        np.float32(step),
    )
    return np.asarray(compiled(options)(seen)[0])


def test_trapezoid_has_its_corners_and_slopes():
    reward = one([99, 100, 150, 200, 250, 300, 350, 500, 501], band=(100, 200, 300, 500))
    assert_allclose(reward, [0, 0, 0.5, 1, 1, 1, 0.75, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    "corners, lengths, expected",
    [
        ((100, 100, 300, 500), [99, 100, 101], [0, 1, 1]),  # rising side is a step
        ((100, 200, 300, 300), [299, 300, 301], [1, 1, 0]),  # falling side is a step
        ((0, 0, 50, 100), [0, 50, 75], [1, 1, 0.5]),
        ((7, 7, 7, 7), [6, 7, 8], [0, 1, 0]),
        ((5, 10, 10, 15), [5, 9, 10, 11, 15], [0, 0.8, 1, 0.8, 0]),  # a triangle
        (None, [0, 1, 10**6], [0, 0, 0]),  # a task without a length reward
    ],
)
def test_degenerate_sides(corners, lengths, expected):
    assert_allclose(one(lengths, band=shaping.length_bands([corners])), expected, atol=1e-6)


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1))
def gradient(length_PG, band_P4):
    ones_P = jnp.ones(1)
    seen = Lengths(length_PG, jnp.ones_like(length_PG), band_P4, ones_P, jnp.float32(0))
    return jnp.sum(shaping.length_reward(seen, DEFAULT))


band_corners = st.lists(st.integers(0, 40), min_size=4, max_size=4).map(sorted)


@hyp.given(band_corners, st.lists(st.integers(0, 45), min_size=4, max_size=4))
def test_the_trapezoid_follows_the_closed_form_with_finite_gradients(corners, lengths):
    low_end, low, high, high_end = corners

    def expected(length):
        if not low_end <= length <= high_end:
            return 0.0
        if length < low:
            return (length - low_end) / (low - low_end)
        if length > high:
            return (high_end - length) / (high_end - high)
        return 1.0

    bands = shaping.length_bands([corners])
    assert_allclose(one(lengths, band=bands), [expected(length) for length in lengths], atol=1e-6)
    for grad in gradient(jnp.asarray([lengths], jnp.float32), jnp.asarray(bands)):
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize(
    "corners", [(5, 4, 6, 7), (1, 2, 3), (-1, 0, 1, 2), (0, 1, 2, float("nan")), (3, 2, 1, 0)]
)
def test_a_bad_band_names_its_task(corners):
    with pytest.raises(ValueError, match="length band of task 1 is"):
        shaping.length_bands([(0, 1, 2, 3), corners])


OVERLONG = dataclasses.replace(DEFAULT, length_form="soft_overlong")
COSINE = dataclasses.replace(DEFAULT, length_form="cosine")
BUDGET = dataclasses.replace(DEFAULT, length_form="budget")


def test_soft_overlong_has_the_papers_numbers():
    """L_max 20480, L_cache 4096: no penalty up to 16384."""
    lengths = [1, 16384, 16385, 18432, 20480, 20481, 30000]
    expected = [0, 0, -1 / 4096, -0.5, -1, -1, -1]
    assert_allclose(one(lengths, OVERLONG, limit=20480), expected, atol=1e-6)
    fixed = dataclasses.replace(OVERLONG, length_max=20480)
    assert_array_equal(one(lengths, fixed, limit=77), one(lengths, OVERLONG, limit=20480))


@hyp.given(st.integers(0, 3000), st.integers(1, 2000), st.floats(0.01, 1.0))
def test_soft_overlong_follows_its_three_branches(length, maximum, share):
    options = dataclasses.replace(OVERLONG, overlong_share=0.25 if share < 0.5 else 1.0)
    cache = options.overlong_share * maximum
    if length <= maximum - cache:
        expected = 0.0
    elif length <= maximum:
        expected = ((maximum - cache) - length) / cache
    else:
        expected = -1.0
    assert_allclose(one([length], options, limit=maximum), [expected], atol=1e-5)


@hyp.given(st.integers(0, 300), st.sampled_from([0.0, 0.25, 1.0]))
def test_cosine_is_the_public_formula_clipped(length, accuracy):
    def value(low, high):
        """vmin + (vmax - vmin) / 2 (1 + cos(pi L / Lmax)), the paper's numbers."""
        return low + 0.5 * (high - low) * (1 + math.cos(math.pi * min(length / 200, 1.0)))

    expected = accuracy * value(0.5, 1.0) + (1 - accuracy) * value(-0.5, -1.0)
    assert_allclose(one([length], COSINE, accuracy, limit=200), [expected], atol=1e-5)


def test_cosine_prefers_short_right_answers_and_long_wrong_ones():
    right = one([0, 50, 100, 150, 200, 400], COSINE, 1.0, limit=200)
    wrong = one([0, 50, 100, 150, 200, 400], COSINE, 0.0, limit=200)
    assert_allclose(right[[0, 2, 4, 5]], [1, 0.75, 0.5, 0.5], atol=1e-6)
    assert_allclose(wrong[[0, 2, 4, 5]], [-1, -0.75, -0.5, -0.5], atol=1e-6)
    assert np.all(np.diff(right) <= 0) and np.all(np.diff(wrong) >= 0)


@pytest.mark.parametrize("step, target", [(0, 256), (99, 256), (100, 179.2), (300, 87.808)])
def test_the_budget_decays_by_steps_and_the_reward_is_a_triangle(step, target):
    lengths = np.array([0, target / 2, target, 1.5 * target, 2 * target, 3 * target])
    assert_allclose(one(lengths, BUDGET, step=step), [0, 0.5, 1, 0.5, 0, 0], atol=1e-5)


def test_a_budget_never_falls_below_one_token():
    assert_allclose(one([1, 2, 3], BUDGET, step=10**6), [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("form", LENGTH_FORMS)
def test_every_form_is_finite_and_knows_only_its_own_prompt(form):
    options = dataclasses.replace(DEFAULT, length_form=form)
    rng = np.random.default_rng(0)
    P, G = 5, 4
    seen = Lengths(
        rng.integers(0, 200, (P, G)),
        rng.random((P, G)).astype(np.float32),
        shaping.length_bands([(0, 10, 50, 100)] * P),
        rng.integers(1, 150, P).astype(np.float32),
        np.float32(3),
    )
    whole = shaping.length_reward(seen, options)
    assert whole.shape == (P, G) and whole.dtype == jnp.float32
    assert np.all(np.isfinite(whole)) and np.all(np.abs(whole) <= 1)
    order = rng.permutation(P)
    moved = Lengths(*(x[order] if np.ndim(x) else x for x in vars(seen).values()))
    assert_array_equal(shaping.length_reward(moved, options), np.asarray(whole)[order])


def test_responses_below_the_least_accuracy_earn_nothing():
    half = dataclasses.replace(DEFAULT, length_min_accuracy=0.5)
    assert_array_equal(one([5, 5, 5], half, [0.25, 0.5, 1.0]), [0, 1, 1])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length_weight": 1.5}, "length_weight=1.5 must lie in"),
        ({"entropy_weight": -1.0}, "entropy_weight=-1.0 must be at least 0.0"),
        ({"entropy_weight": float("nan")}, "must be at least"),
        ({"length": "own"}, "shaping.length"),
        ({"entropy": "aut"}, "did you mean 'auto'"),
        ({"length": "auto", "length_form": "cosine"}, "set shaping.length=tasks"),
        ({"entropy": "auto", "entropy_form": "bonus"}, "set shaping.entropy=tasks"),
        ({"auto_quantiles": (0.1, 0.9)}, "4 rising numbers"),
        ({"auto_entropy": (1.5, 0.5)}, "2 rising numbers"),
        ({"cosine_right": (1.0,)}, "two rewards"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShapingConfig(**wrong)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="did you mean 'budget'"):
        one([1], dataclasses.replace(DEFAULT, length_form="budge"))
