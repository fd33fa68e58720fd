"""Policy losses against torch autograd transcriptions and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import objectives
from g2rpo_jax.objectives import AGGREGATIONS, KL_ESTIMATORS, OBJECTIVES, ObjectiveConfig

P, G, T = 3, 4, 6


def random_batch(seed, spread=0.6):
    rng = np.random.default_rng(seed)
    old_PGT = -rng.exponential(1.0, (P, G, T)).astype(np.float32)
    logp_PGT = (old_PGT + rng.normal(0, spread, (P, G, T))).astype(np.float32)
    adv_PG = rng.normal(0, 1, (P, G)).astype(np.float32)
    length_PG = rng.integers(0, T + 1, (P, G))
    length_PG[0, 0] = 0  # a response without tokens
    mask_PGT = np.arange(T) < length_PG[..., None]
    return logp_PGT, old_PGT, adv_PG, mask_PGT


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


def scalar_loss(config, logp_PGT, old_PGT, adv_PG, mask_PGT):
    loss_PGT, _ = objectives.token_losses(config, logp_PGT, old_PGT, adv_PG)
    weight_PGT = objectives.aggregation_weights(config.aggregation, mask_PGT, config.fixed_length)
    return jnp.sum(weight_PGT * loss_PGT)


@pytest.mark.parametrize("transcription", [torch_clip, torch_easyr1])
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_value_and_gradient_equal_torch(aggregation, transcription):
    logp_PGT, old_PGT, adv_PG, mask_PGT = random_batch(0, spread=1.0)
    config = ObjectiveConfig(aggregation=aggregation, fixed_length=50)
    value, grad = jax.value_and_grad(scalar_loss, argnums=1)(
        config, jnp.asarray(logp_PGT), old_PGT, adv_PG, mask_PGT
    )
    logp = torch.tensor(logp_PGT, requires_grad=True)
    adv = torch.tensor(adv_PG)[..., None].expand(P, G, T)
    loss = transcription(logp, torch.tensor(old_PGT), adv, 0.2, 0.3, 3.0)
    expected = TORCH_AGGREGATIONS[aggregation](loss, torch.tensor(mask_PGT).float())
    expected.backward()
    assert_allclose(value, expected.item(), rtol=1e-5)
    assert_allclose(grad, logp.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_first_update_is_the_plain_policy_gradient(name, aggregation):
    _, old_PGT, adv_PG, mask_PGT = random_batch(1)
    config = ObjectiveConfig(name=name, aggregation=aggregation)
    grad = jax.grad(scalar_loss, argnums=1)(config, jnp.asarray(old_PGT), old_PGT, adv_PG, mask_PGT)
    weight = objectives.aggregation_weights(aggregation, mask_PGT, config.fixed_length)
    assert_allclose(grad, -weight * adv_PG[..., None], rtol=1e-6)  # not half of it at the tie


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_no_gradient_reaches_old_log_probs_or_advantages(name):
    batch = [jnp.asarray(x) for x in random_batch(2)]
    grads = jax.grad(scalar_loss, argnums=(2, 3))(ObjectiveConfig(name=name), *batch)
    for grad in grads:
        assert_array_equal(grad, 0.0)


@pytest.mark.parametrize(
    "adv, ratio, loss, clipped",
    [
        (2.0, 1.2, -2.4, 0.0),  # inside
        (2.0, 1.5, -2.6, 1.0),  # above 1 + high: bound, no gradient
        (2.0, 0.5, -1.0, 0.0),  # a good response that became unlikely is pulled back
        (-2.0, 0.9, 1.8, 0.0),
        (-2.0, 0.5, 1.6, 1.0),  # below 1 - low
        (-2.0, 2.5, 5.0, 0.0),  # single clip leaves it open
        (-2.0, 9.0, 6.0, 1.0),  # dual clip: -3 A
        (0.0, 9.0, 0.0, 0.0),
    ],
)
def test_each_side_of_the_clip(adv, ratio, loss, clipped):
    logp = jnp.full((1, 1, 1), np.log(ratio), jnp.float32)
    old = jnp.zeros((1, 1, 1))
    adv_PG = jnp.full((1, 1), adv)
    value, flag = objectives.token_losses(ObjectiveConfig(), logp, old, adv_PG)
    assert_allclose(value[0, 0, 0], loss, rtol=1e-5)
    assert flag[0, 0, 0] == clipped
    grad = jax.grad(lambda x: objectives.token_losses(ObjectiveConfig(), x, old, adv_PG)[0].sum())
    assert (grad(logp)[0, 0, 0] == 0) == (clipped == 1 or adv == 0)


def test_dual_clip_zero_is_off():
    config = ObjectiveConfig(dual_clip=0.0)
    loss, clipped = objectives.token_losses(
        config, jnp.full((1, 1, 1), np.log(9.0)), jnp.zeros((1, 1, 1)), jnp.full((1, 1), -2.0)
    )
    assert_allclose(loss, 18.0, rtol=1e-5)
    assert_array_equal(clipped, 0.0)


def test_a_runaway_log_ratio_stays_finite():
    old = jnp.full((1, 1, 2), -500.0)
    logp = jnp.zeros((1, 1, 2))
    config = ObjectiveConfig(dual_clip=0.0)
    loss, _ = objectives.token_losses(config, logp, old, jnp.full((1, 1), -1.0))
    assert_allclose(loss, np.exp(20.0), rtol=1e-5)
    assert np.all(np.isfinite(objectives.kl("k3", old, logp)))


@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_micro_batches_add_up_to_the_whole_batch(aggregation):
    logp_PGT, old_PGT, adv_PG, mask_PGT = random_batch(3)
    config = ObjectiveConfig(aggregation=aggregation)
    weight_PGT = objectives.aggregation_weights(aggregation, mask_PGT, config.fixed_length)

    def part(logp_PGT, rows):
        old, adv = old_PGT[rows], adv_PG[rows]
        loss, _ = objectives.token_losses(config, logp_PGT[rows], old, adv)
        return jnp.sum(weight_PGT[rows] * loss)

    grads = [jax.grad(part)(jnp.asarray(logp_PGT), slice(p, p + 1)) for p in range(P)]
    whole = jax.grad(part)(jnp.asarray(logp_PGT), slice(None))
    assert_array_equal(sum(grads), whole)


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


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objective_contract(name):
    batch = [jnp.asarray(x) for x in random_batch(5)]
    config = ObjectiveConfig(name=name)
    jitted = jax.jit(objectives.token_losses, static_argnums=0)
    for eager, compiled in zip(
        objectives.token_losses(config, *batch[:3]), jitted(config, *batch[:3]), strict=True
    ):
        assert eager.shape == (P, G, T) and eager.dtype == jnp.float32
        assert np.all(np.isfinite(eager))
        assert_allclose(eager, compiled, rtol=1e-6)
    compiled_before = jitted._cache_size()
    jitted(ObjectiveConfig(name=name), *[x + 0 for x in batch[:3]])
    assert jitted._cache_size() == compiled_before


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("name", "clipp", "unknown objective 'clipp'; did you mean 'clip'?"),
        ("aggregation", "token", "unknown aggregation 'token'; did you mean 'token_mean'?"),
        ("kl_estimator", "k4", "unknown KL estimator"),
        ("clip_low", 1.5, "clip_low=1.5"),
        ("clip_high", -0.1, "clip_high=-0.1"),
        ("dual_clip", 0.5, "dual_clip=0.5"),
        ("fixed_length", 0, "fixed_length=0"),
        ("kl_coefficient", -1.0, "kl_coefficient=-1.0"),
        ("clip_high", float("nan"), "clip_high=nan"),
    ],
)
def test_a_bad_setting_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ObjectiveConfig(**{field: value})
