"""Filtering looks at raw accuracy, carries its surplus over, and never fails."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2rpo_jax import advantages
from g2rpo_jax.config import RunConfig
from g2rpo_jax.data.example import Example
from g2rpo_jax.rewards import Score
from g2rpo_jax.selection.replay import ReplayConfig
from g2rpo_jax.selection.responses import SelectionConfig
from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train.feed import Drawn
from g2rpo_jax.train.filtering import collect, keeps, weigh
from g2rpo_jax.train.rows import Row, assign, stack, stack_part

EXAMPLE = Example("1", "q", (), "8", "math", "math_reasoning", "image", ())


def row(accuracies, born=1, prompt_id=0, length_reward=0.0) -> Row:
    G = len(accuracies)
    return Row(
        drawn=Drawn(prompt_id, EXAMPLE, None),
        token_GT=np.arange(G * 3, dtype=np.int32).reshape(G, 3),
        mask_GT=np.arange(3)[None] < np.array([[1 + g % 3] for g in range(G)]),
        logp_GT=np.random.default_rng(prompt_id).normal(size=(G, 3)).astype(np.float32),
        ended_G=np.ones(G, bool),
        texts=["x"] * G,
        scores=[Score(a, 1.0, 0.5, 0.9 * a + 0.6, None) for a in accuracies],
        length_reward_G=np.full(G, length_reward, np.float32),
        length_weight=0.1,
        born=born,
    )


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [([0, 0, 0, 0], False), ([1, 1, 1, 1], False), ([0, 0, 0, 1], True), ([0.5] * 4, True)],
)
def test_rows_all_right_or_all_wrong_go(accuracies, kept):
    assert keeps(FilterConfig(), row(accuracies)) is kept
    assert keeps(FilterConfig(enabled=False), row(accuracies))


def test_the_filter_does_not_see_shaping():
    """NeMo RL #2431: with shaping on, all-wrong rows looked informative."""
    wrong = row([0.0, 0.0], length_reward=1.0)
    shaped = row([0.0, 0.0])
    assert (wrong.reward_G != shaped.reward_G).all() and not keeps(FilterConfig(), wrong)


def test_the_length_term_comes_out_of_accuracys_weight():
    np.testing.assert_allclose(row([1.0], length_reward=0.5).reward_G, 0.8 + 0.05 + 0.1 + 0.5)


def drawer(*rounds):
    """A `draw` that gives these rounds, and counts."""
    left = list(rounds)
    return lambda: left.pop(0)


GOOD, BAD = [0, 1], [0, 0]


def test_surplus_is_used_first_and_carried_on():
    old = [row(GOOD, born=1, prompt_id=9)]
    fresh = [row(GOOD, born=2, prompt_id=i) for i in range(3)]
    got = collect(FilterConfig(), 2, 2, old, drawer(fresh))
    assert [r.drawn.prompt_id for r in got.rows] == [9, 0]
    assert [r.drawn.prompt_id for r in got.surplus] == [1, 2]
    assert (got.rounds, got.dropped, len(got.sampled)) == (1, 0, 3)


def test_it_goes_on_drawing_until_the_batch_is_full():
    got = collect(
        FilterConfig(), 1, 2, [], drawer([row(BAD), row(GOOD)], [row(BAD)] * 2, [row(GOOD)] * 2)
    )
    assert (len(got.rows), len(got.surplus), got.rounds) == (2, 1, 3)


@pytest.mark.parametrize("accuracies", [BAD, [1, 1]])
def test_a_stream_without_signal_ends_after_the_rounds_without_an_error(accuracies):
    got = collect(FilterConfig(max_rounds=3), 1, 2, [], lambda: [row(accuracies)] * 4)
    assert (got.rows, got.surplus, got.rounds) == ([], [], 3)


def test_old_surplus_is_dropped_and_counted():
    got = collect(FilterConfig(max_age=1), 5, 1, [row(GOOD, born=3)], lambda: [row(GOOD, born=5)])
    assert got.dropped == 1 and got.rows[0].born == 5


