"""A curriculum decides by seed, place and history, and goes on where it was left."""

import dataclasses
import json
import types

import numpy as np

from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.selection.prompts import CurriculumConfig
from g2rpo_jax.train.curriculum import Curriculum
from tests.train.test_filtering import row

USABLE = np.array([2, 3, 5, 8, 9, 11])
ROWS = types.SimpleNamespace(usable=USABLE, groups=lambda: {"ocr": USABLE})


def make(name="unsolved", seed=4, **options):
    stream = PromptStream(ROWS, seed=seed)
    return Curriculum(CurriculumConfig(name=name, **options), stream, USABLE, seed), stream


def sampled(stream, accuracy):
    """The first epoch's rows, whose accuracies are by index of the row."""
    rows = []
    for i in range(len(stream)):
        made = row(accuracy(stream.row(i)), prompt_id=i)
        rows.append(dataclasses.replace(made, drawn=dataclasses.replace(made.drawn, prompt_id=i)))
    return rows


def solved(index):
    return [1, 1] if index in (5, 9) else [0, 1]


def test_places_of_solved_rows_are_passed_over_in_later_epochs():
    made, stream = make(min_chance=1e-9)
    assert not any(made.passes_over(i) for i in range(60))
    made.saw(sampled(stream, solved))
    for i in range(60):
        assert made.passes_over(i) == (stream.row(i) in (5, 9))


def test_places_are_passed_over_as_often_as_the_chance_says():
    made, stream = make(min_chance=0.25)
    made.saw(sampled(stream, lambda index: [1, 1]))
    share = np.mean([made.passes_over(i) for i in range(2000)])
    assert abs(share - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_a_restored_curriculum_decides_the_same():
    made, stream = make("greso")
    for _ in range(3):
        made.saw(sampled(stream, lambda index: [0, 0] if index < 8 else [1 / 3, 1]))
    again, _ = make("greso")
    again.restore(json.loads(json.dumps(made.to_json())))
    decided = [made.passes_over(i) for i in range(200)]
    assert any(decided) and decided == [again.passes_over(i) for i in range(200)]
    assert again.to_json() == made.to_json()
    other, _ = make("greso", seed=5)
    other.restore(made.to_json())
    assert decided != [other.passes_over(i) for i in range(200)]


def test_without_a_curriculum_nothing_is_kept():
    made, stream = make("uniform")
    made.saw(sampled(stream, solved))
    assert made.to_json()["rows"] == [] and not any(made.passes_over(i) for i in range(50))
