"""G2RPO and its kin: the paper's figures, the release's second stage, what holds to the bit."""

import hypothesis as hyp
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import advantages, ranks
from tests.advantages.references import G, P, ot, per_group
from tests.advantages.test_table import BY_RANK, groups, random_arrays, run


def compute(name, reward, **kwargs):
    return np.asarray(advantages.compute(name, np.asarray(reward, np.float32), **kwargs)[0])


# Figures of the paper and of the authors' release


@pytest.mark.parametrize(
    "reward, g2rpo",
    [
        ([0, 0, 0, 0, 1], [-0.32] * 4 + [1.28]),
        ([0, 0, 1, 1, 1], [-0.9] * 2 + [0.6] * 3),
        ([0.1, 0.1, 0.1, 0.2, 1.0], [-0.6] * 3 + [0.52, 1.28]),
        ([0.81, 0.81, 0.82, 0.82, 0.83], [-0.9, -0.9, 0.26, 0.26, 1.28]),
    ],
)
def test_g2rpo_column_of_figure_2(reward, g2rpo):
    assert_allclose(compute("g2rpo", [reward])[0], g2rpo, atol=0.0051)


def test_grpo_column_of_figure_2_is_the_population_std():
    adv = compute("grpo", [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]], ddof=0)
    # The paper cuts -1.2247 and 0.8165 to two decimals: 1.22, 0.81.
    expected = [[-0.5] * 4 + [2.0], [-1.22] * 2 + [0.81] * 3]
    assert_allclose(adv, expected, atol=0.007)
    sample = compute("grpo", [[0, 0, 0, 0, 1]])[0]
    assert_allclose(sample, [-0.447] * 4 + [1.789], atol=0.001)


def test_ema_and_dr_grpo_columns_of_figure_2():
    # The figure gives sigma = 0.156; decay 1 keeps it through the update.
    sigma = advantages.TaskScale(jnp.full(1, 0.156), jnp.ones(1, bool))
    adv = compute("ema_grpo", [[0.1, 0.1, 0.1, 0.2, 1.0]], state=sigma, ema_decay=1.0)
    assert_allclose(adv[0], [-1.28] * 3 + [-0.64, 4.48], atol=0.01)
    adv = compute("dr_grpo", [[0.81, 0.81, 0.82, 0.82, 0.83]])
    assert_allclose(adv[0], [-0.008, -0.008, 0.002, 0.002, 0.012], atol=1e-6)


def test_second_stage_of_the_release_mixes_prompts():
    one_of_eight, three_of_eight, solved = (
        np.array([1.0] * k + [0.0] * (8 - k)) for k in (1, 3, 8)
    )
    adv = compute("g2rpo_release", [one_of_eight, solved])
    assert_allclose(adv[1], [0.540] * 8, atol=0.0006)  # a solved prompt is pushed up
    adv = compute("g2rpo_release", [one_of_eight, three_of_eight])
    assert_allclose(adv[0, 1:], [0.083] * 7, atol=0.0006)  # and so are wrong answers
    assert_allclose(adv[1, 3:], [-1.109] * 5, atol=0.0006)
    apart = compute("g2rpo_release", [one_of_eight, three_of_eight], task_P=[0, 1])
    assert_allclose(apart, compute("g2rpo", [one_of_eight, three_of_eight]), atol=1e-6)


def test_the_task_wide_reading_pushes_solved_prompts_up_and_failed_ones_down():
    reward = np.array([[1.0] * 4, [0.0] * 4])
    adv = compute("g2rpo_task", reward)
    assert_allclose(adv, np.array([[1.0] * 4, [-1.0] * 4]) * ot([1.0, 0.0] * 4)[0], atol=1e-6)
    assert_array_equal(compute("g2rpo_task", reward, task_P=[0, 1]), np.zeros((2, 4)))
    one = np.random.default_rng(3).random((1, 8))
    assert_allclose(compute("g2rpo_task", one), compute("g2rpo", one), atol=1e-6)


@hyp.given(groups())
def test_win_rate_sees_the_order_of_rewards_alone(arrays):
    bent = arrays | {"reward": np.sign(arrays["reward"]) * arrays["reward"] ** 2}
    assert_array_equal(run("win_rate", bent)[0], run("win_rate", arrays)[0])


def test_win_rate_counts_a_tie_as_half_a_win():
    rate = np.array([0.25, 0.25, 1.0])  # of two others each: half, half; two
    expected = (rate - rate.mean()) / rate.std(ddof=1)
    assert_allclose(compute("win_rate", [[0, 0, 5]])[0], expected, rtol=1e-5)


# What must hold to the bit


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32)


def test_stage_two_keeps_ties_of_stage_one_across_prompts():
    # The same ranks from unlike rewards: floats normalised per prompt would differ in the last bit.
    reward = np.array([[0.1, 0.1, 0.7, 0.9], [0.3, 0.3, 0.31, 0.32], [5, 5, 6, 1e4]])
    for form in ranks.RANKS:
        adv = bits(compute("g2rpo_release", reward, ranks=form))
        assert_array_equal(adv, np.broadcast_to(adv[:1], adv.shape))
        # Four tied levels of 3, 3, 3 and 3 + 3 values, so not 12 distinct ones.
        assert len(np.unique(adv)) == 3


def test_sums_of_components_that_tie_are_tied():
    rng = np.random.default_rng(2)
    trades = 0
    for _ in range(40):
        parts = {key: rng.integers(0, 2, (P, G)) / 1.0 for key in ("a", "b", "c")}
        total = sum(per_group(ot, c, np.ones((P, G), bool)) for c in parts.values())
        adv = compute("gaussian_gdpo", np.zeros((P, G)), components=parts)
        _, label = np.unique(np.round(total, 9), return_inverse=True)
        for tie in range(label.max() + 1):
            same = label.reshape(P, G) == tie
            assert len(np.unique(bits(adv)[same])) == 1
            trades += (
                len({tuple(c[same][i] for c in parts.values()) for i in range(same.sum())}) > 1
            )
    assert trades > 20  # the law was tested on unlike triples


@hyp.given(groups())
def test_negated_rewards_give_exactly_negated_ranks(arrays):
    negated = arrays | {"reward": -arrays["reward"]}
    for name in ("g2rpo", "g2rpo_release"):
        assert_array_equal(run(name, negated)[0], -run(name, arrays)[0])


@pytest.mark.parametrize(
    "name, unit_variance", [("g2rpo", True), *((name, False) for name in BY_RANK)]
)
def test_comparison_and_erfinv_forms_agree(name, unit_variance):
    for seed in range(20):
        arrays = random_arrays(seed)
        one = run(name, arrays, unit_variance=unit_variance)[0]
        two = run(name, arrays, unit_variance=unit_variance, ranks="erfinv")[0]
        assert_allclose(one, two, atol=3e-6)
