"""Every loss against its published form in float64 torch, and where it meets a simpler one."""

import dataclasses

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import objectives
from g2rpo_jax.objectives import ObjectiveConfig
from tests.objectives import references
from tests.objectives.batches import G, P, T, batch, one, scalar, value_and_gradient

CASES = [
    *({"name": name} for name in references.PER_RESPONSE if name not in ("gspo", "gspo_token")),
    {"name": "clip", "dual_clip": 0.0, "clip_high": 0.2},
    {"name": "cispo", "cispo_low": 0.2, "cispo_high": 0.3},
    {"name": "gspo", "gspo_low": 0.1, "gspo_high": 0.2},
    {"name": "gspo_token", "gspo_low": 0.1, "gspo_high": 0.2},
    {"name": "rec", "rec_mask": "ring", "rec_weight": "ratio"},
    {"name": "rec", "rec_weight": "clipped_ratio", "rec_squared": 0.3, "rec_forward": 0.2},
    {"name": "rec", "rec_mask": "all", "rec_weight": "advantage", "rec_temperature": 0.7},
]


def named(fields):
    return "-".join(str(value) for value in fields.values())


@pytest.mark.parametrize("fields", CASES, ids=named)
def test_value_and_gradient_equal_the_published_form(fields):
    config = ObjectiveConfig(**fields)
    tokens = batch(0, spread=0.9)
    value, grad = value_and_gradient(config, tokens)
    leaf, expected = references.sequence_mean(config, tokens)
    expected.backward()
    assert_allclose(value, expected.item(), rtol=2e-5)
    assert_allclose(grad, leaf.grad.numpy(), rtol=2e-4, atol=1e-6)


SCORES = {
    "disco_logp": (lambda x: x.logp.mean(), 10.0, lambda x: 1.0),
    "disco_ratio": (lambda x: x.r.mean(), 1.0, lambda x: 1.0),
    "drpo": (lambda x: x.logp.mean(), 10.0, lambda x: np.exp((1 - len(x.token) / T) / 0.1)),
}


@pytest.mark.parametrize("beta", [0.0, 5.0])
@pytest.mark.parametrize("name", SCORES)
def test_discriminative_gradients_equal_the_published_form(name, beta):
    config = ObjectiveConfig(name=name, disco_beta=beta)
    tokens = batch(1, shortest=1)
    value, grad = value_and_gradient(config, tokens)
    leaf, expected = references.disco(config, tokens, *SCORES[name])
    expected.backward()
    assert_allclose(grad, leaf.grad.numpy(), rtol=2e-4, atol=1e-6)
    if not beta:  # the logged penalty is another one with the same gradient
        assert_allclose(value, expected.item(), rtol=2e-5)


def test_pairwise_preference_equals_the_published_form():
    tokens = batch(2, shortest=1)
    config = ObjectiveConfig(name="trpa")
    value, grad = value_and_gradient(config, tokens)
    leaf, expected = references.trpa(config, tokens)
    expected.backward()
    assert_allclose(value, expected.item(), rtol=2e-5)
    assert_allclose(grad, leaf.grad.numpy(), rtol=2e-4, atol=1e-7)


# Where one loss is another.

WIDE = dict(clip_low=1.0, clip_high=1e9, dual_clip=0.0)
SAME_GRADIENT = {
    "the token form of GSPO": (
        dict(name="gspo", gspo_low=0.1, gspo_high=0.1),
        dict(name="gspo_token", gspo_low=0.1, gspo_high=0.1),
    ),
    "GSPO and GMPO without bounds": (
        dict(name="gspo", gspo_low=1.0, gspo_high=1e9),
        dict(name="gmpo", gmpo_low=19.0, gmpo_high=19.0),
    ),
    "CISPO without bounds and the plain ratio": (
        dict(name="cispo", cispo_high=1e9),
        dict(name="clip", **WIDE),
    ),
    "REC with the ratio and the clip": (
        dict(name="rec", rec_weight="ratio"),
        dict(name="clip", clip_low=0.2, clip_high=0.2, dual_clip=0.0),
    ),
    "REC that keeps all and REINFORCE": (dict(name="rec", rec_mask="all"), dict(name="gpg")),
    "a ring without outer parts": (
        dict(name="rec", rec_mask="ring", rec_far_low=1.0, rec_far_high=1e9),
        dict(name="rec", rec_mask="ring", rec_far_low=1.0, rec_far_high=1e8),
    ),
    "OPMD at tau 0 and REINFORCE": (dict(name="opmd", opmd_tau=0.0), dict(name="gpg")),
    "OPMD on whole responses at tau 0": (
        dict(name="opmd_squared", opmd_tau=0.0),
        dict(name="gpg", aggregation="fixed_length", fixed_length=1),
    ),
    "DRPO that does not look at lengths": (
        dict(name="drpo", drpo_lambda=1e6),
        dict(name="disco_logp"),
    ),
}


