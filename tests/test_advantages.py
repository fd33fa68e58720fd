"""Advantage estimators: the paper's figures, float64 references, laws that every entry keeps."""

import dataclasses
import functools

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from g2rpo_jax import advantages, ranks
from g2rpo_jax.advantages import ESTIMATORS, AdvantageConfig, Group

P, G, K = 4, 6, 4
BY_RANK = ("g2rpo", "g2rpo_release", "gaussian_gdpo")
TWO_STAGES = ("g2rpo_release", "gaussian_gdpo", "gdpo")  # these mix the batch's prompts
COMPUTE = jax.jit(
    lambda group, state, options: ESTIMATORS[options.name](group, state, options), static_argnums=2
)


def compute(name, reward, **kwargs):
    return np.asarray(advantages.compute(name, np.asarray(reward, np.float32), **kwargs)[0])


@functools.cache
def initial(name, **options):
    options = AdvantageConfig(name=name, **options)
    return advantages.init_state(options, K), options


# float64 references, one group at a time


def ot(values):
    """Rank quantiles with ties averaged, by definition."""
    values = np.asarray(values, np.float64)
    n = len(values)
    if n <= 1:
        return np.zeros(n)
    q = norm.ppf((np.arange(1, n + 1) - 0.5) / n)
    low, high = np.sort(values).searchsorted(values), np.sort(values).searchsorted(values, "right")
    return np.array([q[a:b].mean() for a, b in zip(low, high, strict=True)])


def z_score(values, ddof=1):
    sd = np.std(values, ddof=ddof) if len(values) > ddof else 0.0
    return (values - np.mean(values)) / (sd + 1e-6)


def center(values):
    return values - np.mean(values)


def per_group(function, reward, valid):
    out = np.zeros(reward.shape)
    for p in range(len(reward)):
        if valid[p].any():
            out[p, valid[p]] = function(reward[p, valid[p]])
    return out


def second_stage(value, valid, task):
    out = np.zeros(value.shape)
    for k in range(K):
        here = valid & (task == k)[:, None]
        out[here] = ot(np.round(value[here], 9))  # float64 noise must not break ties
    return out


def reference_ema(reward, valid, task, **_):
    out, sd = np.zeros(reward.shape), {}
    for p in range(P):
        if valid[p].sum() >= 2:
            sd.setdefault(task[p], []).append(np.std(reward[p, valid[p]], ddof=1))
    for p in range(P):
        if valid[p].sum() >= 2:
            out[p, valid[p]] = center(reward[p, valid[p]]) / (np.mean(sd[task[p]]) + 1e-6)
    return out


def reference_onethinker(reward, valid, task, **_):
    out = np.zeros(reward.shape)
    for p in range(P):
        if valid[p].any():
            everyone = reward[(task == task[p])[:, None] & valid]
            scale = np.sqrt(max(np.mean(everyone**2) - np.mean(everyone) ** 2, 1e-6))
            adv = center(reward[p, valid[p]]) / (scale + 1e-6)
            if np.any(np.abs(adv) > 5):
                adv = z_score(reward[p, valid[p]], ddof=0)
            out[p, valid[p]] = adv
    return out


def reference_gdpo(reward, valid, components, length, **_):
    total = sum(per_group(z_score, c, valid) for c in components.values())
    tokens = np.repeat(total[valid], length[valid].astype(int))
    white = (total - tokens.mean()) / (tokens.std() + 1e-6) if len(tokens) else 0 * total
    return np.where(valid & (length > 0), white, 0)


def reference_gpg(reward, valid, **_):
    groups = [reward[p, valid[p]] for p in range(P) if valid[p].any()]
    dead = sum(len(set(g)) == 1 for g in groups)
    alpha = len(groups) / max(len(groups) - dead, 1)
    return alpha * per_group(center, reward, valid)


