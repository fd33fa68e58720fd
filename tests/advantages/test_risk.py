"""RiskPO: loops over bundles and papers in float64 say the same."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax.advantages import compute
from tests.advantages.loops import RiskPo

P, G = 7, 6


def run(found, state=None, **options):
    adv, state = compute("risk_po", **found, state=state, num_tasks=1, **options)
    return np.asarray(adv), state


def batches(seed, valid_share=0.8, steps=4):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        valid = rng.random((P, G)) < valid_share
        yield {"reward_PG": rng.integers(0, 33, (P, G)) / 32, "valid_PG": valid}


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, {}),
        ({"risk_bundle": 3, "risk_baseline": False}, {"bundle": 3, "baseline": False}),
        ({"risk_credit": "score", "risk_mix": 0.0}, {"credit": "score", "mix": 0.0}),
        ({"risk_credit": "std", "risk_bundle": 2}, {"credit": "std", "bundle": 2}),
        ({"risk_low": 0.3, "risk_high": 0.9}, {"low": 0.3, "high": 0.9}),
    ],
)
def test_advantages_over_batches_equal_the_loops(options, reference):
    for seed in range(3):
        expected, state = RiskPo(**reference), None
        for found in batches(seed):
            want = expected(found["reward_PG"], found["valid_PG"])
            adv, state = run(found, state, **options)
            assert_allclose(adv, want, atol=1e-4, rtol=1e-4)
            assert_allclose([state.low, state.high], expected.q, atol=1e-5)


def test_shares_of_the_deviations_sum_to_the_papers_advantage():
    for seed in range(3):
        expected, state = RiskPo(credit="sum_mean"), None
        for found in batches(seed, valid_share=1.0):
            want = expected(found["reward_PG"], found["valid_PG"])
            adv, state = run(found, state, risk_credit="sum_mean")
            assert_allclose(adv, want, atol=1e-3, rtol=2e-3)  # small denominators by design


def test_the_lower_tail_weighs_most_and_nothing_is_pushed_up_with_the_baseline():
    found = {"reward_PG": np.arange(8.0)[None] / 8}
    adv, _ = run(found, risk_bundle=1)
    assert np.all(np.diff(adv[0]) >= 0) and adv.max() == 0
    steps = np.diff(adv[0])
    assert steps[0] > steps[3] > steps[-1] == 0  # tail, middle, above the upper quantile


def test_papers_that_score_alike_are_finite_and_nothing_happens_without_papers():
    state = None
    for value in (0.25, 0.75, 0.75):
        adv, state = run({"reward_PG": np.full((P, G), value)}, state)
        assert np.all(np.abs(adv) < 20)
    before = np.array([state.low, state.high])
    adv, state = run({"reward_PG": np.zeros((P, G)), "valid_PG": np.zeros((P, G), bool)}, state)
    assert_array_equal(adv, 0.0)
    assert_array_equal([state.low, state.high], before)
