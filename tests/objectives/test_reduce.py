"""Averages over tokens, and estimates of the KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import objectives
from g2rpo_jax.objectives import AGGREGATIONS, KL_ESTIMATORS, ObjectiveConfig
from tests.objectives.batches import G, P, T, batch, value_and_gradient


def torch_clip(logp, old, adv, low, high, dual):
    """verl's dual-clip PPO loss, written with torch.where as there."""
    ratio = torch.exp(torch.clamp(logp - old, -20, 20))
    first = torch.maximum(-adv * ratio, -adv * torch.clamp(ratio, 1 - low, 1 + high))
    return torch.where(adv < 0, torch.min(-adv * dual, first), first)


def torch_easyr1(logp, old, adv, low, high, dual):
    """EasyR1's form: it clamps the log-ratio instead of the ratio."""
    d = torch.clamp(logp - old, -20, 20)
    clipped = torch.exp(torch.clamp(d, np.log(1 - low), np.log(1 + high)))
    higher = torch.maximum(-adv * torch.exp(d), -adv * clipped)
    return torch.where(adv < 0, torch.minimum(higher, -adv * dual), higher)


TORCH_AGGREGATIONS = {
    "token_mean": lambda loss, mask: (loss * mask).sum() / mask.sum(),
    "sequence_mean": lambda loss, mask: (
        ((loss * mask).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / (mask.sum(-1) > 0).sum()
    ),
    "fixed_length": lambda loss, mask: (loss * mask).sum() / 50 / (mask.sum(-1) > 0).sum(),
}


@pytest.mark.parametrize("transcription", [torch_clip, torch_easyr1])
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_value_and_gradient_equal_torch(aggregation, transcription):
    tokens = batch(0, spread=1.0)
    config = ObjectiveConfig(aggregation=aggregation, fixed_length=50)
    value, grad = value_and_gradient(config, tokens)
    logp = torch.tensor(tokens.logp_PGT, requires_grad=True)
    adv = torch.tensor(tokens.adv_PG)[..., None].expand(P, G, T)
    loss = transcription(logp, torch.tensor(tokens.old_logp_PGT), adv, 0.2, 0.3, 3.0)
    expected = TORCH_AGGREGATIONS[aggregation](loss, torch.tensor(tokens.mask_PGT).float())
    expected.backward()
    assert_allclose(value, expected.item(), rtol=1e-5)
    assert_allclose(grad, logp.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_weights_by_hand():
    mask = np.array([[[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]], bool)
    for name, expected in {
        "token_mean": [0.25, 0.25, 0.25, 0.25],
        "sequence_mean": [1 / 6, 1 / 6, 1 / 6, 1 / 2],  # the empty response is no response
        "fixed_length": [1 / 20] * 4,  # over 10 tokens, over 2 responses
    }.items():
        weight = np.asarray(objectives.aggregation_weights(name, mask, 10))
        assert_allclose(weight[mask], expected, rtol=1e-6)
        assert_array_equal(weight[~mask], 0.0)
        empty = objectives.aggregation_weights(name, np.zeros_like(mask), 10)
        assert_array_equal(empty, np.zeros(mask.shape))


@pytest.mark.parametrize("name", sorted(KL_ESTIMATORS))
def test_kl_values_and_gradients_over_all_outcomes_of_a_categorical_policy(name):
    """Enumerates the tokens: the expectation over the policy, sampled tokens weighted by it."""
    rng = np.random.default_rng(4)
    logits = jnp.asarray(rng.normal(size=5), jnp.float32)
    ref = jax.nn.log_softmax(jnp.asarray(rng.normal(size=5), jnp.float32))

    def expected_loss(logits):
        logp = jax.nn.log_softmax(logits)
        weight = jax.lax.stop_gradient(jnp.exp(logp))
        return jnp.sum(weight * objectives.kl(name, logp[None, None], ref[None, None])[0, 0])

    def divergence(a, b):
        return jnp.sum(jnp.exp(a) * (a - b))

    forward = lambda logits: divergence(jax.nn.log_softmax(logits), ref)  # noqa: E731
    reverse = lambda logits: divergence(ref, jax.nn.log_softmax(logits))  # noqa: E731
    gradient = {
        "k1": jnp.zeros(5),
        "k2": jax.grad(forward)(logits),
        "k3": jax.grad(reverse)(logits),
    }
    assert_allclose(jax.grad(expected_loss)(logits), gradient[name], atol=1e-6)
    if name != "k2":  # k2 is biased as a value
        assert_allclose(expected_loss(logits), forward(logits), atol=1e-6)
    same = objectives.kl(name, ref[None, None], ref[None, None])
    assert_array_equal(same, np.zeros((1, 1, 5)))


def test_a_runaway_divergence_stays_finite():
    near, far = jnp.zeros((1, 1, 2)), jnp.full((1, 1, 2), -500.0)
    assert np.all(np.isfinite(objectives.kl("k3", far, near)))
