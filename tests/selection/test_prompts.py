"""Chances of prompts: the papers' formulas written out again, and what they promise."""

import hypothesis as hyp
import hypothesis.strategies as st
import numpy as np
import pytest

from g2rpo_jax.selection.prompts import CURRICULA, CurriculumConfig, History, chances

WRONG, RIGHT, MIXED = np.zeros(4), np.ones(4), np.array([1.0, 0, 0, 0])


def seen(rows, groups, options=None):
    """A history of rows after rounds of (row, accuracies)."""
    history = History.empty(rows)
    for each in groups:
        places, accuracies = [row for row, _ in each], [accuracy for _, accuracy in each]
        history.add(places, accuracies, options or CurriculumConfig())
    return history


@pytest.mark.parametrize("name", CURRICULA)
@hyp.given(
    rounds=st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from([WRONG, RIGHT, MIXED])), max_size=6),
        max_size=8,
    )
)
def test_chances_are_chances_and_a_row_never_seen_has_the_best(name, rounds):
    options = CurriculumConfig(name=name, min_chance=0.02)
    chance_R = chances(seen(6, rounds, options), options)
    assert chance_R.shape == (6,) and (chance_R >= 0.02).all() and (chance_R <= 1).all()
    assert chance_R[5] == chance_R.max()  # the last row is never among those sampled
    if name == "uniform":
        assert (chance_R == 1).all()


def test_history_counts_responses_and_runs_of_equal_groups():
    history = seen(3, [[(0, WRONG), (1, RIGHT)], [(0, WRONG), (1, MIXED)], [(0, RIGHT)]])
    assert history.tried_R.tolist() == [12, 8, 0] and history.right_R.tolist() == [4, 5, 0]
    assert history.last_R.tolist() == [1, 0.25, 0] and history.equal_R.tolist() == [3, 0, 0]


def test_greso_by_its_formula():
    """Round by round in plain Python: the base moves first, then is raised to the run's length."""
    rounds = [
        [(0, WRONG), (1, RIGHT), (2, MIXED)],  # a third of each kind: both above target
        [(0, WRONG), (1, RIGHT), (2, MIXED)],
        [(2, MIXED)],  # none: both below
    ]
    options = CurriculumConfig(name="greso")
    history = seen(4, rounds, options)
    base = 0.5 - 0.01 - 0.01 + 0.01
    assert history.explore_easy == pytest.approx(base) == history.explore_hard
    np.testing.assert_allclose(chances(history, options), [base**2, base**2, 1, 1])
    for _ in range(100):
        history.add([0], [WRONG], options)  # all wrong, none right
    assert history.explore_hard == pytest.approx(0.05)
    assert history.explore_easy == pytest.approx(0.95)
    np.testing.assert_allclose(chances(history, options), [0.01, 0.95**2, 1, 1])


def test_cures_is_the_softmax_of_the_posteriors_spread():
    options = CurriculumConfig(name="cures", temperature=0.2, min_chance=1e-6)
    chance_R = chances(seen(3, [[(0, MIXED), (1, RIGHT)]], options), options)
    w = np.array([2 / 6, 5 / 6, 1 / 2])  # (k + 1) / (n + 2)
    softmax = np.exp(np.sqrt(w * (1 - w)) / 0.2)
    np.testing.assert_allclose(chance_R / chance_R.sum(), softmax / softmax.sum())


def test_vas_is_half_by_variance_and_half_uniform():
    options = CurriculumConfig(name="vas", min_chance=1e-6)
    chance_R = chances(seen(3, [[(0, MIXED), (1, RIGHT)]], options), options)
    variance = np.array([0.25 * 0.75, 0, 0.25])
    q = 0.5 * variance / variance.sum() + 0.5 / 3
    np.testing.assert_allclose(chance_R / chance_R.sum(), q)
    solved = seen(2, [[(0, RIGHT), (1, RIGHT)]], options)
    assert chances(solved, options).tolist() == [1, 1]  # no weight anywhere


def test_solved_prompts_are_left_until_they_are_seen_to_fail():
    options = CurriculumConfig(name="unsolved", min_chance=0.05)
    rounds = [[(0, RIGHT), (1, WRONG), (2, RIGHT)], [(2, MIXED)]]
    assert chances(seen(4, rounds, options), options).tolist() == [0.05, 1, 1, 1]


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="unknown curriculum 'grezo'; did you mean 'greso'"):
        CurriculumConfig(name="grezo")
    for field, value in (("min_chance", 0.0), ("uniform_share", 2.0), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"curriculum.{field}={value}"):
            CurriculumConfig(**{field: value})
