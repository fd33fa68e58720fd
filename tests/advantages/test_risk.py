"""RiskPO: loops over bundles and papers in float64 say the same."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax.advantages import compute

P, G = 7, 6


def run(found, state=None, **options):
    adv, state = compute("risk_po", **found, state=state, num_tasks=1, **options)
    return np.asarray(adv), state


class RiskPo:
    """The formula by loops; q is None before the first batch."""

    def __init__(self, bundle=5, low=0.2, high=0.8, mix=1.5, rate=0.1, baseline=True, credit=None):
        self.bundle, self.levels, self.mix = bundle, (low, high), mix
        self.rate, self.baseline, self.credit, self.q = rate, baseline, credit, None

    def __call__(self, reward, valid):
        out, papers = np.zeros(reward.shape), {}
        for start in range(0, len(reward), self.bundle):
            here = slice(start, start + self.bundle)
            for j in range(reward.shape[1]):
                got = reward[here, j][valid[here, j]]
                if len(got):
                    papers[start, j] = self.bundle * got.mean()
        scores = np.array(list(papers.values()))
        first = self.q is None
        down, up = self.q = np.quantile(scores, self.levels) if first else self.q
        for (start, j), score in papers.items():
            here = np.arange(start, min(start + self.bundle, len(reward)))
            rvar = max(score - down, 0) - max(score - up, 0) - self.baseline * (up - down)
            rvar /= self.levels[1] - self.levels[0]
            cvar = -max(down - score, 0) / self.levels[0]
            mine = [papers[key] for key in papers if key[0] == start]
            sd = np.std(mine, ddof=1) if len(mine) > 1 else 0.0
            value = (self.mix * cvar + rvar) / (self.mix + 1) / (sd + 1e-6 if sd > 0 else 1)
            here = here[valid[here, j]]
            for p in here:
                rewards = reward[p, valid[p]]
                sd_p = np.std(rewards, ddof=1) if len(rewards) > 1 else 0.0
                deviations = [reward[q, j] - reward[q, valid[q]].mean() for q in here]
                total = sum(deviations)
                out[p, j] = (
                    value
                    * {
                        None: 1.0,
                        "score": 0.5 if reward[p, j] > 0 else 1.5,
                        "std": 1 / ((sd_p if sd_p > 1e-3 else 1.0) + 1e-6),
                        "sum_mean": deviations[list(here).index(p)] / total
                        if abs(total) > 1e-6
                        else 1 / len(here),
                    }[self.credit]
                )
        if not first:
            shares = [np.mean(scores < q) for q in self.q]
            self.q = self.q + self.rate * (np.array(self.levels) - shares)
        return out


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