@pytest.mark.parametrize("case", SAME_GRADIENT)
def test_two_losses_have_one_gradient(case):
    first, second = (ObjectiveConfig(**fields) for fields in SAME_GRADIENT[case])
    for seed in (3, 4):
        tokens = batch(seed, spread=0.4)
        one_PGT, other_PGT = (value_and_gradient(c, tokens)[1] for c in (first, second))
        assert np.abs(one_PGT).max() > 1e-3
        assert_allclose(one_PGT, other_PGT, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("adv", [2.0, -2.0])
@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.3, 4.0])
def test_gmpo_of_one_token_is_the_clip(ratio, adv):
    bound = ObjectiveConfig(clip_low=1 - np.exp(-0.4), clip_high=np.exp(0.4) - 1, dual_clip=0.0)
    assert_allclose(
        one(ObjectiveConfig(name="gmpo"), ratio, adv), one(bound, ratio, adv), rtol=1e-5
    )


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
    value, flag, grad = one(ObjectiveConfig(), ratio, adv)
    assert_allclose(value, loss, rtol=1e-5)
    assert flag == clipped
    assert (grad == 0) == (clipped == 1 or adv == 0)


def test_dual_clip_zero_is_off():
    value, clipped, _ = one(ObjectiveConfig(dual_clip=0.0), 9.0, -2.0)
    assert_allclose(value, 18.0, rtol=1e-5)
    assert clipped == 0


def test_simple_policy_optimization_is_lowest_on_the_clip_bound():
    config = ObjectiveConfig(name="spo", spo_epsilon=0.3)
    for adv, ratio in ((1.5, 1.3), (-1.5, 0.7)):
        assert abs(one(config, ratio, adv)[2]) < 1e-5
        assert one(config, ratio * 0.95, adv)[2] < 0 < one(config, ratio * 1.05, adv)[2]


@pytest.mark.parametrize(
    "probability, low, high",
    [
        (1.0, 0.8, 0.5 + 0.5 * 1.8**0.5),  # sqrt(1 - 0.64) = 0.6
        (0.1, 0.5, 2.0),  # sqrt(1 + 8) = 3
        (1e-4, 0.5, 10.0),  # the cap
        (1e-30, 0.5, 10.0),  # finite far below what a float can divide by
    ],
)
def test_dcpo_bounds_widen_for_unlikely_tokens(probability, low, high):
    config = ObjectiveConfig(name="dcpo", dual_clip=0.0)
    old = np.log(probability)
    assert one(config, high * 1.01, 1.0, old)[1] == 1
    assert one(config, high * 0.99, 1.0, old)[1] == 0
    assert one(config, low * 0.99, -1.0, old)[1] == 1
    assert one(config, low * 1.01, -1.0, old)[1] == 0
    assert_allclose(one(config, high * 2, 1.0, old)[0], -high, rtol=1e-5)


def test_sapo_fades_on_both_sides_and_faster_for_bad_responses():
    config = ObjectiveConfig(name="sapo")
    pull = {r: -one(config, r, 1.0)[2] / r for r in (0.2, 1.0, 3.0)}  # by the ratio, not its log
    push = {r: one(config, r, -1.0)[2] / r for r in (0.2, 1.0, 3.0)}
    assert_allclose([pull[1.0], push[1.0]], 1.0, rtol=1e-6)
    assert pull[3.0] < pull[1.0] > pull[0.2]
    assert push[3.0] < pull[3.0] and push[0.2] < pull[0.2]


