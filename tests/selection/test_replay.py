"""Which stored rows come again."""

import numpy as np
import pytest

from g2rpo_jax.selection.chance import uniforms
from g2rpo_jax.selection.replay import REPLAYS, ReplayConfig, Stored, choose


def stored(rewards, born=None, seed=0):
    reward_RG = np.array(rewards, np.float32)
    R = len(reward_RG)
    return Stored(
        reward_RG,
        reward_RG,
        np.arange(R) if born is None else np.array(born),
        uniforms(seed, "t", 0, R),
    )


ROWS = stored([[0, 0], [1, 1], [0, 1], [0.5, 1]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", []),
        ("recent", [3, 2]),
        ("highest_reward", [1, 3]),
        ("max_variance", [2, 3]),
    ],
)
def test_rules_by_hand(name, expected):
    assert choose(ReplayConfig(name=name), ROWS, 2).tolist() == expected


@pytest.mark.parametrize("name", REPLAYS)
def test_no_row_is_chosen_twice_and_none_that_is_not_there(name):
    for count in (0, 1, 3, 9):
        chosen = choose(ReplayConfig(name=name), ROWS, count)
        assert len(set(chosen.tolist())) == len(chosen) == (0 if name == "none" else min(count, 4))
        assert set(chosen.tolist()) <= set(range(4))


@pytest.mark.parametrize("name", ["recent", "highest_reward", "max_variance"])
def test_ties_are_broken_by_chance(name):
    equal = [[0, 1]] * 5
    first = {
        int(choose(ReplayConfig(name=name), stored(equal, [7] * 5, s), 1)[0]) for s in range(60)
    }
    assert first == set(range(5))


def test_random_is_uniform():
    counts = np.zeros(4)
    for seed in range(2000):
        counts[choose(ReplayConfig(name="random"), stored(ROWS.reward_RG, seed=seed), 1)] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_middle_draws_buckets_by_a_gaussian_and_rows_of_a_bucket_alike():
    G = 4
    right = [0, 1, 1, 1, 2, 3, 4]  # of G
    rewards = [[1] * k + [0] * (G - k) for k in right]
    counts, draws = np.zeros(len(right)), 4000
    for seed in range(draws):
        counts[choose(ReplayConfig(name="middle"), stored(rewards, seed=seed), 1)] += 1
    bucket = {k: np.exp(-((k - G / 2) ** 2) / 2) for k in set(right)}
    p = np.array([bucket[k] / right.count(k) for k in right]) / sum(bucket.values())
    np.testing.assert_allclose(counts / draws, p, atol=5 * np.sqrt(0.25 / draws))


def test_numbers_depend_on_seed_purpose_and_place_alone():
    one = uniforms(3, "a", 5, 8)
    np.testing.assert_array_equal(one, uniforms(3, "a", 5, 8))
    assert ((one > 0) & (one < 1)).all() and one.dtype == np.float64
    for other in (uniforms(4, "a", 5, 8), uniforms(3, "b", 5, 8), uniforms(3, "a", 6, 8)):
        assert not np.isin(one, other).any()
    many = np.array([uniforms(0, "a", place)[0] for place in range(2000)])
    assert abs(many.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 2000)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="unknown replay 'randon'; did you mean 'random'"):
        ReplayConfig(name="randon")
    for field, value in (("share", 0.0), ("every", 0), ("capacity", 0), ("min_advantage", -1.0)):
        with pytest.raises(ValueError, match=f"replay.{field}={value}"):
            ReplayConfig(**{field: value})
