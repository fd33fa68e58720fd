"""Estimators that remember rows: a float64 log of all visits says the same."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax.advantages import ESTIMATORS, AdvantageConfig, compute, init_state
from tests.advantages.loops import DcpoSmooth, SingleStream

P, G, E = 5, 4, 7
NAMES = ("single_stream", "dcpo_smooth")


def batches(seed, steps=6):
    """Batches whose rows come again, now and then twice in one; -1 where the row is not known."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        row = rng.integers(-1, E - 1, P)  # row E - 1 never comes
        valid = rng.random((P, G)) > 0.2
        valid[rng.integers(0, P)] = rng.random() > 0.5
        yield {
            "reward_PG": rng.integers(0, 9, (P, G)) / 8,
            "valid_PG": valid,
            "task_P": np.where(rng.random(P) < 0.15, -1, 0),
            "row_P": row.astype(np.int32),
        }


def run(name, found, state=None, **options):
    adv, state = compute(name, **found, state=state, num_tasks=1, num_rows=E, **options)
    return np.asarray(adv), state


REFERENCES = {"single_stream": SingleStream, "dcpo_smooth": DcpoSmooth}


@pytest.mark.parametrize("name", NAMES)
def test_advantages_over_many_visits_equal_the_float64_log(name):
    for seed in range(6):
        reference, state = REFERENCES[name](), None
        for found in batches(seed):
            valid = found["valid_PG"] & (found["task_P"] >= 0)[:, None]
            expected = reference(found["reward_PG"], valid, found["row_P"])
            adv, state = run(name, found, state)
            assert_allclose(adv, expected, atol=2e-5, rtol=2e-5)
            assert_array_equal(adv[~valid], 0.0)


@pytest.mark.parametrize("name", NAMES)
@hyp.settings(max_examples=15)
@hyp.given(st.integers(0, 99), st.permutations(range(P)), st.permutations(range(G)))
def test_order_and_invalid_responses_change_nothing(name, seed, down, across):
    first, second = batches(seed, 2)
    _, state = run(name, first)
    adv, after = run(name, second, state)
    moved = {key: value[np.array(down)] for key, value in second.items()}
    for key in ("reward_PG", "valid_PG"):
        moved[key] = moved[key][:, np.array(across)]
    other, other_after = run(name, moved, state)
    assert_allclose(other, adv[np.array(down)][:, np.array(across)], atol=2e-5)
    valid = second["valid_PG"] & (second["task_P"] >= 0)[:, None]
    poison = second | {"reward_PG": np.where(valid, second["reward_PG"], 7.0)}
    dirty, dirty_after = run(name, poison, state)
    assert_array_equal(dirty, adv)
    for one, two, three in zip(
        *map(jax.tree.leaves, (after, other_after, dirty_after)), strict=True
    ):
        assert_allclose(two, one, atol=1e-5)
        assert_array_equal(three, one)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_do_not_come_and_prompts_of_none_leave_the_state_alone(name):
    (first,) = batches(0, 1)
    _, state = run(name, first)
    _, after = run(name, first | {"row_P": np.full(P, -1)}, state)
    _, padding = run(name, first | {"task_P": np.full(P, -1)}, state)
    (second,) = batches(1, 1)
    _, later = run(name, second, state)
    absent = np.setdiff1d(np.arange(E), second["row_P"])
    for leaf, *others in zip(*map(jax.tree.leaves, (state, after, padding)), strict=True):
        for other in others:
            assert_array_equal(other, leaf)
    for leaf, other in zip(*map(jax.tree.leaves, (state, later)), strict=True):
        assert_array_equal(np.asarray(other)[absent], np.asarray(leaf)[absent])


def test_the_first_visit_of_dcpo_is_grpo_without_eps():
    (found,) = batches(3, 1)
    found["row_P"] = np.arange(P)
    del found["task_P"]
    grpo, _ = compute("grpo", found["reward_PG"], found["valid_PG"], eps=1e-12)
    assert_allclose(run("dcpo_smooth", found)[0], grpo, atol=1e-5)


def test_dcpo_has_advantages_for_equal_rewards_that_differ_from_the_past():
    """Worked by hand: first visit (1, 0, 0, 1), then all wrong.

    mu_n = 0, sd_n = 0; mu_t = 1/4, sd_t^2 = (1/3 + 1/2 * 1/4) / 2 = 11/48; A_t = -1/4 / sd_t,
    A_n = 0, and both blends are A_t / 2.
    """
    row = np.array([2])
    _, state = run("dcpo_smooth", {"reward_PG": [[1, 0, 0, 1]], "row_P": row})
    adv, state = run("dcpo_smooth", {"reward_PG": np.zeros((1, 4)), "row_P": row}, state)
    assert_allclose(adv, np.full((1, 4), -0.125 / np.sqrt(11 / 48)), rtol=1e-5)
    assert_allclose(state.visits_E, [0, 0, 2, 0, 0, 0, 0])


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, 1 / 3])
def test_dcpo_of_rewards_that_never_differed_is_exactly_zero(value):
    state = None
    for valid in ([1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]):
        valid = np.array([valid], bool)
        found = {"reward_PG": np.full((1, 4), value), "valid_PG": valid, "row_P": np.array([0])}
        adv, state = run("dcpo_smooth", found, state)
        assert_array_equal(adv, np.zeros((1, 4)))


def test_the_tracker_learns_how_often_a_row_is_solved():
    # One response a prompt: row 0 always right, row 1 never. Pseudo counts tend to 1 / (1 - rho).
    found = {"reward_PG": np.array([[1.0], [0.0]]), "row_P": np.array([0, 1])}
    state = None
    for _ in range(100):
        adv, state = run("single_stream", found, state)
    success, failure = np.asarray(state.success_E), np.asarray(state.failure_E)
    assert_allclose(success[:2], [8, 0], atol=2e-3)
    assert_allclose(failure[:2], [0, 8], atol=2e-3)
    assert_array_equal(success[2:], 0.5)
    # A surprise is worth more than what is known: row 1 solved beats row 0 solved.
    adv, _ = run("single_stream", found | {"reward_PG": np.array([[1.0], [1.0]])}, state)
    assert adv[1, 0] > 0 > adv[0, 0]


def test_rewards_outside_0_and_1_count_as_success_or_failure():
    found = {"reward_PG": np.array([[3.0], [-2.0]]), "row_P": np.array([0, 1])}
    _, state = run("single_stream", found, tracker_decay=1.0)
    assert_array_equal(np.asarray(state.success_E)[:2], [1.5, 0.5])
    assert_array_equal(np.asarray(state.failure_E)[:2], [0.5, 1.5])


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_unknown_rows_and_no_rows_at_all(name):
    with pytest.raises(ValueError, match=f"{name} remembers prompts .*pass row_P"):
        compute(name, np.eye(3))
    with pytest.raises(ValueError, match="num_rows"):
        run(name, {"reward_PG": np.eye(3), "row_P": np.array([0, 1, E])})
    assert ESTIMATORS[name].by_row
    leaves = jax.tree.leaves(init_state(AdvantageConfig(name=name), 3, E))
    assert all(leaf.shape == (E,) and leaf.dtype == np.float32 for leaf in leaves)