def test_a_threshold_samples_on_until_the_valid_share_is_reached():
    """GPG: 0.6 of five rows; the first round has one valid row, the second two."""
    config = FilterConfig(valid_share=0.6)
    first = [row(BAD, prompt_id=i) for i in range(4)] + [row(GOOD, prompt_id=4)]
    second = [row(BAD, prompt_id=5), *(row(GOOD, prompt_id=i) for i in (6, 7))]
    second += [row(BAD, prompt_id=i) for i in (8, 9)]
    got = collect(config, 1, 5, [], drawer(first, second))
    assert [r.drawn.prompt_id for r in got.rows] == [4, 6, 7, 5, 8] and got.rounds == 2
    assert sum(keeps(config, r) for r in got.rows) / 5 >= 0.6 and got.surplus == []


def test_a_threshold_takes_valid_rows_before_others():
    got = collect(FilterConfig(valid_share=0.5), 1, 2, [], drawer([row(BAD), row(GOOD), row(GOOD)]))
    assert [r.part("accuracy").tolist() for r in got.rows] == [GOOD, GOOD]
    surplus = [row(GOOD)]  # enough, and yet there is room for fresh rows
    got = collect(FilterConfig(valid_share=0.5), 1, 2, surplus, drawer([row(BAD)]))
    assert len(got.rows) == 2 and got.rounds == 1
    with pytest.raises(ValueError, match="filter.valid_share=0.5 with filter.enabled=False"):
        FilterConfig(valid_share=0.5, enabled=False)


REWARDS = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]], np.float32)
LENGTHS = np.array([[9, 1, 2, 3, 4, 5, 6, 7], [8, 7, 6, 5, 4, 3, 2, 1]], np.float32)


def weighed(ended=None, replayed=(False, False), name="grpo", **sections):
    """What `weigh` makes of two prompts, and what the estimator was given as valid."""
    config, seen = RunConfig(**sections), []
    options = advantages.AdvantageConfig(name=name)

    def estimate(group):
        seen.append(group.valid_PG)
        arrays = jax.tree.map(jnp.asarray, group)
        return np.asarray(advantages.ESTIMATORS[name](arrays, (), options)[0])

    valid_PG = np.ones((2, 8), bool)
    group = advantages.Group(REWARDS, valid_PG, np.zeros(2, np.int32), length_PG=LENGTHS)
    ended_PG = valid_PG if ended is None else np.array(ended)
    return *weigh(config, group, ended_PG, np.array(replayed), estimate), seen[0]


def z(reward):
    """GRPO of what is kept, in float64."""
    reward = np.array(reward, float)
    return (reward - reward.mean()) / (reward.std(ddof=1) + 1e-6)


def test_nothing_is_left_out_by_default():
    adv_PG, keep_PG, seen_PG = weighed()
    assert keep_PG.all() and seen_PG.all()
    np.testing.assert_allclose(adv_PG[0], [2.475, *[-0.354] * 7], atol=1e-3)


def test_gfpo_has_its_advantages_over_the_kept_alone():
    adv_PG, keep_PG, seen_PG = weighed(selection=SelectionConfig(name="gfpo"))
    np.testing.assert_array_equal(keep_PG, LENGTHS <= 4)
    np.testing.assert_array_equal(seen_PG, keep_PG)
    expected = np.zeros((2, 8))  # the four shortest of each prompt are all wrong
    np.testing.assert_array_equal(adv_PG, expected)
    adv_PG, keep_PG, _ = weighed(selection=SelectionConfig(name="gfpo", share=0.75))
    assert not adv_PG[~keep_PG].any()
    np.testing.assert_allclose(adv_PG[1][keep_PG[1]], z([1, 1, 0, 0, 0, 0]), rtol=1e-5)


def test_pods_of_one_right_among_eight():
    adv_PG, keep_PG, _ = weighed(selection=SelectionConfig(name="pods"))
    assert keep_PG.sum(1).tolist() == [4, 4] and keep_PG[0, 0]
    np.testing.assert_allclose(np.unique(adv_PG[0]), [-0.5, 0, 1.5], atol=1e-5)  # z of 1 of 4
    np.testing.assert_allclose(adv_PG[1][keep_PG[1]], z([1, 1, 0, 0]), rtol=1e-5)


def test_cppo_prunes_after_the_advantages():
    adv_PG, keep_PG, seen_PG = weighed(selection=SelectionConfig(name="cppo", share=0.25))
    assert seen_PG.all() and keep_PG.sum(1).tolist() == [2, 2] and keep_PG[0, 0]
    np.testing.assert_allclose(adv_PG[0][keep_PG[0]], [2.475, -0.354], atol=1e-3)
    assert not adv_PG[~keep_PG].any()


CUT = [[False] + [True] * 7, [True] * 8]  # the only right one of the first prompt


