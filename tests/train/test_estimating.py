"""What estimators are told, and their states through JSON and back, as checkpoints keep them."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2rpo_jax.advantages import ESTIMATORS, AdvantageConfig, compute, init_state
from g2rpo_jax.rewards import Score
from g2rpo_jax.train import estimating
from g2rpo_jax.train.rows import Row

G, T = 2, 3
ROWS, TASKS = 5000, 3


def states(name):
    """(after two batches, fresh) of an estimator."""
    rng, state = np.random.default_rng(0), None
    for _ in range(2):
        _, state = compute(
            name,
            rng.random((4, 3)),
            task_P=np.array([0, 1, 1, 0]),
            components={"accuracy": rng.random((4, 3))},
            length_PG=np.full((4, 3), 5.0),
            surprise_PG=rng.random((4, 3)),
            logp_PG=-rng.random((4, 3)),
            row_P=np.array([7, 4999, 7, -1]),
            state=state,
            num_tasks=TASKS,
            num_rows=ROWS,
        )
    return state, init_state(AdvantageConfig(name=name), TASKS, ROWS)


@pytest.mark.parametrize("name", ["grpo", "ema_grpo_onethinker", "single_stream", "dcpo_smooth"])
def test_a_state_comes_back_to_the_bit(name):
    state, fresh = states(name)
    text = json.dumps(estimating.to_json(state, fresh))
    assert len(text) < 1000  # two rows of thousands were seen
    back = estimating.from_json(json.loads(text), fresh)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(two, one)
        assert isinstance(two, jnp.ndarray) and two.dtype == one.dtype


def test_whole_lists_of_older_checkpoints_are_read():
    state, fresh = states("ema_grpo")
    saved = json.loads(json.dumps([np.asarray(leaf).tolist() for leaf in jax.tree.leaves(state)]))
    back = estimating.from_json(saved, fresh)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(two, one)
        assert two.dtype == one.dtype


@pytest.mark.parametrize(
    ("kept", "now"), [("grpo", "ema_grpo"), ("ema_grpo", "single_stream"), ("dcpo_smooth", "grpo")]
)
def test_the_state_of_another_estimator_is_refused(kept, now):
    saved = estimating.to_json(*states(kept))
    with pytest.raises(ValueError, match="another advantage.name"):
        estimating.from_json(saved, states(now)[1])


def test_only_estimators_kept_by_row_grow_with_the_rows():
    for name, estimator in ESTIMATORS.items():
        options = AdvantageConfig(name=name)
        sizes = [
            sum(leaf.size for leaf in jax.tree.leaves(init_state(options, TASKS, rows)))
            for rows in (10, 20)
        ]
        assert (sizes[0] != sizes[1]) == estimator.by_row


def sampled(prompt_id, lengths):
    """A row whose token t of response g has log p = -(g + 1) / (t + 1); rubbish behind its end."""
    lengths = np.array(lengths)
    logp_GT = -(np.arange(G)[:, None] + 1.0) / (np.arange(T) + 1)
    mask_GT = np.arange(T) < lengths[:, None]
    return Row(
        drawn=types.SimpleNamespace(
            prompt_id=prompt_id, example=types.SimpleNamespace(task="b", type_task="b")
        ),
        token_GT=np.ones((G, T), np.int32),
        mask_GT=mask_GT,
        logp_GT=np.where(mask_GT, logp_GT, 99.0).astype(np.float32),
        ended_G=np.ones(G, bool),
        texts=["", ""],
        scores=[Score(1.0, 1.0, 0.0, 1.0), Score(0.0, 1.0, 0.0, 0.1)],
        length_reward_G=np.zeros(G),
        length_weight=0.0,
        born=1,
    )


def test_estimators_are_told_how_responses_were_sampled_and_which_row_a_prompt_is():
    rows = [sampled(12, [3, 2]), sampled(8, [0, 1])]
    group = estimating.group_of(rows, 3, ("a", "b"), False, lambda prompt_id: prompt_id % 7, 50)
    likelihoods = [[-(1 + 1 / 2 + 1 / 3), -(2 + 1)], [0, -2]]
    np.testing.assert_allclose(group.logp_PG, [*likelihoods, [0, 0]], rtol=1e-6)
    means = [[(1 + 1 / 2 + 1 / 3) / 3, 3 / 2], [0, 2], [0, 0]]
    np.testing.assert_allclose(group.surprise_PG, means, rtol=1e-6)
    assert group.surprise_PG.dtype == group.logp_PG.dtype == np.float32
    np.testing.assert_array_equal(group.row_P, [5, 1, -1])
    assert group.row_P.dtype == np.int32 and group.num_rows == 50
    np.testing.assert_array_equal(group.task_P, [1, 1, -1])


def test_another_process_says_the_same_of_a_row():
    row = sampled(3, [2, 1])
    there = Row.received(row.sent(), row.drawn, pad=0)
    np.testing.assert_array_equal(there.logp_G, row.logp_G)
    np.testing.assert_array_equal(there.surprise_G, row.surprise_G)
