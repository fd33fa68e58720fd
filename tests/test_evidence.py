"""The study of docs/evidence.md: its settings, its rewards, its verdicts and its page."""

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from g2rpo_jax.sweep import plan
from g2rpo_jax.sweep.results import Interval

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
RIGHT = "<thinking>a</thinking><answer>{}</answer>"


@pytest.fixture(scope="module", autouse=True)
def found_here():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_sweep_is_a_plan_whose_settings_exist():
    from evidence.sweeps import SEEDS, SWEEPS

    assert len(SEEDS) >= 5
    for name, content in SWEEPS.items():
        parsed = plan.parse(content)
        assert len(parsed.resolved) == len(content["arms"]), name


def test_unlike_pays_a_tenth_for_some_types_and_seldom_in_full():
    from evidence.rewards import SCALES, unlike

    low = np.array([unlike(RIGHT.format("4"), "4", "math", "image") for _ in range(6000)])
    full = np.array([unlike(RIGHT.format("4"), "4", "numerical", "image") for _ in range(6000)])
    assert 0.005 <= low.min() and low.max() <= SCALES["math"]
    assert full.min() >= 0.05 and full.max() <= 1.0
    # P(0.05 x >= 1) = 20 ** -1.5 = 0.0112
    assert abs((full == 1.0).mean() - 20**-1.5) < 4 * math.sqrt(0.0112 / 6000)
    assert unlike(RIGHT.format("5"), "4", "numerical", "image") == 0.0


def test_noisy_turns_one_mark_of_five_round():
    from evidence.rewards import WRONG, noisy

    for said, share in (("4", 1 - WRONG), ("5", WRONG)):
        marks = [noisy(RIGHT.format(said), "4", "numerical", "image") for _ in range(4000)]
        assert set(marks) == {0.0, 1.0}
        assert abs(np.mean(marks) - share) < 4 * math.sqrt(WRONG * (1 - WRONG) / 4000)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Interval(0.02, 0.01, 5), "held"),
        (Interval(-0.02, 0.01, 5), "the opposite"),
        (Interval(0.02, 0.03, 5), "open"),
        (Interval(0.02, None, 1), "not measured"),
        (None, "not measured"),
    ],
)
def test_a_claim_holds_only_where_zero_is_outside(value, said):
    from evidence.verdicts import verdict

    assert verdict(value) == said


@pytest.fixture
def study(tmp_path):
    """A study's folder with numbers that are known: two arms of "as_scored" at two seeds."""
    from evidence.found import TASKS
    from evidence.sweeps import SWEEPS

    out = tmp_path / "study"
    content = SWEEPS["as_scored"] | {"seeds": [0, 1]}
    parsed = plan.parse(content)
    (out / "as_scored").mkdir(parents=True)
    plan.write(parsed, out / "as_scored")
    reached = {("g2rpo", 0): 0.52, ("g2rpo", 1): 0.60, ("grpo", 0): 0.50, ("grpo", 1): 0.56}
    judged = {str(ROOT / "assets/tiny"): {"greedy": numbers(TASKS, 0.4)}}
    for cell in parsed.cells(out / "as_scored"):
        if (cell.arm, cell.seed) not in reached:
            continue
        cell.folder.mkdir(parents=True)
        (cell.folder / "summary.json").write_text('{"finished": true}')
        row = {f"rollout/length_tokens/{task}": 9.0 for task in TASKS}
        rows = [json.dumps({"step": step, "reward/accuracy": 0.5} | row) for step in (1, 2)]
        (cell.folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
        judged[str(cell.folder)] = {"greedy": numbers(TASKS, reached[cell.arm, cell.seed])}
    (out / "judged.json").write_text(json.dumps(judged))
    return out


def numbers(tasks, mean):
    return {"mean": mean} | {t: mean for t in tasks} | {f"length/{t}": 8.0 for t in tasks}


def test_the_page_says_what_the_folder_holds(study, tmp_path):
    from evidence import page

    docs = tmp_path / "docs"
    (docs / "images").mkdir(parents=True)
    page.write(study, docs)
    text = (docs / "evidence.md").read_text()
    assert "$" not in text
    # Differences 0.02 and 0.04: mean 0.03, half = 12.706 * 0.01.
    assert "G2RPO beats GRPO on the tasks' own rewards (+0.030 ± 0.127)" in text
    line = next(line for line in text.splitlines() if line.startswith("| `g2rpo` |"))
    assert re.search(r"\| 0\.560 ± 0\.508 \| \+0\.030 ± 0\.127 \|$", line)
    assert "*Not measured: noisy.*" in text and "*Not measured: equity.json.*" in text
    assert (docs / "images" / "evidence_learning.png").stat().st_size > 5000
