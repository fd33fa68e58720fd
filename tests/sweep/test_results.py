"""Intervals, pairs, tables and curves of results that are written down here."""

import csv
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from g2rpo_jax.sweep import plan, results
from g2rpo_jax.sweep.picture import curve
from tests.sweep.test_plan import TINY


def result(cell, mean, **tasks):
    accuracies = tasks | {"mean": mean}
    return results.Result(cell, dict.fromkeys(accuracies, 0.25), accuracies, 10.0, 4)


@pytest.fixture(scope="module")
def asked():
    grid = ["advantage.name=g2rpo,grpo"]
    said = plan.from_flags({}, TINY, ["steps=4"], grid, ["0", "1", "2"], "advantage.name=grpo")
    return plan.parse(said)


def test_an_interval_of_three_values():
    # s = 1, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027.
    found = results.interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0 and found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert results.interval([0.5]) == results.Interval(0.5, None, 1)


@given(st.lists(st.integers(0, 64), min_size=2, max_size=9).filter(lambda v: len(set(v)) > 1))
def test_intervals_are_those_of_scipy(values):
    values = np.array(values) / 8
    found = results.interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose([found.mean - found.half, found.mean + found.half], [low, high])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(1.0, 3.0, (4000, 3))
    held = [abs(i.mean - 1.0) <= i.half for i in map(results.interval, drawn)]
    assert abs(np.mean(held) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_differences_are_taken_at_equal_seeds_alone(asked, tmp_path):
    by = {(c.arm, c.seed): c for c in asked.cells(tmp_path)}
    ours, theirs = asked.arms
    # A seed that is hard for both: the arms differ by 0.01 throughout.
    found = [result(by[ours, s], v) for s, v in ((0, 0.5), (1, 0.3), (2, 0.4))]
    found += [result(by[theirs, s], v) for s, v in ((2, 0.39), (1, 0.29))]
    got = results.differences(found, ours, theirs, "mean")
    np.testing.assert_allclose(got, [0.01, 0.01])
    text = results.table(asked, found)
    assert "5 of 6 cells are finished" in text
    assert f"| {ours} | {theirs} | 2 of 2 | +0.010 ± 0.000 |" in text
    assert f"| {ours} | 3 | 0.400 ± 0.248 | 10 |" in text  # 0.1 x 4.3027 / sqrt(3)


def test_one_seed_has_no_interval_and_no_cell_no_table(asked, tmp_path):
    cells = asked.cells(tmp_path)
    text = results.table(asked, [result(cells[0], 0.5), result(cells[1], 0.75)])
    assert "| 1 | 0.500 | 10 |" in text and "| 0 of 1 | -0.250 |" in text
    assert "0 of 6 cells are finished" in results.table(asked, [])


def test_the_csv_has_a_row_for_each_cell_with_its_fields_and_tasks(asked, tmp_path):
    cells = asked.cells(tmp_path)
    found = [result(cells[i], 0.5 + i / 10, ocr=0.5, chart=0.5 + i / 5) for i in (0, 1)]
    results.write_csv(tmp_path / "results.csv", asked, found)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["advantage.name"] for row in rows] == ["g2rpo", "grpo"]
    assert float(rows[1]["after/chart"]) == 0.7 and float(rows[1]["before/mean"]) == 0.25
    assert (rows[1]["arm"], rows[1]["seed"], rows[1]["steps"]) == ("advantage=grpo", "0", "4")


def test_a_curve_is_the_mean_at_steps_that_all_runs_have():
    runs = [
        [{"step": 0, "a": 1.0}, {"step": 1}, {"step": 2, "a": 3.0}, {"step": 3, "a": None}],
        [{"step": 0, "a": 2.0}, {"step": 2, "a": 3.0}, {"step": 3, "a": 9.0}],
    ]
    steps, mean, half = curve(runs, "a")
    np.testing.assert_array_equal(steps, [0, 2])
    np.testing.assert_allclose(mean, [1.5, 3.0])
    np.testing.assert_allclose(half, [12.7062 * 0.5, 0.0], rtol=1e-5)  # t(0.975, 1) = 12.7062
    assert len(curve(runs, "b")[0]) == 0


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(1, 12))
def test_smoothing_is_a_mean_over_the_rows_before(values, smooth):
    rows = [{"step": i, "a": value / 8} for i, value in enumerate(values)]
    expected = [np.mean(values[max(0, i + 1 - smooth) : i + 1]) / 8 for i in range(len(values))]
    np.testing.assert_allclose(curve([rows], "a", smooth)[1], expected, atol=1e-12)