@pytest.mark.parametrize(
    ("overlong", "others", "seen"),
    [("train", -0.354, True), ("mask", -0.354, True), ("drop", 0, False)],
)
def test_overlong_filtering_masks_the_loss_and_not_the_statistics(overlong, others, seen):
    adv_PG, keep_PG, seen_PG = weighed(CUT, filter=FilterConfig(overlong=overlong))
    assert keep_PG[0, 0] == (overlong == "train") and keep_PG[0, 1:].all()
    assert seen_PG[0, 0] == seen and (adv_PG[0, 0] > 0) == (overlong == "train")
    np.testing.assert_allclose(adv_PG[0, 1:], others, atol=1e-3)


def test_what_is_replayed_may_have_to_be_strong():
    replay = ReplayConfig(name="random", min_advantage=1.0)
    adv_PG, keep_PG, _ = weighed(replayed=(True, False), replay=replay)
    assert keep_PG[0].tolist() == [True] + [False] * 7 and keep_PG[1].all()


def test_replayed_rows_stand_behind_the_others():
    got = collect(FilterConfig(), 1, 1, [], lambda: [row(GOOD, prompt_id=1)])
    got = got.with_replayed([row(GOOD, prompt_id=2)])
    assert [r.drawn.prompt_id for r in got.rows] == [1, 2] and got.replayed == 1


def test_a_row_survives_json_exactly():
    import json

    original = row([0.125, 1 / 3], born=4, prompt_id=7, length_reward=0.1)
    back = Row.from_json(json.loads(json.dumps(original.to_json())), original.drawn)
    for name in ("token_GT", "mask_GT", "logp_GT", "ended_G", "length_reward_G", "reward_G"):
        np.testing.assert_array_equal(getattr(back, name), getattr(original, name))
    assert back.scores == original.scores and back.born == 4


def test_stacking_fills_up_with_zeros():
    rows = [row(GOOD), row([1, 1])]
    assert stack(rows, "mask_GT", 4)[2:].sum() == 0
    np.testing.assert_array_equal(stack_part(rows, "accuracy", 3), [[0, 1], [1, 1], [0, 0]])
    mixed = stack([None, rows[1], None], "mask_GT", 3, like=rows[0])
    assert not mixed[[0, 2]].any() and mixed[1].any()
    assert not stack([None], "mask_GT", 1, like=rows[0]).any()


def test_rows_stay_where_they_are_as_far_as_all_processes_get_the_same_number():
    assert assign([0, 1, 0, 1], 4, 2) == [[0, 2], [1, 3]]
    assert assign([0, 0, 0, 1], 4, 2) == [[0, 1], [2, 3]]  # the third moves
    assert assign([1, 1, 1], 6, 2) == [[None] * 3, [0, 1, 2]]
    assert assign([], 4, 2) == [[None, None]] * 2
    assert assign([0, 0, 0], 4, 1) == [[0, 1, 2, None]]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_row_is_trained_on_by_one_process(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        homes = rng.integers(0, count, rng.integers(0, 12 + 1)).tolist()
        parts = assign(homes, 12, count)
        assert {len(part) for part in parts} == {12 // count}
        assert sorted(i for part in parts for i in part if i is not None) == list(range(len(homes)))
        moved = sum(homes[i] != p for p, part in enumerate(parts) for i in part if i is not None)
        full = [max(0, homes.count(p) - 12 // count) for p in range(count)]
        assert moved == sum(full)  # none moves without need


def test_a_row_arrives_at_other_processes_as_it_was():
    original = row([0.125, 1 / 3], born=4, prompt_id=7, length_reward=0.1)
    padded = dataclasses.replace(
        original,
        token_GT=np.where(original.mask_GT, original.token_GT, 99),
        logp_GT=np.where(original.mask_GT, original.logp_GT, 0),
    )
    sent = pickle.loads(pickle.dumps(padded.sent()))
    assert sent["token_GT"].shape == (2, 2)  # nothing behind the longest response
    back = Row.received(sent, padded.drawn.elsewhere(), pad=99)
    for name in ("token_GT", "mask_GT", "logp_GT", "ended_G", "length_reward_G", "reward_G"):
        np.testing.assert_array_equal(getattr(back, name), getattr(padded, name))
        assert getattr(back, name).dtype == getattr(padded, name).dtype
    assert back.scores == padded.scores and back.born == 4 and back.texts == padded.texts
