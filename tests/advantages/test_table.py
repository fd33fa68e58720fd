"""Laws that every entry of ESTIMATORS keeps, and equality with its float64 reference."""

import functools

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import advantages, ranks
from g2rpo_jax.advantages import ESTIMATORS, AdvantageConfig, Group, settings
from g2rpo_jax.advantages.behaviour import ENTROPY_SCOPES
from g2rpo_jax.advantages.centred import GPG_SCALES
from g2rpo_jax.advantages.risk import CREDITS
from g2rpo_jax.advantages.scaled import WHITENINGS
from tests.advantages.references import REFERENCES, G, K, P

BY_RANK = ("g2rpo", "g2rpo_task", "g2rpo_release", "gaussian_gdpo")
# What a method does by design, against a law that the others keep:
# its advantages depend on the batch's other prompts, so equal rewards of one prompt get some,
ACROSS_PROMPTS = (
    *("g2rpo_task", "g2rpo_release", "gaussian_gdpo", "gdpo", "reinforce_pp_baseline"),
    *("single_stream", "risk_po"),
)
# it has no baseline, not the prompt's mean, or more than rewards, so equal rewards get some,
KEEPS_EQUAL = ("asymre", "ngrpo", "raft", "verifier_forward", "unlikeliness", "grpo_s")
# it knows which rewards are good ones, so that neither a shift nor a scale of them is free,
ABSOLUTE = (
    *("bnpo", "grpo_lead", "mapo", "maxrl", "ngrpo", "noise_aware", "raft", "reinforce_rej"),
    *("verifier_forward", "unlikeliness", "grpo_s", "single_stream"),
)
# it keeps the scale of the rewards.
LINEAR = ("dr_grpo", "rloo", "gpg", "opo", "verifier_backward")

ROWS = 9  # of the training data

COMPUTE = jax.jit(
    lambda group, state, options: ESTIMATORS[options.name](group, state, options), static_argnums=2
)


@functools.cache
def initial(name, **options):
    options = AdvantageConfig(name=name, **options)
    return advantages.init_state(options, K, ROWS), options


def make_group(reward, valid, task, components, length, surprise, logp, row, num_tasks=K):
    parts = {key: np.asarray(value, np.float32) for key, value in components.items()}
    return Group(
        np.asarray(reward, np.float32),
        np.asarray(valid),
        np.asarray(task, np.int32),
        parts,
        np.asarray(length, np.float32),
        num_tasks,
        np.asarray(surprise, np.float32),
        np.asarray(logp, np.float32),
        np.asarray(row, np.int32),
        ROWS,
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
        "surprise": rng.uniform(0.2, 2.0, (P, G)),
        "logp": -rng.integers(1, 9, (P, G)) / 2,
        "row": rng.permutation(ROWS)[:P] - 1,
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
        "surprise": np.abs(draw(eighths)) + 0.125,
        "logp": -np.abs(draw(eighths)),
        "row": draw(hnp.arrays(np.int32, P, elements=st.integers(-1, ROWS - 1))),
    }


def run(name, arrays, num_tasks=K, **options):
    state, options = initial(name, **options)
    if num_tasks != K:
        state = advantages.init_state(options, num_tasks, ROWS)
    adv, state = COMPUTE(make_group(**arrays, num_tasks=num_tasks), state, options)
    return np.asarray(adv), state


some_examples = hyp.settings(max_examples=25)  # for every estimator
every_estimator = pytest.mark.parametrize("name", sorted(ESTIMATORS))


@every_estimator
def test_estimator_equals_its_float64_reference(name):
    for seed in range(25):
        arrays = random_arrays(seed)
        valid = arrays["valid"] & (arrays["task"] >= 0)[:, None]
        expected = REFERENCES[name](**(arrays | {"valid": valid}))
        # GRPO divides by a std that float32 knows to about 1e-6 relative.
        assert_allclose(run(name, arrays)[0], expected, atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(ABSOLUTE)))
@some_examples
@hyp.given(groups(), st.integers(-8, 8))
def test_a_constant_added_to_every_reward_changes_nothing(name, arrays, shift):
    moved = arrays | {
        "reward": arrays["reward"] + shift,
        "components": {key: value + shift for key, value in arrays["components"].items()},
    }
    adv, moved_adv = run(name, arrays)[0], run(name, moved)[0]
    # Sums of eighths are exact: all but those that take a mean of the rewards agree to the bit.
    of_means = ("ema_grpo_onethinker", "dcpo_smooth", "risk_po")
    assert_allclose(moved_adv, adv, atol=1e-4 if name in of_means else 0)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {*ABSOLUTE, "asymre"}))
@some_examples
@hyp.given(groups(), st.sampled_from([0.25, 4.0]))
def test_scaled_rewards_scale_or_change_nothing(name, arrays, scale):
    scaled = arrays | {
        "reward": arrays["reward"] * scale,
        "components": {key: value * scale for key, value in arrays["components"].items()},
    }
    factor = scale if name in LINEAR else 1.0
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
    # Negative success rates give bnpo weights up to its cap, 1e6.
    rtol = 1e-4 if name == "bnpo" else 1e-7
    assert_allclose(other, permuted(adv), atol=0 if name in BY_RANK else 2e-5, rtol=rtol)


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
        **{key: dirty(arrays[key]) for key in ("length", "surprise", "logp")},
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
            if few.shape == many.shape:  # not kept by task
                assert_allclose(many, few, atol=1e-6)
                continue
            assert_allclose(many[:K], few, atol=1e-6)
            assert not np.any(many[3:])  # ids 3.. never occur: as they started


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - set(KEEPS_EQUAL)))
def test_equal_rewards_give_exact_zeros(name):
    arrays = random_arrays(0)
    for value in (0.0, 0.1, 0.7, 1 / 3):
        same = np.full((P, G), value)
        equal = arrays | {"reward": same, "components": {"accuracy": same, "format": same}}
        assert_array_equal(run(name, equal)[0], np.zeros((P, G)))
        if name not in ACROSS_PROMPTS:  # one such prompt among others
            mixed = jax.tree.map(np.copy, arrays)
            for value_PG in (mixed["reward"], *mixed["components"].values()):
                value_PG[0] = value
            assert_array_equal(run(name, mixed)[0][0], np.zeros(G))


@every_estimator
def test_a_prompt_with_one_or_no_valid_response_gets_zero(name):
    arrays = random_arrays(1)
    arrays["valid"][:] = True
    arrays["valid"][1] = np.arange(G) == 2
    arrays["valid"][2] = False
    adv = run(name, arrays)[0]
    assert_array_equal(adv[2], np.zeros(G))
    if name not in (*ACROSS_PROMPTS, *KEEPS_EQUAL):
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


@pytest.mark.parametrize(
    "field, table",
    [
        *(("whitening", WHITENINGS), ("gpg_scale", GPG_SCALES), ("ranks", ranks.RANKS)),
        *(("entropy_scope", ENTROPY_SCOPES), ("risk_credit", CREDITS)),
    ],
)
def test_a_field_offers_what_its_table_holds(field, table):
    assert settings.CHOICES[field] == tuple(table)