REFERENCES = {
    "g2rpo": lambda reward, valid, **_: per_group(ot, reward, valid),
    "g2rpo_release": lambda reward, valid, task, **_: second_stage(
        per_group(ot, reward, valid), valid, task
    ),
    "gaussian_gdpo": lambda reward, valid, task, components, **_: second_stage(
        sum(np.trunc(per_group(ot, c, valid) * 2**18) for c in components.values()), valid, task
    ),
    "grpo": lambda reward, valid, **_: per_group(z_score, reward, valid),
    "dr_grpo": lambda reward, valid, **_: per_group(center, reward, valid),
    "ema_grpo": reference_ema,
    "ema_grpo_onethinker": reference_onethinker,
    "gdpo": reference_gdpo,
    "rloo": lambda reward, valid, **_: per_group(
        lambda r: (
            np.array([r[i] - np.delete(r, i).mean() for i in range(len(r))])
            if len(r) > 1
            else np.zeros(1)
        ),
        reward,
        valid,
    ),
    "gpg": reference_gpg,
}


def make_group(reward, valid, task, components, length, num_tasks=K):
    parts = {key: np.asarray(value, np.float32) for key, value in components.items()}
    return Group(
        np.asarray(reward, np.float32),
        np.asarray(valid),
        np.asarray(task, np.int32),
        parts,
        np.asarray(length, np.float32),
        num_tasks,
    )


def random_arrays(seed):
    """Rewards in eighths with ties, a fifth invalid, tasks -1..2 of four, one all-equal prompt."""
    rng = np.random.default_rng(seed)
    parts = {key: rng.integers(0, 5, (P, G)) / 8 for key in ("accuracy", "format", "structure")}
    arrays = {
        "reward": rng.integers(0, 9, (P, G)) / 8,
        "valid": rng.random((P, G)) > 0.2,
        "task": rng.integers(-1, 3, P),
        "components": parts,
        "length": rng.integers(0, 40, (P, G)).astype(float),
    }
    arrays["reward"][0] = 0.375
    return arrays


eighths = hnp.arrays(np.int64, (P, G), elements=st.integers(-16, 16)).map(lambda x: x / 8)


@st.composite
def groups(draw):
    return {
        "reward": draw(eighths),
        "valid": draw(hnp.arrays(bool, (P, G))),
        "task": draw(hnp.arrays(np.int32, P, elements=st.integers(-1, 2))),
        "components": {key: draw(eighths) for key in ("accuracy", "format")},
        "length": draw(hnp.arrays(np.int64, (P, G), elements=st.integers(0, 99))).astype(float),
    }


def run(name, arrays, num_tasks=K, **options):
    state, options = initial(name, **options)
    if num_tasks != K:
        state = advantages.init_state(options, num_tasks)
    adv, state = COMPUTE(make_group(**arrays, num_tasks=num_tasks), state, options)
    return np.asarray(adv), state


some_examples = hyp.settings(max_examples=25)  # for every estimator
every_estimator = pytest.mark.parametrize("name", sorted(ESTIMATORS))


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


# k of 8 right: right / wrong advantage.
BINARY = {
    "grpo": [2.475, 1.620, 1.208, 0.935, 0.725, 0.540, 0.354],
    "grpo_population": [2.646, 1.732, 1.291, 1.000, 0.775, 0.577, 0.378],
    "dr_grpo": [0.875, 0.750, 0.625, 0.500, 0.375, 0.250, 0.125],
    "rloo": [1.000, 0.857, 0.714, 0.571, 0.429, 0.286, 0.143],
    "g2rpo": [1.534, 1.211, 0.970, 0.767, 0.582, 0.404, 0.219],
}


@pytest.mark.parametrize("column", sorted(BINARY))
def test_binary_groups_of_eight(column):
    reward = np.array([[1] * k + [0] * (8 - k) for k in range(1, 8)])
    name, _, population = column.partition("_population")
    name, options = (column, {}) if column in ESTIMATORS else ("grpo", {"ddof": 0})
    adv = compute(name, reward, **options)
    assert_allclose(adv[:, 0], BINARY[column], atol=0.0006)
    assert_allclose(adv[:, 7], -np.array(BINARY[column])[::-1], atol=0.0006)


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


# References and laws


@every_estimator
def test_estimator_equals_its_float64_reference(name):
    for seed in range(25):
        arrays = random_arrays(seed)
        valid = arrays["valid"] & (arrays["task"] >= 0)[:, None]
        expected = REFERENCES[name](**(arrays | {"valid": valid}))
        # GRPO divides by a std that float32 knows to about 1e-6 relative.
        assert_allclose(run(name, arrays)[0], expected, atol=5e-6, rtol=2e-5)


