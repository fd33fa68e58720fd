"""Rows wait, come again once, and grow too old."""

import numpy as np

from g2rpo_jax.selection.replay import ReplayConfig
from g2rpo_jax.train.replay import Replay
from tests.train.test_filtering import row


def rows(step, count=4):
    return [row([0, 1], born=step, prompt_id=10 * step + i) for i in range(count)]


def ids(found):
    return [each.drawn.prompt_id for each in found]


def test_a_row_comes_again_once_with_its_own_log_probs():
    buffer = Replay(ReplayConfig(name="random", share=0.5), seed=1)
    first = rows(1)
    buffer.add(first)
    taken = buffer.take(2, 4)
    assert len(taken) == 2 and set(ids(taken)) < set(ids(first))
    for each in taken:
        (was,) = (r for r in first if r.drawn.prompt_id == each.drawn.prompt_id)
        np.testing.assert_array_equal(each.logp_GT, was.logp_GT)
        assert each.drawn.prompt is None and each.born == 1
    rest = buffer.take(3, 8)
    assert sorted(ids(taken) + ids(rest)) == ids(first) and buffer.take(4, 8) == []


def test_it_depends_on_seed_and_step_alone():
    def taken(seed, step):
        buffer = Replay(ReplayConfig(name="random"), seed)
        buffer.add(rows(1, 40))
        return ids(buffer.take(step, 40))

    assert taken(0, 2) == taken(0, 2) != taken(0, 3) != taken(1, 2)


def test_old_rows_go_the_newest_stay_and_steps_between_replay_nothing():
    buffer = Replay(ReplayConfig(name="recent", share=1.0, every=2, capacity=6, max_age=3), 0)
    for step in (1, 2):
        buffer.add(rows(step))
    assert ids(buffer.rows) == [12, 13, 20, 21, 22, 23]
    assert buffer.take(3, 2) == []
    assert sorted(ids(buffer.take(4, 4))) == [20, 21, 22, 23]
    assert buffer.take(6, 4) == [] and buffer.rows == []  # of step 1: too old


def test_without_a_rule_nothing_is_kept():
    buffer = Replay(ReplayConfig(), 0)
    buffer.add(rows(1))
    assert buffer.rows == [] and buffer.take(2, 8) == []
