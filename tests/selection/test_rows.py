"""What the criteria of filtering look at."""

import numpy as np
import pytest

from g2rpo_jax.selection.rows import CRITERIA

HALVES, MIXED, WRONG = [0.5, 0.5], [0, 1], [0, 0]


@pytest.mark.parametrize(
    ("accuracy", "reward", "by_mean", "by_accuracy", "by_reward"),
    [
        (MIXED, MIXED, True, True, True),
        (HALVES, HALVES, True, False, False),  # graded and equal: nothing to compare
        (WRONG, [0.1, 0.2], False, False, True),  # only the format tells them apart
        (MIXED, [0.5, 0.5], True, True, False),
    ],
)
def test_criteria_differ_where_accuracy_is_graded_or_shaped(
    accuracy, reward, by_mean, by_accuracy, by_reward
):
    found = {
        name: criterion(np.array(accuracy, np.float32), np.array(reward, np.float32), 0.01, 0.99)
        for name, criterion in CRITERIA.items()
    }
    assert found == {
        "mean_accuracy": by_mean,
        "accuracy_spread": by_accuracy,
        "reward_spread": by_reward,
    }


def test_a_low_bound_below_zero_lets_only_solved_rows_go():
    keeps = CRITERIA["mean_accuracy"]
    for accuracy, kept in ((WRONG, True), (MIXED, True), ([1, 1], False)):
        assert keeps(np.array(accuracy, float), np.zeros(2), -1.0, 0.99) is kept
