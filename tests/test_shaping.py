"""Length trapezoid and entropy envelope: closed forms, enumerated policies, micro-batches."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import shaping
from g2rpo_jax.shaping import ENTROPY_ESTIMATORS

LOW_K = np.array([0.2, 0.5, 0.2], np.float32)
HIGH_K = np.array([0.6, 0.9, 0.6], np.float32)


def one_band(corners, lengths):
    bands = shaping.length_bands([corners])
    return shaping.length_reward(np.array([lengths]), np.zeros(1, np.int32), bands)[0]


# Eq. 9


def test_trapezoid_has_its_corners_and_slopes():
    reward = one_band((100, 200, 300, 500), [99, 100, 150, 200, 250, 300, 350, 500, 501])
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
    assert_allclose(one_band(corners, lengths), expected, atol=1e-6)


LENGTH_REWARD = jax.jit(shaping.length_reward)
LENGTH_GRADIENT = jax.jit(
    jax.grad(lambda *args: jnp.sum(shaping.length_reward(*args)), argnums=(0, 2))
)
band_corners = st.lists(st.integers(0, 40), min_size=4, max_size=4).map(sorted)


@hyp.given(band_corners, st.lists(st.integers(0, 45), min_size=4, max_size=4))
def test_length_reward_follows_the_closed_form_with_finite_gradients(corners, lengths):
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
    task_P = np.zeros(1, np.int32)
    length_PG = jnp.asarray([lengths], jnp.float32)
    reward = LENGTH_REWARD(length_PG, task_P, bands)
    assert_allclose(reward[0], [expected(length) for length in lengths], atol=1e-6)
    for grad in jax.tree.leaves(LENGTH_GRADIENT(length_PG, task_P, bands)):
        assert np.all(np.isfinite(grad))


def test_each_prompt_uses_its_own_task_and_an_absent_task_earns_nothing():
    bands = shaping.length_bands([(0, 0, 10, 20), (100, 100, 200, 200)])
    reward = shaping.length_reward(
        np.array([[5, 150]] * 4), np.array([0, 1, -1, 2], np.int32), bands
    )
    assert_array_equal(reward, [[1, 0], [0, 1], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    "corners", [(5, 4, 6, 7), (1, 2, 3), (-1, 0, 1, 2), (0, 1, 2, float("nan")), (3, 2, 1, 0)]
)
def test_a_bad_band_names_its_task(corners):
    with pytest.raises(ValueError, match="length band of task 1 is"):
        shaping.length_bands([(0, 1, 2, 3), corners])


# Eq. 10


def categorical(seed=0, size=6):
    return jnp.asarray(np.random.default_rng(seed).normal(0, 1.5, size), jnp.float32)


def entropy_of(logits):
    logp = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(logp) * logp)


def expected_gradient(estimator, logits):
    """Expectation over every outcome of the policy of the gradient of the estimator's term."""

    def term(logits, token):
        logp = jax.nn.log_softmax(logits)[token]
        values = (logp[None, None, None], entropy_of(logits)[None, None, None])
        return shaping.entropy_term(estimator, *values)[0, 0, 0]

    tokens = jnp.arange(logits.shape[0])
    grads = jax.vmap(jax.grad(term), in_axes=(None, 0))(logits, tokens)
    return jax.nn.softmax(logits) @ grads


def test_the_sampled_estimate_has_zero_expected_gradient_and_the_others_the_entropys():
    for seed in range(3):
        logits = categorical(seed)
        true = jax.grad(entropy_of)(logits)
        assert np.max(np.abs(true)) > 0.05  # otherwise the comparison says nothing
        assert_allclose(expected_gradient("sampled", logits), np.zeros(6), atol=1e-6)
        assert_allclose(expected_gradient("exact", logits), true, atol=1e-6)
        assert_allclose(expected_gradient("score", logits), true, atol=1e-6)


def test_every_estimator_has_the_entropy_as_expected_value():
    logits = categorical(7)
    logp_PGT = jax.nn.log_softmax(logits)[None, None]
    entropy_PGT = jnp.broadcast_to(entropy_of(logits), logp_PGT.shape)
    for name in ENTROPY_ESTIMATORS:
        term = shaping.entropy_term(name, logp_PGT, entropy_PGT)
        assert term.shape == logp_PGT.shape and term.dtype == jnp.float32
        assert_allclose(jnp.sum(jnp.exp(logp_PGT) * term), entropy_of(logits), rtol=1e-5)


def test_exact_without_entropies_and_an_unknown_estimator_are_refused():
    logp_PGT = jnp.zeros((1, 1, 2))
    with pytest.raises(ValueError, match="exact needs the full-vocabulary entropy"):
        shaping.entropy_term("exact", logp_PGT, None)
    with pytest.raises(ValueError, match="did you mean 'sampled'"):
        shaping.entropy_term("sample", logp_PGT, None)


def token_batch(seed=0):
    """Six prompts of tasks 0, 1, 0, absent, 1, 0; task 2 never occurs."""
    rng = np.random.default_rng(seed)
    entropy_PGT = rng.exponential(0.8, (6, 3, 5)).astype(np.float32)
    entropy_PGT[[1, 4]] *= 0.3  # task 0 lies above its band, task 1 below
    mask_PGT = np.arange(5) < rng.integers(0, 6, (6, 3, 1))
    return entropy_PGT, mask_PGT, np.array([0, 1, 0, -1, 1, 0], np.int32)


