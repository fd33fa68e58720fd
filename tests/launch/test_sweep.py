"""A sweep as a user types it."""

import csv
import json

import pytest

from tests.launch.test_eval import launch
from tests.train.test_loop import directory  # noqa: F401  (a fixture)

TINY = "--config=configs/onethinker.py:tiny"
SMALL = {
    "steps": 1,
    "host_devices": 1,
    "max_tokens": 8,
    "batch.rollout_prompts": 8,
    "batch.prompts": 8,
    "eval.prompts": 12,
    "data.test": "embedded:test?rows=12&seed=0",
}


@pytest.mark.slow
def test_two_arms_run_and_are_compared_and_nothing_is_run_twice(directory, tmp_path):  # noqa: F811
    asked = {
        "config": "configs/onethinker.py:tiny",
        "set": SMALL | {"model.directory": str(directory)},
        "grid": {"advantage.name": ["g2rpo", "grpo"]},
        "baseline": {"advantage.name": "grpo"},
    }
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    out = tmp_path / "out"
    flags = (f"--file={tmp_path / 'asked.json'}", f"--out={out}")
    done = launch("sweep", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 arms x 1 seeds" in done.stdout
    assert "| advantage=g2rpo | advantage=grpo |" in done.stdout
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["advantage.name"] for row in rows] == ["g2rpo", "grpo"]
    assert rows[0]["before/mean"] == rows[1]["before/mean"]
    assert (out / "cells/advantage=grpo/seed-0/report.html").exists()
    written = (out / "results.csv").read_text()
    (out / "results.csv").unlink()
    again = launch("sweep", *flags)
    assert again.returncode == 0 and "2 of them finished" in again.stdout, again.stderr
    assert (out / "results.csv").read_text() == written
    other = launch("sweep", *flags, "--set=optim.lr=1e-5")
    assert other.returncode == 1 and "optim.lr: 0.0003 -> 1e-05" in other.stderr
    (out / "table.md").unlink()
    shown = launch("sweep", "--collect", f"--out={out}")
    assert shown.returncode == 0 and (out / "table.md").read_text() in shown.stdout


def test_a_misspelt_field_is_named_before_anything_starts(tmp_path):
    done = launch("sweep", TINY, "--grid=optim.lrr=1", f"--out={tmp_path / 'out'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: arm lrr=1: unknown field optim.lrr; did you mean 'lr'" in done.stderr
    assert not (tmp_path / "out").exists()