@every_estimator
@some_examples
@hyp.given(groups(), st.integers(-8, 8))
def test_a_constant_added_to_every_reward_changes_nothing(name, arrays, shift):
    moved = arrays | {
        "reward": arrays["reward"] + shift,
        "components": {key: value + shift for key, value in arrays["components"].items()},
    }
    adv, moved_adv = run(name, arrays)[0], run(name, moved)[0]
    # Sums of eighths are exact: all but OneThinker's moments (of the whole task) agree to the bit.
    assert_allclose(moved_adv, adv, atol=1e-5 if name == "ema_grpo_onethinker" else 0)


@every_estimator
@some_examples
@hyp.given(groups(), st.sampled_from([0.25, 4.0]))
def test_scaled_rewards_scale_or_change_nothing(name, arrays, scale):
    scaled = arrays | {
        "reward": arrays["reward"] * scale,
        "components": {key: value * scale for key, value in arrays["components"].items()},
    }
    factor = scale if name in ("dr_grpo", "rloo", "gpg") else 1.0
    exact = name in BY_RANK or factor != 1.0
    # The others feel eps, 1e-6 beside standard deviations of at least 1 / 64.
    adv = run(name, arrays, **({} if exact else {"eps": 1e-12}))[0]
    scaled_adv = run(name, scaled, **({} if exact else {"eps": 1e-12}))[0]
    assert_allclose(scaled_adv, factor * adv, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)


@every_estimator
@some_examples
@hyp.given(groups(), st.permutations(range(G)), st.permutations(range(P)))
def test_advantages_follow_a_permutation_of_responses_and_of_prompts(name, arrays, across, down):
    def permuted(x):
        return x[np.array(down)][:, np.array(across)] if x.ndim == 2 else x[np.array(down)]

    adv = run(name, arrays)[0]
    other = run(name, jax.tree.map(permuted, arrays))[0]
    assert_allclose(other, permuted(adv), atol=0 if name in BY_RANK else 2e-5)


@every_estimator
@some_examples
@hyp.given(groups(), st.sampled_from([np.nan, np.inf, -1e30, 7.0]))
def test_an_invalid_response_moves_nobody_and_gets_zero(name, arrays, poison):
    valid = arrays["valid"] & (arrays["task"] >= 0)[:, None]

    def dirty(x):
        return np.where(valid, x, poison)

    poisoned = arrays | {
        "reward": dirty(arrays["reward"]),
        "components": {key: dirty(value) for key, value in arrays["components"].items()},
        "length": dirty(arrays["length"]),
    }
    (adv, state), (other, other_state) = run(name, arrays), run(name, poisoned)
    assert_array_equal(other, adv)
    assert_array_equal(adv[~valid], 0.0)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True):
        assert_array_equal(a, b)


@every_estimator
def test_absent_tasks_and_padding_prompts_change_nothing(name):
    for seed in range(5):
        arrays = random_arrays(seed)
        adv, state = run(name, arrays)
        padded = jax.tree.map(lambda x: np.concatenate([x, x[:2]]), arrays)
        padded["task"][P:] = -1
        more, more_state = run(name, padded, num_tasks=K + 3)
        assert_allclose(more[:P], adv, atol=1e-6)
        assert_array_equal(more[P:], np.zeros((2, G)))
        for few, many in zip(jax.tree.leaves(state), jax.tree.leaves(more_state), strict=True):
            assert_allclose(many[:K], few, atol=1e-6)
            assert not np.any(many[3:])  # ids 3.. never occur: as they started


@every_estimator
def test_equal_rewards_give_exact_zeros(name):
    arrays = random_arrays(0)
    for value in (0.0, 0.1, 0.7, 1 / 3):
        same = np.full((P, G), value)
        equal = arrays | {"reward": same, "components": {"accuracy": same, "format": same}}
        assert_array_equal(run(name, equal)[0], np.zeros((P, G)))
        if name not in TWO_STAGES:  # one such prompt among others
            mixed = arrays | {"reward": np.concatenate([same[:1], arrays["reward"][1:]])}
            assert_array_equal(run(name, mixed)[0][0], np.zeros(G))