def test_entropy_is_the_mean_over_the_tasks_tokens_of_the_whole_batch():
    entropy_PGT, mask_PGT, task_P = token_batch()
    poisoned = np.where(mask_PGT, entropy_PGT, np.nan)
    bounds = shaping.envelope(*shaping.entropy_sums(poisoned, mask_PGT, task_P, 3), LOW_K, HIGH_K)
    for task in range(2):
        tokens = entropy_PGT[task_P == task][mask_PGT[task_P == task]].astype(np.float64)
        mean = tokens.mean()
        assert_allclose(bounds.mean_K[task], mean, rtol=1e-6)
        excess = max(0, mean - HIGH_K[task]) + max(0, LOW_K[task] - mean)
        assert_allclose(bounds.excess_K[task], excess, rtol=1e-5)
    assert_array_equal(bounds.sign_K, [1, -1, 0])
    # The release adds weight * low for a task that is not there; here it adds nothing.
    assert bounds.excess_K[2] == 0 and bounds.mean_K[2] == 0 and bounds.count_K[2] == 0


@pytest.mark.parametrize("mean, sign", [(0.1, -1), (0.2, 0), (0.4, 0), (0.6, 0), (0.7, 1)])
def test_sign_of_the_envelope(mean, sign):
    band = jnp.float32(0.2)[None], jnp.float32(0.6)[None]
    # A count of 1 keeps the mean exact: the bounds themselves are inside.
    assert shaping.envelope(jnp.float32(mean)[None], jnp.ones(1), *band).sign_K[0] == sign
    assert shaping.envelope(jnp.float32(mean)[None], jnp.zeros(1), *band).sign_K[0] == 0


def whole_coefficient(entropy_PGT, mask_PGT, task_P, low_K, high_K):
    """What multiplies each prompt's terms, from one whole batch."""
    sums = shaping.entropy_sums(entropy_PGT, mask_PGT, task_P, low_K.shape[0])
    return shaping.token_coefficient(shaping.envelope(*sums, low_K, high_K), task_P)


def logits_batch(seed=3, V=4):
    _, mask_PGT, task_P = token_batch(seed)
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(0, 1, (*mask_PGT.shape, V)), jnp.float32)
    return logits, rng.integers(0, V, mask_PGT.shape), mask_PGT, task_P


def terms(estimator, logits_PGTV, token_PGT):
    logp_PGTV = jax.nn.log_softmax(logits_PGTV)
    logp_PGT = jnp.sum(jax.nn.one_hot(token_PGT, logits_PGTV.shape[-1]) * logp_PGTV, -1)
    entropy_PGT = -jnp.sum(jnp.exp(logp_PGTV) * logp_PGTV, -1)
    return shaping.entropy_term(estimator, logp_PGT, entropy_PGT)


@pytest.mark.parametrize("estimator", sorted(ENTROPY_ESTIMATORS))
def test_cutting_into_micro_batches_gives_the_identical_penalty_gradient(estimator):
    logits, token, mask, task_P = logits_batch()

    def penalty(logits, coefficient_P, rows):
        term = terms(estimator, logits[rows], token[rows])
        return 0.02 * jnp.sum(coefficient_P[rows][:, None, None] * term * mask[rows])

    whole_P = whole_coefficient(terms(estimator, logits, token), mask, task_P, LOW_K, HIGH_K)
    cuts = [slice(0, 3), slice(3, 6)]
    sums = [
        shaping.entropy_sums(terms(estimator, logits[c], token[c]), mask[c], task_P[c], 3)
        for c in cuts
    ]
    sum_K, count_K = (sum(parts) for parts in zip(*sums, strict=True))
    bounds = shaping.envelope(sum_K, count_K, LOW_K, HIGH_K)
    pieces_P = shaping.token_coefficient(bounds, task_P)
    assert_array_equal(whole_P, pieces_P)
    assert np.any(whole_P != 0)
    pieces = sum(jax.grad(penalty)(logits, pieces_P, c) for c in cuts)
    assert_array_equal(pieces, jax.grad(penalty)(logits, whole_P, slice(None)))


@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_the_linear_penalty_has_the_gradient_of_equation_10(estimator):
    logits, token, mask, task_P = logits_batch()

    def equation_10(logits):
        term = terms(estimator, logits, token)
        total = 0.0
        for task in range(2):
            here = mask & (task_P == task)[:, None, None]
            mean = jnp.sum(term * here) / np.sum(here)
            total += jnp.maximum(0, mean - HIGH_K[task]) + jnp.maximum(0, LOW_K[task] - mean)
        return total

    coefficient_P = whole_coefficient(terms(estimator, logits, token), mask, task_P, LOW_K, HIGH_K)
    linear = lambda logits: jnp.sum(  # noqa: E731
        coefficient_P[:, None, None] * terms(estimator, logits, token) * mask
    )
    assert_allclose(jax.grad(linear)(logits), jax.grad(equation_10)(logits), atol=1e-7)


def test_bounds_carry_no_gradient():
    entropy_PGT, mask_PGT, task_P = token_batch()
    grad = jax.grad(lambda x: jnp.sum(whole_coefficient(x, mask_PGT, task_P, LOW_K, HIGH_K)))(
        jnp.asarray(entropy_PGT)
    )
    assert_array_equal(grad, np.zeros(entropy_PGT.shape))