def test_group_variance_is_at_rest_where_log_ratios_are_the_rewards():
    """beta D_i = A_i up to a constant of the group: the one optimum."""
    tokens = batch(5, shortest=2)
    adv_PG = tokens.adv_PG - tokens.adv_PG.mean(-1, keepdims=True)
    length_PG1 = tokens.mask_PGT.sum(-1)[..., None]
    far_PG = adv_PG + np.array([[0.5], [-0.3], [0.0]])
    logp_PGT = tokens.old_logp_PGT + far_PG[..., None] / 0.1 / length_PG1
    tokens = dataclasses.replace(tokens, adv_PG=adv_PG, logp_PGT=np.float32(logp_PGT))
    value, grad = value_and_gradient(ObjectiveConfig(name="gvpo"), tokens)
    assert value < 1e-10 and np.abs(grad).max() < 1e-5


def test_first_update_of_the_regressions_is_a_scaled_policy_gradient_of_whole_responses():
    tokens = batch(6, shortest=1)
    adv_PG = tokens.adv_PG - tokens.adv_PG.mean(-1, keepdims=True)
    tokens = dataclasses.replace(tokens, adv_PG=adv_PG, logp_PGT=tokens.old_logp_PGT)
    plain_PGT = -adv_PG[..., None] * tokens.mask_PGT / (P * G)
    for name, factor in {
        "gvpo": 0.1 * G / (G - 1),
        "reg_grpo": 2 / 0.1,
        "opmd_squared": 1.0,
    }.items():
        _, grad = value_and_gradient(ObjectiveConfig(name=name), tokens)
        assert_allclose(grad, factor * plain_PGT, rtol=1e-4, atol=1e-6)


def test_a_prompt_of_one_response_has_no_regression():
    tokens = jax.tree.map(lambda x: x[:, :1], batch(7, shortest=1))
    _, grad = value_and_gradient(ObjectiveConfig(name="gvpo"), tokens)
    assert_array_equal(grad, 0.0)


tokens_of_rows = hnp.arrays(np.int32, (P, G, T), elements=hyp.strategies.integers(0, 2))


@hyp.given(token_PGT=tokens_of_rows)
@hyp.settings(deadline=None, max_examples=20)
def test_shares_of_prefixes_sum_to_the_number_of_distinct_prefixes(token_PGT):
    """At A = -1 and ratio 1 the loss of a token is its share."""
    ones = np.zeros((P, G, T), np.float32)
    mask_PGT = np.arange(T) < np.array([T, T, 2, 1])[:, None] + np.zeros((P, 1, 1), int)
    tokens = objectives.Tokens(ones, ones, mask_PGT, -np.ones((P, G), np.float32), token_PGT)
    loss_PGT, _ = objectives.token_losses(ObjectiveConfig(name="lambda_grpo"), tokens)
    for p in range(P):
        for t in range(T):
            prefixes = {tuple(token_PGT[p, g, : t + 1]) for g in range(G) if mask_PGT[p, g, t]}
            assert_allclose((loss_PGT * mask_PGT)[p, :, t].sum(), len(prefixes), rtol=1e-5)


def gtpo_weights(adv_G, responses):
    """Loss / (-A) of each token at ratio 1 without entropy."""
    length = max(len(ids) for ids in responses)
    token = np.array([ids + [9] * (length - len(ids)) for ids in responses], np.int32)[None]
    mask = np.array([[t < len(ids) for t in range(length)] for ids in responses])[None]
    zeros = np.zeros(token.shape, np.float32)
    adv = np.array([adv_G], np.float32)
    tokens = objectives.Tokens(zeros, zeros, mask, adv, token, zeros)
    loss, _ = objectives.token_losses(ObjectiveConfig(name="gtpo", dual_clip=0.0), tokens)
    return (np.asarray(loss) * mask / -adv[..., None])[0]