@every_estimator
def test_a_prompt_with_one_or_no_valid_response_gets_zero(name):
    arrays = random_arrays(1)
    arrays["valid"][:] = True
    arrays["valid"][1] = np.arange(G) == 2
    arrays["valid"][2] = False
    adv = run(name, arrays)[0]
    assert_array_equal(adv[2], np.zeros(G))
    if name not in TWO_STAGES:
        assert_array_equal(adv[1], np.zeros(G))
    arrays["valid"][:] = False
    assert_array_equal(run(name, arrays)[0], np.zeros((P, G)))


@every_estimator
def test_estimator_contract(name):
    state, options = initial(name)
    group = jax.tree.map(jnp.asarray, make_group(**random_arrays(3)))
    eager, eager_state = ESTIMATORS[name](group, state, options)
    adv, new_state = COMPUTE(group, state, options)
    assert adv.shape == (P, G) and adv.dtype == jnp.float32 and np.all(np.isfinite(adv))
    assert_allclose(adv, eager, atol=1e-6)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    for before, after, other in zip(
        *map(jax.tree.leaves, (state, new_state, eager_state)), strict=True
    ):
        assert after.shape == before.shape and after.dtype == before.dtype
        assert_allclose(after, other, atol=1e-6)
    compiled = COMPUTE._cache_size()
    COMPUTE(make_group(**random_arrays(4)), new_state, AdvantageConfig(name=name))
    assert COMPUTE._cache_size() == compiled


@every_estimator
def test_no_operation_that_trainium_refuses(name):
    state, options = initial(name)
    text = COMPUTE.lower(make_group(**random_arrays(0)), state, options).as_text()
    for refused in ("sort", "gather", "scatter", "case", "erf", "top_k", "custom_call", "f64"):
        assert f".{refused}" not in text and f"x{refused}" not in text, refused


# State


def test_ema_grpo_moves_with_each_batch_and_is_updated_before_use():
    first = np.array([[0, 1, 0, 1.0], [0, 0, 0, 1]])
    second = np.array([[0, 2, 2, 2.0], [0, 0, 0, 4]])
    task = np.array([0, 1])
    adv, state = advantages.compute("ema_grpo", first, task_P=task, ema_decay=0.75, num_tasks=3)
    sd = np.std(first, axis=1, ddof=1)
    assert_allclose(state.scale_K, [*sd, 0], rtol=1e-6)  # first sight: the batch's own
    assert_array_equal(state.seen_K, [True, True, False])
    absent = np.array([1, -1])
    adv, state = advantages.compute("ema_grpo", second, task_P=absent, state=state, ema_decay=0.75)
    moved = 0.75 * sd[1] + 0.25 * np.std(second[0], ddof=1)
    assert_allclose(state.scale_K, [sd[0], moved, 0], rtol=1e-6)
    expected = (second[0] - second[0].mean()) / (moved + 1e-6)
    assert_allclose(adv, [expected, np.zeros(4)], rtol=1e-5)


def test_onethinker_moments_follow_the_tracker_over_many_batches():
    """Against m1, m2 in float64, with a task that is absent from some batches."""
    rng = np.random.default_rng(5)
    state, moments = None, {}
    for step in range(12):
        reward = (0.9 + 0.01 * rng.integers(0, 5, (P, G))).astype(np.float32)
        task = np.array([0, 0, 1, 1]) if step % 3 else np.zeros(P, int)
        adv, state = advantages.compute(
            "ema_grpo_onethinker", reward, task_P=task, state=state, num_tasks=2
        )
        for k in set(task.tolist()):
            scores = reward[task == k].astype(np.float64)
            batch = np.array([scores.mean(), np.square(scores).mean()])
            moments[k] = 0.99 * moments[k] + 0.01 * batch if k in moments else batch
        for p in range(P):
            m1, m2 = moments[task[p]]
            scale = np.sqrt(max(m2 - m1**2, 1e-6))
            expected = center(reward[p].astype(np.float64)) / (scale + 1e-6)
            assert np.max(np.abs(expected)) < 5
            assert_allclose(adv[p], expected, rtol=1e-4, atol=1e-5)


