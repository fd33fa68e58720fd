"""Weights for the gap between sampler and trainer."""

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax.objectives import ObjectiveConfig, importance_weights

RATIO = np.array([[[0.2, 0.6, 1.0, 1.9], [2.5, 4.0, 6.0, 1.0]]])
MASK = np.ones(RATIO.shape, bool)


def weights(ratio, mask=MASK, **fields):
    sampler = np.full(ratio.shape, -3.0, np.float32)
    old = (sampler + np.log(ratio)).astype(np.float32)
    return importance_weights(ObjectiveConfig(**fields), old, sampler, mask)


@pytest.mark.parametrize(
    "name, expected, cut",
    [
        ("none", np.ones(RATIO.shape), np.zeros(RATIO.shape)),
        ("truncated", np.minimum(RATIO, 2.0), RATIO > 2.0),
        ("masked", RATIO * (RATIO >= 0.5) * (RATIO <= 5.0), (RATIO < 0.5) | (RATIO > 5.0)),
    ],
)
def test_tokens_by_hand(name, expected, cut):
    weight, changed = weights(RATIO, importance=name)
    assert_allclose(weight, expected, rtol=1e-5)
    assert_array_equal(changed, cut)


@pytest.mark.parametrize(
    "level, ratios",
    [
        ("sequence", [0.2 * 0.6 * 1.9, 2.5 * 4.0 * 6.0]),
        ("geometric", [(0.2 * 0.6 * 1.9) ** 0.25, 60.0**0.25]),
    ],
)
def test_responses_by_hand(level, ratios):
    weight, cut = weights(RATIO, importance="truncated", importance_level=level, importance_cap=2.5)
    assert_allclose(weight[0], np.repeat(np.minimum(ratios, 2.5)[:, None], 4, 1), rtol=1e-5)
    assert_array_equal(cut[0], np.repeat(np.array(ratios)[:, None] > 2.5, 4, 1))


def test_a_response_has_the_ratio_of_its_own_tokens_only():
    mask = MASK.copy()
    mask[0, 1, 1:] = False
    wild = np.where(mask, RATIO, 1e6)
    for level, ratio in (("sequence", 2.5), ("geometric", 2.5)):
        weight, _ = weights(wild, mask, importance="masked", importance_level=level)
        assert_allclose(weight[0, 1], ratio, rtol=1e-5)


@hyp.given(
    ratio=hnp.arrays(np.float64, (2, 3, 4), elements=hyp.strategies.floats(1e-3, 1e3)),
    level=hyp.strategies.sampled_from(["token", "sequence", "geometric"]),
)
@hyp.settings(deadline=None, max_examples=25)
def test_weights_stay_within_their_bounds_and_the_unbounded_are_ratios(ratio, level):
    mask = np.ones(ratio.shape, bool)
    over = {"token": ratio, "sequence": ratio.prod(-1, keepdims=True)}
    over["geometric"] = over["sequence"] ** 0.25
    plain = np.broadcast_to(np.clip(over[level], np.exp(-20), np.exp(20)), ratio.shape)
    for name, top in (("truncated", 2.0), ("masked", 5.0)):
        weight, cut = weights(ratio, mask, importance=name, importance_level=level)
        assert np.all(weight >= 0) and np.all(weight <= top)
        assert_allclose(np.where(cut == 0, weight, 0), np.where(cut == 0, plain, 0), rtol=1e-4)
