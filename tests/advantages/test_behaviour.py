"""Estimators that look at how responses were sampled: float64 references and their limits."""

import functools

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax.advantages import compute
from tests.advantages.loops import MORE, shaped, z_score

P, G = 4, 6
NAMES = ("edge_grpo", "unlikeliness", "grpo_s")


def adv(name, reward, **kwargs):
    return np.asarray(compute(name, np.asarray(reward, np.float32), **kwargs)[0])


def arrays(seed):
    """A fifth invalid, some equal rewards and likelihoods, some entropies below the floor."""
    rng = np.random.default_rng(seed)
    found = {
        "reward": rng.integers(0, 9, (P, G)) / 8,
        "valid_PG": rng.random((P, G)) > 0.2,
        "surprise_PG": rng.uniform(0.0, 1.5, (P, G)) ** 3,
        "logp_PG": -rng.integers(1, 6, (P, G)).astype(float),
    }
    found["reward"][0] = 0.375
    found["valid_PG"][1] = np.arange(G) == 2
    return found


@pytest.mark.parametrize("name", NAMES)
def test_low_entropies_and_equal_likelihoods_as_the_reference_has_them(name):
    for seed in range(20):
        found = arrays(seed)
        given = {key.removesuffix("_PG"): value for key, value in found.items()}
        expected = MORE[name](**given, components={"accuracy": found["reward"]})
        # GRPO divides by a std that float32 knows to about 1e-6 relative.
        assert_allclose(adv(name, **found), expected, atol=2e-5, rtol=5e-5)


@pytest.mark.parametrize("name", NAMES)
@hyp.settings(max_examples=20)
@hyp.given(
    hnp.arrays(bool, (P, G)), st.permutations(range(G)), st.sampled_from([np.nan, np.inf, -1e30])
)
def test_invalid_responses_are_inert_and_a_permutation_is_followed(name, valid, across, poison):
    found = arrays(3) | {"valid_PG": valid}
    got = adv(name, **found)
    dirty = {
        key: value if key == "valid_PG" else np.where(valid, value, poison)
        for key, value in found.items()
    }
    assert_array_equal(adv(name, **dirty), got)
    assert_array_equal(got[~valid], 0.0)
    moved = {key: value[:, np.array(across)] for key, value in found.items()}
    assert_allclose(adv(name, **moved), got[:, np.array(across)], atol=2e-5)


@pytest.mark.parametrize("name", ("edge_grpo", "grpo_s"))
def test_equal_entropies_leave_grpo(name):
    # GRPO-S then has rewards of +-(1 + a): a shifted and scaled 0 or 1.
    for k in range(1, 8):
        reward = (np.arange(8) < k).astype(float)[None]
        expected = adv("grpo", reward)
        assert_allclose(adv(name, reward, surprise_PG=np.full((1, 8), 0.7)), expected, atol=1e-5)


def test_edge_grpo_multiplies_by_mean_entropy_over_own():
    # Two right, two wrong: z is +-sqrt(3)/2 at ddof 1. Mean entropy 0.5.
    got = adv("edge_grpo", [[1, 1, 0, 0]], surprise_PG=np.array([[0.25, 1.0, 0.5, 0.25]]))
    z = np.sqrt(3) / 2
    assert_allclose(got, [[2 * z, 0.5 * z, -z, -2 * z]], rtol=1e-5)


def test_edge_grpo_of_equal_rewards_is_exactly_zero():
    surprise = np.array([[0.0, 1e-9, 2.0, 0.3]])
    for value in (0.0, 0.1, 1 / 3):
        got = adv("edge_grpo", np.full((1, 4), value), surprise_PG=surprise)
        assert_array_equal(got, np.zeros((1, 4)))


def test_the_rarer_success_counts_more_and_failures_alike():
    reward, logp = np.array([[1, 1, 0, 0]]), np.array([[-9.0, -1, -5, -2]])
    got = adv("unlikeliness", reward, logp_PG=logp)
    assert got[0, 0] > got[0, 1] > 0 > got[0, 2] == got[0, 3]
    # Ranks 0 and 3 of 4: the rewards are 1 and 1 - 0.25 * 3 / 4.
    assert_allclose(got, adv("grpo", [[1, 0.8125, 0, 0]]), rtol=1e-5)
    assert_allclose(
        adv("unlikeliness", reward, logp_PG=logp, unlikeliness=0.0), adv("grpo", reward)
    )
    equal = adv("unlikeliness", reward, logp_PG=np.full((1, 4), -3.0))
    assert_allclose(equal, adv("grpo", reward * (1 - 0.25 * 1.5 / 4)), rtol=1e-5)


def test_grpo_s_puts_every_right_response_above_every_wrong_one():
    found = arrays(5)
    found["valid_PG"][:] = True
    got = adv("grpo_s", **found)
    for p in range(P):
        right = found["reward"][p] >= 0.5
        if right.any() and not right.all():
            assert got[p, right].min() > 0 > got[p, ~right].max()


def test_grpo_s_by_sets_is_centred_within_right_and_within_wrong():
    found = arrays(5)
    found["valid_PG"][:] = True
    got = adv("grpo_s", **found, entropy_scope="sets")
    for p in range(P):
        right = found["reward"][p] >= 0.5
        for part in (right, ~right):
            if part.any():
                expected = z_score(shaped(right, found["surprise_PG"][p])[part])
                assert_allclose(got[p, part], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "field"),
    [("edge_grpo", "surprise_PG"), ("grpo_s", "surprise_PG"), ("unlikeliness", "logp_PG")],
)
def test_what_is_missing_is_named(name, field):
    with pytest.raises(ValueError, match=f"{name} looks at .*pass {field}"):
        compute(name, np.eye(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unlikeliness": 1.5}, "advantage.unlikeliness=1.5"),
        ({"entropy_floor": 0.0}, "advantage.entropy_floor=0.0"),
        ({"entropy_scope": "both"}, "unknown advantage.entropy_scope 'both'"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        functools.partial(compute, "grpo", np.eye(3))(**options)