def test_onethinker_guard_and_floor():
    moments = advantages.TaskMoments(jnp.full(1, 0.5), jnp.full(1, 1e-4), jnp.ones(1, bool))
    reward = np.array([[0.0, 1.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.51]])
    adv = compute("ema_grpo_onethinker", reward, state=moments, ema_decay=1.0)
    assert_allclose(adv[0], z_score(reward[0], ddof=0), rtol=1e-5)  # |A| = 50: its own std
    assert_allclose(adv[1], center(reward[1]) / 0.01, rtol=1e-3)
    still = dataclasses.replace(moments, variance_K=jnp.zeros(1))
    adv = compute("ema_grpo_onethinker", reward[1:] * 0.1, state=still, ema_decay=1.0)
    assert_allclose(adv[0], center(reward[1] * 0.1) / 1e-3, rtol=2e-3)


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


def test_gdpo_whitens_over_tokens_or_over_responses():
    arrays = random_arrays(6)
    arrays["valid"][:] = True
    arrays["task"][:] = 0
    total = sum(per_group(z_score, c, arrays["valid"]) for c in arrays["components"].values())
    adv = run("gdpo", arrays, gdpo_whitening="responses")[0]
    assert_allclose(adv, (total - total.mean()) / total.std(ddof=1), rtol=1e-4, atol=1e-5)
    tokens = run("gdpo", arrays)[0]
    assert_allclose(np.sum(tokens * arrays["length"]), 0, atol=1e-3)
    assert_allclose(np.sum(tokens**2 * arrays["length"]) / arrays["length"].sum(), 1, rtol=1e-4)


# The notebook form


def test_compute_takes_numpy_and_jax_arrays_and_carries_state():
    reward = np.random.default_rng(7).random((3, 5))
    extras = {"components": {"accuracy": reward}, "length_PG": np.full((3, 5), 9)}
    for name in ("g2rpo", "gdpo", "ema_grpo"):
        one, state = advantages.compute(name, reward, **extras)
        two, _ = advantages.compute(name, jnp.asarray(reward), **extras)
        assert one.dtype == jnp.float32
        assert_array_equal(one, two)
        advantages.compute(name, reward, state=state, **extras)


GOOD = np.zeros((2, 3))


@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        (("g2rop", GOOD), {}, "unknown advantage estimator 'g2rop'; did you mean 'g2rpo'"),
        (("grpo", GOOD), {"ddoff": 0}, "unknown advantage option 'ddoff'; did you mean 'ddof'"),
        (("grpo", GOOD), {"ddof": 2}, r"advantage.ddof=2 lies outside \[0, 1\]"),
        (("g2rpo", GOOD), {"ranks": "sort"}, "unknown advantage.ranks 'sort'"),
        (("ema_grpo", GOOD), {"ema_decay": 1.5}, "advantage.ema_decay=1.5"),
        (("grpo", GOOD), {"eps": 0.0}, "advantage.eps=0.0"),
        (("grpo", np.zeros(3)), {}, r"shape \(3,\): one row per prompt"),
        (("grpo", GOOD), {"valid_PG": np.ones((3, 2), bool)}, r"valid_PG has shape \(3, 2\)"),
        (("grpo", GOOD), {"task_P": [0, 1, 2]}, r"task_P has shape \(3,\)"),
        (("grpo", GOOD * np.nan), {}, r"reward_PG\[0, 0\] is nan"),
        (("gdpo", GOOD), {"length_PG": GOOD}, "gdpo ranks or scales every reward component"),
        (("gaussian_gdpo", GOOD), {}, "pass components"),
        (("gdpo", GOOD), {"components": {"a": GOOD}}, "pass length_PG"),
        (("gdpo", GOOD), {"components": {"a": np.zeros(2)}}, r"components\['a'\] has shape"),
        (("grpo", GOOD), {"task_P": [0, 3], "num_tasks": 2}, "id 3, but there are 2 tasks"),
        (("ema_grpo", GOOD), {"state": ()}, "state is tuple, but ema_grpo carries TaskScale"),
    ],
)
def test_a_bad_argument_is_refused_by_name(args, kwargs, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        advantages.compute(*args, **kwargs)


def test_a_state_of_another_size_is_refused():
    _, state = advantages.compute("ema_grpo", GOOD)
    with pytest.raises(ValueError, match="id 1, but there are 1 tasks"):
        advantages.compute("ema_grpo", GOOD, task_P=[0, 1], state=state)
    with pytest.raises(ValueError, match="num_tasks=2, but the state was made for 1"):
        advantages.compute("ema_grpo", GOOD, state=state, num_tasks=2)
