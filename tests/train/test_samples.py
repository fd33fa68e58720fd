"""Which rows of a step are logged, and what is said to have become of them."""

import collections
import types

import numpy as np
import pytest

from g2rpo_jax.data.media import Limits
from g2rpo_jax.report import SampleLog
from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train import samples
from g2rpo_jax.train.filtering import Collected
from tests.report import run_folder


def row(task, accuracy, born=3, **fields):
    """A row of four responses with these accuracies."""
    asked = run_folder.example(task, "OCR", "8", **fields)
    return run_folder.row(asked, ["a", "b", "c", "d"], accuracy, born, 7)


def test_every_row_is_told_what_became_of_it():
    carried = row("ocr", [1, 0, 0, 0], born=2)
    fresh, waits = row("ocr", [1, 1, 0, 0]), row("ocr", [1, 0, 1, 1])
    right, wrong = row("ocr", [1] * 4), row("ocr", [0] * 4)
    got = Collected([carried, fresh], [waits], [right, fresh, wrong, waits], 1, 0)
    adv_PG = np.arange(8, dtype=np.float32).reshape(2, 4)
    told = samples.fates(got, adv_PG, FilterConfig())
    assert [(f.row, f.fate) for f in told] == [
        (carried, "trained"),
        (fresh, "trained"),
        (right, "all right"),
        (wrong, "all wrong"),
        (waits, "surplus"),
    ]
    assert {f.fate for f in told} == set(samples.FATES) - {"all equal"}
    assert told[1].adv_G.tolist() == [4, 5, 6, 7] and told[2].adv_G is None


def test_rows_that_are_equal_and_neither_right_nor_wrong_are_told_apart():
    config = FilterConfig(criterion="accuracy_spread")
    rows = [row("ocr", [each] * 4) for each in (0, 0.5, 1)]
    told = samples.fates(Collected([], [], rows, 1, 0), None, config)
    assert [f.fate for f in told] == ["all wrong", "all equal", "all right"]


def test_a_step_without_an_update_has_no_advantages():
    got = Collected([], [], [row("ocr", [0] * 4)], 2, 0)
    assert [f.fate for f in samples.fates(got, None, FilterConfig())] == ["all wrong"]


def fates_of(counts):
    """Fates of made-up rows: {(task, fate): how many}."""
    rows = [
        types.SimpleNamespace(example=types.SimpleNamespace(task=task), number=i)
        for (task, _), count in counts.items()
        for i in range(count)
    ]
    kinds = [fate for (_, fate), count in counts.items() for _ in range(count)]
    return [samples.Fate(r, fate) for r, fate in zip(rows, kinds, strict=True)]


def test_logged_rows_spread_over_tasks_and_fates():
    rows = fates_of(
        {("a", "trained"): 30, ("a", "all right"): 5, ("b", "trained"): 2, ("c", "all wrong"): 9}
    )
    chosen = samples.choose(rows, 6, step=10)
    found = collections.Counter((f.row.example.task, f.fate) for f in chosen)
    assert found == {
        ("a", "trained"): 1,
        ("a", "all right"): 1,
        ("b", "trained"): 2,
        ("c", "all wrong"): 2,
    }
    assert chosen == samples.choose(rows, 6, step=10)


@pytest.mark.parametrize("count", [0, 1, 6, 100])
def test_never_more_rows_than_asked_for_and_none_twice(count):
    rows = fates_of({("a", "trained"): 3, ("b", "surplus"): 5})
    chosen = samples.choose(rows, count, step=1)
    assert len(chosen) == min(count, 8) and len({id(f) for f in chosen}) == len(chosen)
    assert samples.choose([], count, step=1) == []


def test_every_task_and_both_kinds_of_row_get_their_turn_over_the_steps():
    rows = fates_of({(task, fate): 4 for task in "abcdefg" for fate in ("trained", "all right")})
    chosen = [f for step in range(0, 2000, 10) for f in samples.choose(rows, 2, step)]
    tasks = collections.Counter(f.row.example.task for f in chosen)
    assert set(tasks) == set("abcdefg") and min(tasks.values()) > 30  # 57 expected
    trained = sum(f.fate == "trained" for f in chosen) / len(chosen)
    assert 0.55 < trained < 0.78  # two thirds expected


def test_a_vanished_picture_is_said_to_be_missing(tmp_path):
    log = SampleLog(tmp_path, start=1)
    gone = row("ocr", [1, 0, 0, -1], images=("nowhere.png",))
    samples.write(log, 5, [samples.Fate(gone, "surplus")], 1, Limits())
    log.close()
    from g2rpo_jax import metrics

    (entry,) = metrics.read(tmp_path / "samples.jsonl")
    assert entry["media"][0]["kind"] == "missing" and "nowhere.png" in entry["media"][0]["reason"]
    assert entry["fate"] == "surplus" and entry["responses"][3]["failure"] == "no_json"
    assert [r["advantage"] for r in entry["responses"]] == [None] * 4