def test_conflicts_run_from_the_start_and_from_the_end_of_unequal_responses():
    weights = gtpo_weights([1.0, -1.0], [[1, 2, 3, 7], [1, 5, 2, 3, 7]])
    # The start shares 1; the end, aligned at the last token, 2 3 7. Four conflicts each.
    assert_allclose(weights[0, :4], np.array([2, 2, 2, 2]) / 4)
    assert_allclose(weights[1], np.array([0, 1, 0, 0, 0]) / 4)


def test_what_good_responses_share_among_themselves_is_no_conflict():
    weights = gtpo_weights([1.0, 1.0, -1.0], [[1, 2], [1, 3], [4, 5]])
    assert_allclose(weights, 1.0)


def test_a_token_in_both_runs_is_boosted_twice():
    weights = gtpo_weights([1.0, -1.0], [[1, 2], [1, 2]])
    assert_allclose(weights, np.array([[4, 4], [0, 0]]) / 2)


def test_discriminative_losses_leave_prompts_of_one_kind_alone():
    tokens = batch(8, shortest=1)
    for name in SCORES:
        _, grad = value_and_gradient(ObjectiveConfig(name=name, disco_beta=0.0), tokens)
        assert_array_equal(grad[-1], 0.0)  # right answers only
        assert np.abs(grad[0]).max() > 1e-3


def test_discriminative_losses_pay_no_penalty_near_the_old_policy():
    tokens = batch(9, spread=1e-3, shortest=1)
    free, strict = (ObjectiveConfig(name="disco_logp", disco_delta=d) for d in (1e-4, 0.0))
    none = ObjectiveConfig(name="disco_logp", disco_beta=0.0)
    grads = [value_and_gradient(config, tokens)[1] for config in (free, strict, none)]
    assert_array_equal(grads[0], grads[2])
    assert np.abs(grads[1] - grads[2]).max() > 0


def test_a_hot_soft_maximum_is_the_mean():
    config = ObjectiveConfig(name="disco_logp", disco_beta=0.0, disco_logp_tau=1e4)
    tokens = batch(10, shortest=1)
    leaf, found = references.rows(tokens)
    gaps = []
    for row in found[:-1]:
        sides = [[x.logp.mean() for x in row if (x.adv > 0) == right] for right in (1, 0)]
        gaps.append(sum(sides[0]) / len(sides[0]) - sum(sides[1]) / len(sides[1]))
    expected = -sum(gaps) / P
    expected.backward()
    _, grad = value_and_gradient(config, tokens)
    assert_allclose(grad, leaf.grad.numpy(), rtol=1e-3, atol=1e-6)


def test_no_pair_no_preference():
    tokens = dataclasses.replace(batch(11), adv_PG=np.zeros((P, G), np.float32))
    value, grad = value_and_gradient(ObjectiveConfig(name="trpa"), tokens)
    assert value == 0
    assert_array_equal(grad, 0.0)


def test_bad_responses_fade_as_they_become_unlikely():
    config = ObjectiveConfig(name="topr")
    for ratio, weight in ((0.25, 0.25), (1.0, 1.0), (3.0, 1.0)):
        assert_allclose(one(config, ratio, -2.0)[2], 2.0 * weight, rtol=1e-5)
        assert_allclose(one(config, ratio, 2.0)[2], -2.0, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(objectives.OBJECTIVES))
def test_a_runaway_log_ratio_stays_finite(name):
    tokens = batch(12)
    for near, far in ((0.0, -500.0), (-500.0, 0.0)):
        wild = dataclasses.replace(
            tokens,
            logp_PGT=np.full((P, G, T), near, np.float32),
            old_logp_PGT=np.full((P, G, T), far, np.float32),
        )
        value, grad = value_and_gradient(ObjectiveConfig(name=name), wild)
        assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_the_scalar_of_the_helpers_is_the_sum_that_training_takes():
    tokens, config = batch(13), ObjectiveConfig(name="gpg", aggregation="token_mean")
    kept = tokens.mask_PGT
    expected = -(tokens.adv_PG[..., None] * tokens.logp_PGT)[kept].mean()
    assert_allclose(scalar(config, tokens.logp_PGT, tokens), expected, rtol=1e-5)
