"""Estimators of rewards alone: binary groups, closed forms, limits in which they are another."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import beta

from g2rpo_jax.advantages import compute as advantages_of
from g2rpo_jax.advantages.success import _log_beta_density
from tests.advantages.references import center, per_group, z_score
from tests.advantages.test_ranked import compute
from tests.advantages.test_table import random_arrays, run

# Groups of eight, k = 1..7 right: what a right and a wrong response get.
MIRRORED = {  # a wrong one of k gets minus what a right one of 8 - k does
    "grpo": [2.475, 1.620, 1.208, 0.935, 0.725, 0.540, 0.354],
    "grpo_population": [2.646, 1.732, 1.291, 1.000, 0.775, 0.577, 0.378],
    "dr_grpo": [0.875, 0.750, 0.625, 0.500, 0.375, 0.250, 0.125],
    "rloo": [1.000, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143],
    "g2rpo": [1.534, 1.211, 0.970, 0.767, 0.582, 0.404, 0.219],
    "grpo_lead": [3.707, 2.418, 1.781, 1.325, 0.909, 0.513, 0.228],
}
BINARY = {key: (right, [-a for a in right[::-1]]) for key, right in MIRRORED.items()} | {
    "ngrpo": (
        [1.764, 1.333, 1.054, 0.843, 0.667, 0.504, 0.333],
        [-0.504, -0.667, -0.843, -1.054, -1.333, -1.764, -2.667],
    ),
    "mapo": (
        [5.020, 1.965, 1.236, 0.935, 0.717, 0.488, 0.235],
        [-0.717, -0.655, -0.742, -0.935, -1.195, -1.465, -1.645],
    ),
    "noise_aware": (
        [1.042, 1.168, 0.948, 0.748, 0.569, 0.389, 0.149],
        [-0.149, -0.389, -0.569, -0.748, -0.948, -1.168, -1.042],
    ),
}
EIGHT = np.array([[1.0] * k + [0.0] * (8 - k) for k in range(1, 8)])


@pytest.mark.parametrize("column", sorted(BINARY))
def test_binary_groups_of_eight(column):
    name, options = ("grpo", {"ddof": 0}) if column == "grpo_population" else (column, {})
    adv = compute(name, EIGHT, **options)
    right, wrong = BINARY[column]
    assert_allclose(adv[:, 0], right, atol=0.0006)
    assert_allclose(adv[:, 7], wrong, atol=0.0006)


def test_a_pair_under_grpo_is_the_sign_of_its_difference():
    """2-GRPO (It Takes Two: Your GRPO Is Secretly DPO, 2025): two responses, population std."""
    pairs = np.array([[0.25, 0.75], [1.0, -3.0], [0.5, 0.5], [0.0, 1.0]])
    expected = np.sign(pairs - pairs[:, ::-1])
    assert_allclose(compute("grpo", pairs, ddof=0), expected, atol=1e-5)
    assert_allclose(compute("grpo", pairs), expected / np.sqrt(2), atol=1e-5)


# Baselines


def test_opo_weighs_the_baseline_by_tokens():
    reward, tokens = np.array([[1.0, 0.0, 0.0]]), np.array([[10, 20, 70]])
    assert_allclose(compute("opo", reward, length_PG=tokens), reward - 0.1, rtol=1e-6)
    even = np.full((7, 8), 9)
    assert_allclose(compute("opo", EIGHT, length_PG=even), compute("dr_grpo", EIGHT), atol=1e-6)
    with pytest.raises(ValueError, match="opo reads response lengths and got none"):
        advantages_of("opo", EIGHT)


def test_asymre_shifts_the_baseline():
    assert_array_equal(compute("asymre", EIGHT, asymre_shift=0.0), compute("dr_grpo", EIGHT))
    assert_allclose(compute("asymre", np.ones((1, 4))), np.full((1, 4), 0.1))


def test_grpo_passk_trains_on_a_lone_best():
    reward = np.array([[0.5, 0.25, 0.0, 0.25], [1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    gap = compute("grpo_passk", reward, passk_scale="none")
    assert_array_equal(gap, [[0.25, 0, 0, 0], [0] * 4, [0] * 4])
    adv = compute("grpo_passk", reward)
    assert_allclose(adv[0, 0], 0.25 / np.std(reward[0], ddof=1), rtol=1e-5)
    valid = np.array([[True, False, False, False]] * 3)
    assert_array_equal(compute("grpo_passk", reward, valid_PG=valid), np.zeros((3, 4)))


def test_gpg_alpha_makes_up_for_prompts_without_gradient():
    reward = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1]])
    valid = np.ones((4, 4), bool)
    dr = compute("dr_grpo", reward)
    assert_allclose(compute("gpg", reward), 2 * dr)  # B = 4, M = 2
    valid[1] = False  # no longer a prompt: B = 3, M = 1
    assert_allclose(compute("gpg", reward, valid_PG=valid), 1.5 * dr)
    valid[3] = [False, True, True, True]  # its valid rewards are equal: M = 2
    expected = 3 * compute("dr_grpo", reward, valid_PG=valid)
    assert_allclose(compute("gpg", reward, valid_PG=valid), expected)
    scaled = compute("gpg", reward, gpg_scale="std", ddof=0)
    assert_allclose(scaled, 2 * compute("grpo", reward, ddof=0), rtol=1e-6)
    assert_array_equal(compute("gpg", np.ones((2, 4))), np.zeros((2, 4)))


# Batch statistics


def test_gdpo_whitens_over_tokens_or_over_responses():
    arrays = random_arrays(6)
    arrays["valid"][:] = True
    arrays["task"][:] = 0
    total = sum(per_group(z_score, c, arrays["valid"]) for c in arrays["components"].values())
    adv = run("gdpo", arrays, whitening="responses")[0]
    assert_allclose(adv, (total - total.mean()) / total.std(ddof=1), rtol=1e-4, atol=1e-5)
    tokens = run("gdpo", arrays)[0]
    assert_allclose(np.sum(tokens * arrays["length"]), 0, atol=1e-3)
    assert_allclose(np.sum(tokens**2 * arrays["length"]) / arrays["length"].sum(), 1, rtol=1e-4)


def test_lite_ppo_of_one_prompt_is_grpo_and_of_many_has_one_scale():
    assert_allclose(compute("lite_ppo", EIGHT[:1]), compute("grpo", EIGHT[:1]), rtol=1e-6)
    scale = np.std(EIGHT, ddof=1)
    assert_allclose(compute("lite_ppo", EIGHT), compute("dr_grpo", EIGHT) / scale, rtol=1e-5)


def test_reinforce_pp_baseline_is_white_over_what_it_counts():
    tokens = np.random.default_rng(1).integers(1, 50, EIGHT.shape)
    adv = compute("reinforce_pp_baseline", EIGHT, length_PG=tokens)
    assert_allclose(np.sum(adv * tokens), 0, atol=1e-3)
    assert_allclose(np.sum(adv**2 * tokens) / tokens.sum(), 1, rtol=1e-4)
    by_response = compute("reinforce_pp_baseline", EIGHT, whitening="responses")
    centred = EIGHT - EIGHT.mean(axis=1, keepdims=True)
    assert_allclose(by_response, centred / np.std(centred, ddof=1), rtol=1e-4)
    with pytest.raises(ValueError, match="whitening=responses"):
        advantages_of("reinforce_pp_baseline", EIGHT)


def test_ngrpo_punishes_groups_that_are_all_wrong():
    # n zeros and one best: mean 1 / (n + 1), sample variance 1 / (n + 1).
    for n in (1, 3, 8):
        adv = compute("ngrpo", np.zeros((1, n)))
        assert_allclose(adv, np.full((1, n), -1 / np.sqrt(n + 1)), rtol=1e-5)
    assert_array_equal(compute("ngrpo", np.ones((1, 8))), np.zeros((1, 8)))
    assert_array_equal(compute("ngrpo", np.full((1, 8), 0.9), ngrpo_best=0.9), np.zeros((1, 8)))


# The share of right responses


def test_mapo_is_grpo_where_half_are_right_and_relative_where_none_is():
    assert_allclose(compute("mapo", EIGHT[3:4]), compute("grpo", EIGHT[3:4]), rtol=1e-6)
    low = np.array([[0.0, 0.1, 0.2, 0.1]])  # none reaches a half
    assert_allclose(compute("mapo", low), (low - 0.1) / 0.1, atol=1e-4)


@pytest.mark.parametrize("p, n", [(0.5, 2), (0.2, 3), (0.05, 5)])
def test_maxrl_is_in_the_mean_a_longer_and_longer_piece_of_the_gradient_of_log_p(p, n):
    """Over all outcomes of n responses, each right with probability p: d log / dp of each is the
    score; sum over k < n of d/dp (1 - (1 - p)^k) / k = (1 - (1 - p)^(n - 1)) / p is expected."""
    outcomes = list(every_verdict(np.ones(n), 0.0, 1 - p))
    reward = np.array([said for said, _ in outcomes])
    score = np.where(reward == 1, 1 / p, -1 / (1 - p))
    gradient = np.array([chance for _, chance in outcomes]) @ (compute("maxrl", reward) * score)
    assert_allclose(gradient.mean(), (1 - (1 - p) ** (n - 1)) / p, rtol=1e-5)


def test_right_is_told_by_the_accuracy_where_there_is_one():
    total = np.array([[0.95, 0.5, 0.1]])  # with format and the like
    accuracy = {"accuracy": np.array([[0.8, 0.3, 0.6]])}
    assert_array_equal(compute("raft", total), [[1, 1, 0]])
    assert_array_equal(compute("raft", total, components=accuracy), [[1, 0, 1]])
    assert_array_equal(compute("raft", total, components=accuracy, success=0.7), [[1, 0, 0]])


def test_raft_and_reinforce_rej_differ_in_wrong_ones_and_in_solved_prompts():
    reward = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert_array_equal(compute("raft", reward), [[1, 0, 0], [1, 1, 1], [0, 0, 0]])
    assert_array_equal(compute("reinforce_rej", reward), [[1, -1, -1], [0, 0, 0], [0, 0, 0]])


def test_weights_that_are_off_leave_grpo():
    grpo = compute("grpo", EIGHT)
    flat = compute("grpo_lead", EIGHT, lead_low=1.0, lead_span=0.0)
    assert_allclose(flat, grpo, rtol=1e-6)
    assert_allclose(compute("noise_aware", EIGHT, flip_rate=0.0), grpo, rtol=1e-5)


def test_noise_aware_silences_groups_that_flipped_labels_explain():
    adv = compute("noise_aware", EIGHT, flip_rate=0.125)
    assert_allclose(adv[[0, 6]], 0, atol=1e-6)  # one of eight differs: as expected of noise
    assert np.all(np.abs(adv[1:6]) > 0.1)


def test_bnpo_is_dr_grpo_where_nothing_can_be_fitted_or_the_density_is_flat():
    same = np.array([[1, 0, 0, 0], [0, 1, 0, 0]])  # equal success rates: v = 0
    assert_array_equal(compute("bnpo", same), compute("dr_grpo", same))
    # Rates 0, 1, 0, 1, 1/2: v = m (1 - m), so alpha = beta = 1.
    rates = np.array([[0, 0], [1, 1], [0, 0], [1, 1], [0, 1]])
    assert_allclose(compute("bnpo", rates), compute("dr_grpo", rates), rtol=1e-5)


def test_bnpo_divides_by_the_fitted_density():
    share = EIGHT.mean(axis=1)
    m, v = 0.5, np.var(share, ddof=1)
    assert_allclose([share.mean(), v], [0.5, 7 / 96])
    alpha = 1 + (m * (1 - m) / v - 1) * m / 3
    expected = per_group(center, EIGHT, EIGHT >= 0) / beta.pdf(share, alpha, alpha)[:, None]
    assert_allclose(compute("bnpo", EIGHT), expected, rtol=1e-5)


@pytest.mark.parametrize("a, b", [(1, 1), (1.2, 3.4), (7, 2), (30, 50), (400, 300), (5e3, 5e3)])
def test_the_log_of_a_beta_density(a, b):
    p = np.array([0.02, 0.3, 0.5, 0.61, 0.98])
    got = _log_beta_density(jnp.asarray(p, jnp.float32), jnp.float32(a), jnp.float32(b))
    assert_allclose(got, beta.logpdf(p, a, b), rtol=1e-5, atol=1e-4)


# Verifiers that err


def every_verdict(truth, positive, negative):
    """What a verifier may say of binary `truth`, with the probability of each."""
    chances = np.where(truth == 1, 1 - negative, positive)
    for said in itertools.product([0.0, 1.0], repeat=len(truth)):
        said = np.array(said)
        yield said, np.prod(np.where(said == 1, chances, 1 - chances))


def expected_over_verdicts(name, truth, positive, negative):
    rates = {"false_positive": (positive,), "false_negative": (negative,)}
    verdicts = list(every_verdict(truth, positive, negative))
    adv = compute(name, [said for said, _ in verdicts], **rates)
    return np.array([chance for _, chance in verdicts]) @ adv


@pytest.mark.parametrize("positive, negative", [(0.0, 0.0), (0.1, 0.3), (0.4, 0.05)])
def test_corrections_have_the_right_mean_over_the_verifier_s_errors(positive, negative):
    truth = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    mean = expected_over_verdicts("verifier_backward", truth, positive, negative)
    assert_allclose(mean, truth - truth.mean(), atol=1e-6)
    mean = expected_over_verdicts("verifier_forward", truth, positive, negative)
    assert_allclose(mean, (1 - positive - negative) * (truth - 1), atol=1e-6)


def test_each_task_has_its_own_rates():
    pair = np.array([[0.0, 1.0]] * 2)
    rates = {"task_P": [0, 1], "false_positive": (0.0, 0.25), "false_negative": (0.0, 0.25)}
    assert_allclose(compute("verifier_backward", pair, **rates), [[-0.5, 0.5], [-1, 1]])
    assert_allclose(compute("verifier_forward", pair, **rates), [[-1, 0], [-0.75, 0.25]])
    with pytest.raises(ValueError, match="false_positive has 2 rates, but there are 1 tasks"):
        advantages_of("verifier_backward", pair, false_positive=(0.1, 0.2))
    with pytest.raises(ValueError, match=r"false_positive=\(0.1, 0.5\) lies outside"):
        advantages_of("verifier_backward", pair, false_positive=(0.1, 0.5))
