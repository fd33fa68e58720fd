"""Rows of every problem type, with text, pictures and clips in one batch, train as a user would."""

import json

import pytest

from g2rpo_jax import metrics
from g2rpo_jax.rewards import REWARDS
from tests import onethinker
from tests.train.test_loop import directory, launch  # noqa: F401  (a fixture)

FLAGS = {
    "config.data.template": "release",
    "config.data.prompt_tokens": (1024,),
    "config.data.patches": (0, 512),
    "config.batch.rollout_prompts": len(onethinker.KINDS),
    "config.batch.prompts": len(onethinker.KINDS),
    "config.batch.minibatches": 1,
    "config.eval.every": 0,
    "config.checkpoint.every": 0,
    "config.tasks.tracking.max_tokens": 5,
    "config.host_devices": 1,
}


@pytest.mark.slow
def test_every_problem_type_trains_for_two_steps(directory, tmp_path):  # noqa: F811
    source = onethinker.write(tmp_path)
    flags = FLAGS | {"config.data.train": source, "config.data.test": source}
    done = launch(
        directory,
        tmp_path / "run",
        2,
        *(f"--{name}={value}" for name, value in flags.items()),
        "--config.log.samples_every=1",
        f"--config.log.samples={len(onethinker.KINDS)}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and not summary["rows_skipped"]
    samples = metrics.read(tmp_path / "run" / "samples.jsonl")
    assert {s["problem_type"] for s in samples if s["step"] == 1} == set(REWARDS)
    lengths = [r["tokens"] for s in samples if s["task"] == "tracking" for r in s["responses"]]
    assert lengths and max(lengths) <= 5
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    tasks = {
        name.removeprefix("reward/total/") for name in rows[0] if name.startswith("reward/total/")
    }
    assert len(tasks) == 12 and all(row["policy/skipped"] == 0 for row in rows)
