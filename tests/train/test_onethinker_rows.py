"""Runs as a user starts them: rows of every problem type and medium in one batch; broken rows."""

import collections
import json

import pytest

from g2rpo_jax import metrics
from tests import onethinker
from tests.data import test_broken_rows as broken_rows
from tests.data.test_broken_rows import broken, folder  # noqa: F401  (fixtures)
from tests.train.test_loop import cache, directory, launch  # noqa: F401  (fixtures)

FLAGS = {
    "config.data.template": "release",
    "config.data.prompt_tokens": (1024,),
    "config.data.patches": (0, 512),
    "config.batch.rollout_prompts": len(onethinker.KINDS),
    "config.batch.generate_prompts": 4,
    "config.batch.prompts": len(onethinker.KINDS),
    "config.batch.minibatches": 1,
    "config.eval.every": 0,
    "config.checkpoint.every": 0,
    "config.tasks.tracking.max_tokens": 5,
    "config.host_devices": 1,
}


@pytest.mark.slow
def test_every_problem_type_trains_for_two_steps(directory, launch, tmp_path):  # noqa: F811
    source = onethinker.write(tmp_path)
    flags = FLAGS | {
        "config.data.train": source,
        "config.data.test": source,
        "config.advantage.name": "g2rpo_release",
        "config.advantage_task": "problem_type",
        "config.eval.every": 2,
        "config.eval.final_count": 1,
    }
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
    kinds = {kind[1] for kind in onethinker.KINDS}
    assert {s["problem_type"] for s in samples if s["step"] == 1} == kinds
    lengths = [r["tokens"] for s in samples if s["task"] == "tracking" for r in s["responses"]]
    assert lengths and max(lengths) <= 5
    assert summary["evaluations"]["2"]["tracking"]["length_tokens"] <= 5
    rows = [row for row in metrics.read(tmp_path / "run" / "metrics.jsonl") if row["step"]]
    tasks = {
        name.removeprefix("reward/total/") for name in rows[0] if name.startswith("reward/total/")
    }
    assert len(tasks) == 12 and all(row["policy/skipped"] == 0 for row in rows)


@pytest.mark.slow
def test_a_run_over_broken_rows_goes_on_and_names_each_reason(
    directory,  # noqa: F811
    launch,  # noqa: F811
    folder,  # noqa: F811
    broken,  # noqa: F811
    tmp_path,
):
    source, ways = broken
    data = broken_rows.CONFIG
    flags = FLAGS | {
        "config.data.train": source,
        "config.data.test": source,
        "config.data.image_dir": folder,
        **{
            f"config.data.{name}": getattr(data, name)
            for name in ("template", "prompt_tokens", "patches", "max_pixels", "max_image_pixels")
        },
        "config.batch.rollout_prompts": 190,
        "config.batch.generate_prompts": 0,
        "config.batch.prompts": 8,
        "config.filter.max_age": 0,
        "config.responses": 2,
        "config.max_tokens": 2,
        "config.decode_chunk": 2,
    }
    done = launch(directory, tmp_path / "run", 5, *(f"--{k}={v}" for k, v in flags.items()))
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = collections.Counter(broken_rows.WAYS[way][0] for way in ways.values())
    # Five steps of 190 draw every one of the 950 good rows, and so meet every broken one that does
    # not stand behind the last good one.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    counted = collections.Counter(summary["rows_skipped"])
    assert summary["steps"] == 5 and not counted - wanted and (wanted - counted).total() <= 2
    assert set(summary["rows_skipped_by_file"]) == set(source.split(","))
    assert all(reason in done.stdout for reason in counted)
