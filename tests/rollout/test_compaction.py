"""Finished responses leave: who sits where afterwards (samples: tests/rollout/test_engine.py)."""

import jax
import numpy as np
import pytest

from g2rpo_jax.rollout.compaction import Seats, ladder, move, steps_down


def test_first_the_responses_of_a_row_halve_then_the_rows():
    assert ladder(6, 8, 4) == ((6, 8), (6, 4), (6, 2), (6, 1), (3, 1))
    assert ladder(3, 3, 9) == ((3, 3), (3, 2), (3, 1), (2, 1), (1, 1))
    assert ladder(6, 8, 0) == ((6, 8),)


@pytest.mark.parametrize("share", (0.9, 0.6, 0.5, 0.25, 0.1, 0.0))
def test_all_that_is_alive_has_one_seat_in_its_own_shard(share):
    ways, held, G = 2, 6, 6  # 6, 3, 2, 1: a row of four becomes two of three at most, then of two
    rng = np.random.default_rng(int(100 * share))
    shapes, seats = ladder(held, G, 4), Seats.all(ways * held, G)
    finished_PG = rng.random((ways * held, G)) >= share
    down = int(steps_down(finished_PG, shapes[1:], ways))
    assert down == int(jax.jit(steps_down, static_argnums=(1, 2))(finished_PG, shapes[1:], ways))
    assert (down == len(shapes)) == finished_PG.all()
    assert down >= {0.1: 2, 0.0: 5}.get(share, 0)
    if down + 1 < len(shapes):  # the next one has no room in some shard
        smaller = shapes[down + 1]
        needed = -(-(~finished_PG).sum(1) // smaller.responses)
        assert needed.reshape(ways, -1).sum(1).max() > smaller.rows
    alive = {(int(p), int(g)) for p, g in zip(*np.nonzero(~finished_PG), strict=True)}
    from_PG = np.arange(ways * held * G).reshape(ways, -1)  # every slot's own number, by shard
    for shape in shapes[1 : down + 1]:
        to, seats = move(seats, finished_PG, shape, ways)
        assert to.slot_PG.shape == seats.response_PG.shape == (ways * shape.rows, shape.responses)
        seated = [
            (int(row), int(g))
            for row, of in zip(seats.row_P, seats.response_PG, strict=True)
            for g in of
            if g >= 0
        ]
        assert len(seated) == len(set(seated)) and set(seated) == alive
        np.testing.assert_array_equal(to.finished_PG, seats.response_PG < 0)
        # What the device copies is what the host thinks.
        shard_P = np.repeat(np.arange(ways), shape.rows)
        from_PG = from_PG[shard_P[:, None], to.slot_PG]
        expected_PG = seats.row_P[:, None] * G + seats.response_PG
        np.testing.assert_array_equal(from_PG[~to.finished_PG], expected_PG[~to.finished_PG])
        from_PG = from_PG.reshape(ways, -1)
        np.testing.assert_array_equal(seats.row_P // held, shard_P)
        finished_PG = to.finished_PG


def test_a_row_that_became_two_may_be_one_again():
    """Four of a row, by way of shapes of three (3 + 1) to shapes of two (2 + 2), not 2 + 1 + 1."""
    shapes, seats = ladder(2, 6, 2), Seats.all(2, 6)
    finished_PG = np.ones((2, 6), bool)
    finished_PG[1, 1:5] = False
    assert steps_down(finished_PG, shapes[1:], 1) == 2
    for shape in shapes[1:]:
        to, seats = move(seats, finished_PG, shape, 1)
        finished_PG = to.finished_PG
    np.testing.assert_array_equal(seats.response_PG, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(seats.row_P, [1, 1])
