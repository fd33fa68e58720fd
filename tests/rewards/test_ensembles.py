"""Rewards put together by name."""

import statistics

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax import rewards
from g2rpo_jax.rewards import ensembles, table

scores = st.lists(st.floats(0, 1), min_size=2, max_size=5)


@hyp.given(scores, st.floats(0, 3))
def test_both_ensembles_by_their_definition(values, weight):
    assert ensembles.worst(values) == min(values)
    expected = statistics.fmean(values) - weight * statistics.pvariance(values)
    found = ensembles.mean_less_variance(values, weight)
    assert found == pytest.approx(min(1.0, max(0.0, expected)), abs=1e-9)


def grade(name, said, truth):
    one = rewards.Scorer(by_task={"t": rewards.TaskReward(reward=name)})
    response = f"<thinking>so</thinking><answer>{said}</answer>"
    return one.score_batch([rewards.Item(response, truth, "OCR", task="t")])[0]


def test_a_task_may_name_an_ensemble():
    # Word error rate: 1 of 4 words wrong. ROUGE: 3 of 4, 2 of 3 pairs, 3 in order.
    rouge = (3 / 4 + 2 / 3 + 3 / 4) / 3
    assert grade("open-ended", "a b c x", "a b c d").accuracy == pytest.approx(rouge)
    assert grade("worst(OCR, open-ended)", "a b c x", "a b c d").accuracy == pytest.approx(rouge)
    mean, variance = (0.75 + rouge) / 2, (0.75 - rouge) ** 2 / 4
    score = grade("mean_less_variance(2, OCR, open-ended)", "a b c x", "a b c d")
    assert score.accuracy == pytest.approx(mean - 2 * variance)
    assert score.structure == 0.5


def test_a_part_that_cannot_read_the_answer_says_nothing_for_it():
    assert grade("worst(OCR, numerical)", "3", "3").accuracy == 1.0
    assert grade("worst(OCR, numerical)", "three", "3").accuracy == 0.0
    score = grade("mean_less_variance(0, OCR, numerical)", "3 x", "3")
    assert (score.accuracy, score.failure) == (0.0, None)
    assert grade("worst(numerical, regression)", "three", "3").failure == "no_number"
    assert grade("worst(OCR, numerical)", "3", "three").failure == "bad_truth"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("worst(OCR, opened)", "unknown reward 'opened'; did you mean 'open-ended'"),
        ("worst(OCR)", "fewer than two"),
        ("best(OCR, bleu)", "unknown ensemble of rewards 'best'"),
        ("mean_less_variance(OCR, bleu)", "'OCR' is no weight"),
        ("mean_less_variance(-1, OCR, bleu)", "'-1' is no weight"),
        ("mean_less_variance(nan, OCR, bleu)", "'nan' is no weight"),
        ("worst(OCR, math)", "'math' is compared in a child process"),
        ("worst()", "unknown reward ''"),
    ],
)
def test_an_ensemble_that_cannot_be_put_together_says_why(name, match):
    with pytest.raises(ValueError, match=match) as caught:
        rewards.Scorer(by_task={"t": rewards.TaskReward(reward=name)})
    assert "task 't'" in str(caught.value)


@pytest.mark.parametrize("mode", table.MODES)
def test_every_reward_that_a_task_may_name_exists_in_both_modes(mode):
    for name in (*table.REWARDS, *table.ALTERNATIVES, "worst(giou, spatial grounding)"):
        assert table.named(name, mode).accuracy
