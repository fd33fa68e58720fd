"""Paths: worked by hand, against the recursion by definition, and laws."""

import functools
import json
import math

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import trajectory
from g2rpo_jax.rewards.parse import Unscorable

LARGEST = math.sqrt(2) + 0.25 * math.pi + 0.1 * math.log(10)


def text(points):
    return json.dumps({"points": points})


def score(said, right):
    return trajectory.trajectory(text(said), text(right))


LINE = [[0, 0], [100, 0], [200, 0]]


@pytest.mark.parametrize(
    ("said", "cost"),
    [
        (LINE, 0.0),
        ([[0, 300], [100, 300], [200, 300]], 0.3),  # beside it: the distance alone
        (LINE[::-1], 0.2 + 0.25 * math.pi),  # the other way: start against end, directions opposed
        ([[0, 0], [50, 0], [100, 0]], 0.1 + 0.1 * math.log(2)),  # half as long
        ([[0, 0]], 0.2 + 0.1 * math.log(10)),  # a point: no direction, no length
    ],
)
def test_worked_by_hand(said, cost):
    assert score(said, LINE) == pytest.approx(1 - cost / LARGEST)


def reference(a, b):
    """The recursion of the discrete Frechet distance as it is defined."""
    wa, wb = trajectory._ways(a), trajectory._ways(b)

    def cost(i, j):
        return math.dist(a[i], b[j]) / 1000 + trajectory._difference(wa[i], wb[j])

    @functools.cache
    def best(i, j):
        if i == j == 0:
            return cost(0, 0)
        before = [best(k, l) for k, l in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(k, l) >= 0]
        return max(min(before), cost(i, j))

    return best(len(a) - 1, len(b) - 1)


coordinate = st.integers(0, 20).map(lambda x: 50 * x)
path = st.lists(st.tuples(coordinate, coordinate).map(list), min_size=1, max_size=6)


@hyp.given(path, path)
def test_the_distance_is_the_recursions_and_symmetric(a, b):
    assert trajectory.distance(a, b) == pytest.approx(reference(a, b))
    assert trajectory.distance(a, b) == pytest.approx(trajectory.distance(b, a))
    assert 0.0 <= score(a, b) <= 1.0
    assert score(a, a) == 1.0


def test_a_path_that_turns_back_keeps_the_direction_it_came_by():
    there_and_back = [[0, 0], [100, 0], [0, 0]]
    assert trajectory._ways(there_and_back) == [(1, 0, 100), (1, 0, 100), (-1, 0, 100)]


@pytest.mark.parametrize(
    "points", [None, [], [1, 2], [[1, 2, 3]], [[1, True]], [[1, 1001]], [[-1, 0]], "x", [["1", 1]]]
)
def test_what_is_no_path(points):
    with pytest.raises(Unscorable) as caught:
        score(points, LINE)
    assert caught.value.kind == "no_path"
    with pytest.raises(Unscorable) as caught:
        score(LINE, points)
    assert caught.value.kind == "bad_truth"
    assert trajectory.trajectory_structure(text(points), "") == 0.0
    assert trajectory.trajectory_structure(text(LINE), "") == 0.5


def test_a_very_long_path_is_refused():
    with pytest.raises(Unscorable, match="longer"):
        score([[0, 0]] * 65, LINE)
