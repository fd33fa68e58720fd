"""Both sides of the benchmark of advantages compute the same, and its rows pair them rightly."""

import numpy as np
import pytest

from benchmarks.speed import advantages
from g2rpo_jax.advantages import ESTIMATORS


def test_peers_compute_what_our_estimators_do(monkeypatch, tmp_path):
    monkeypatch.setattr(advantages, "LEAST_S", 0.0)
    mine = advantages.ours(24, tmp_path / "ours.npz")
    theirs = advantages.torch_side(24, tmp_path / "torch.npz")
    values = [np.load(tmp_path / f"{side}.npz") for side in ("ours", "torch")]
    assert {row["estimator"] for row in mine} == set(ESTIMATORS)
    assert all(np.abs(value_PG).max() > 0.5 for value_PG in values[0].values())
    rows = [row for row in advantages.table(24, [mine], [theirs], *values) if "peer" in row]
    assert len(rows) == len(theirs)
    assert all(row["max_difference"] < 1e-5 for row in rows), rows


def test_ratios_are_taken_round_by_round():
    def told(name, form, *seconds):
        return [[{"estimator": name, "form": form, "seconds": s}] for s in seconds]

    values = {"g2rpo": np.ones((2, 8))}, {"g2rpo torch loop": np.zeros((2, 8))}
    mine, theirs = told("g2rpo", "erfinv", 1, 2, 4), told("g2rpo", "torch loop", 10, 60, 4)
    (row,) = advantages.table(2, mine, theirs, *values)
    assert (row["ours_s"], row["peer_s"]) == (2, 10) and row["note"] == "ranks=erfinv"
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == (10, 1, 30)
    assert row["max_difference"] == pytest.approx(1.0)
