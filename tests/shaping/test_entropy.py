"""Entropy terms: closed forms, enumerated policies, micro-batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import shaping
from g2rpo_jax.shaping import ENTROPY_ESTIMATORS, ENTROPY_FORMS

LOW_K = np.array([0.2, 0.5, 0.2], np.float32)
HIGH_K = np.array([0.6, 0.9, 0.6], np.float32)
BOUNDS_K2 = np.stack([LOW_K, HIGH_K], axis=1)


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


def whole_coefficient(entropy_PGT, mask_PGT, task_P, form="envelope"):
    """What multiplies each prompt's terms, from one whole batch."""
    sums = shaping.entropy_sums(entropy_PGT, mask_PGT, task_P, len(BOUNDS_K2))
    return shaping.entropy_coefficient(form, sums, task_P, BOUNDS_K2[task_P])


def test_entropy_is_the_mean_over_the_tasks_tokens_of_the_whole_batch():
    entropy_PGT, mask_PGT, task_P = token_batch()
    poisoned = np.where(mask_PGT, entropy_PGT, np.nan)
    sum_K, count_K = shaping.entropy_sums(poisoned, mask_PGT, task_P, 3)
    for task in range(2):
        tokens = entropy_PGT[task_P == task][mask_PGT[task_P == task]].astype(np.float64)
        assert_allclose(sum_K[task] / count_K[task], tokens.mean(), rtol=1e-6)
    assert sum_K[2] == 0 and count_K[2] == 0
    coefficient_P = whole_coefficient(poisoned, mask_PGT, task_P)
    # Task 0 lies above its band, 1 below; nothing of the prompt without a task.
    expected_P = np.where(task_P == 0, 1, np.where(task_P == 1, -1, 0)) / np.maximum(
        np.asarray(count_K)[task_P], 1
    )
    assert_allclose(coefficient_P, expected_P, rtol=1e-6)


@pytest.mark.parametrize("mean, sign", [(0.1, -1), (0.2, 0), (0.4, 0), (0.6, 0), (0.7, 1)])
def test_sign_of_the_envelope(mean, sign):
    def coefficient(count):
        # A count of 1 keeps the mean exact: the bounds themselves are inside.
        sums = jnp.float32(mean)[None], jnp.float32(count)[None]
        bounds_P2 = np.array([[0.2, 0.6]], np.float32)
        return shaping.entropy_coefficient("envelope", sums, np.zeros(1, np.int32), bounds_P2)[0]

    assert coefficient(1) == sign
    assert coefficient(0) == 0  # the release adds weight * low for a task that is not there


def test_the_bonus_is_the_mean_over_all_tokens_whatever_the_bounds():
    entropy_PGT, mask_PGT, task_P = token_batch()
    mask_PGT = mask_PGT & (task_P >= 0)[:, None, None]
    coefficient_P = whole_coefficient(entropy_PGT, mask_PGT, task_P, "bonus")
    penalty = np.sum(np.asarray(coefficient_P)[:, None, None] * entropy_PGT * mask_PGT)
    assert_allclose(penalty, -entropy_PGT[mask_PGT].astype(np.float64).mean(), rtol=1e-6)
    nothing = np.zeros_like(mask_PGT)
    assert_array_equal(whole_coefficient(entropy_PGT, nothing, task_P, "bonus"), np.zeros(6))


def test_an_unknown_form_and_an_envelope_without_bounds_are_refused():
    sums, task_P = (jnp.ones(3), jnp.ones(3)), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="did you mean 'bonus'"):
        shaping.entropy_coefficient("bonos", sums, task_P, None)
    with pytest.raises(ValueError, match="needs the bounds of every prompt's task"):
        shaping.entropy_coefficient("envelope", sums, task_P, None)
    assert shaping.entropy_coefficient("bonus", sums, task_P, None).shape == (2,)


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


@pytest.mark.parametrize("form", sorted(ENTROPY_FORMS))
@pytest.mark.parametrize("estimator", sorted(ENTROPY_ESTIMATORS))
def test_cutting_into_micro_batches_gives_the_identical_penalty_gradient(estimator, form):
    logits, token, mask, task_P = logits_batch()

    def penalty(logits, coefficient_P, rows):
        term = terms(estimator, logits[rows], token[rows])
        return 0.02 * jnp.sum(coefficient_P[rows][:, None, None] * term * mask[rows])

    whole_P = whole_coefficient(terms(estimator, logits, token), mask, task_P, form)
    cuts = [slice(0, 3), slice(3, 6)]
    sums = [
        shaping.entropy_sums(terms(estimator, logits[c], token[c]), mask[c], task_P[c], 3)
        for c in cuts
    ]
    sums = tuple(sum(parts) for parts in zip(*sums, strict=True))
    pieces_P = shaping.entropy_coefficient(form, sums, task_P, BOUNDS_K2[task_P])
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

    coefficient_P = whole_coefficient(terms(estimator, logits, token), mask, task_P)
    linear = lambda logits: jnp.sum(  # noqa: E731
        coefficient_P[:, None, None] * terms(estimator, logits, token) * mask
    )
    assert_allclose(jax.grad(linear)(logits), jax.grad(equation_10)(logits), atol=1e-7)


@pytest.mark.parametrize("form", sorted(ENTROPY_FORMS))
def test_coefficients_carry_no_gradient(form):
    entropy_PGT, mask_PGT, task_P = token_batch()
    grad = jax.grad(lambda x: jnp.sum(whole_coefficient(x, mask_PGT, task_P, form)))(
        jnp.asarray(entropy_PGT)
    )
    assert_array_equal(grad, np.zeros(entropy_PGT.shape))
