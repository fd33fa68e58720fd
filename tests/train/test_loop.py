"""The whole run on a random model: what it writes, stopping and resuming, no recompilation."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from g2rpo_jax import metrics, models
from g2rpo_jax.config import ShapeConfig
from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.train.loop import evaluation_steps, outcome
from g2rpo_jax.train.sft import model_config
from tests.test_config import variant

ROOT = Path(__file__).parents[2]
SHAPE = ShapeConfig(
    hidden_size=32,
    intermediate_size=32,
    layers=1,
    heads=2,
    key_value_heads=1,
    head_dim=16,
    vision_hidden_size=16,
    vision_intermediate_size=16,
    vision_layers=1,
    vision_heads=2,
)
FLAGS = {
    "config.data.train": "embedded:train?rows=48",
    "config.data.test": "embedded:test?rows=12",
    "config.batch.rollout_prompts": 8,
    "config.batch.prompts": 8,
    "config.batch.minibatches": 2,
    "config.batch.microbatches": 1,
    "config.responses": 4,
    "config.filter.enabled": False,
    "config.eval.prompts": 12,
    "config.eval.every": 3,
    "config.eval.final_every": 1,
    "config.eval.final_count": 2,
    "config.checkpoint.every": 2,
    "config.log.samples_every": 2,
    "config.advantage.name": "ema_grpo",
    "config.shaping.entropy_weight": 0.01,
    "config.shaping.length_weight": 0.1,
    "config.optim.lr": 1e-2,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random model directory with the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.build(str(folder))
    shape = model_config(SHAPE, Processor(str(folder)))
    models.save(Qwen3VL(shape, nnx.Rngs(0)), folder)
    return folder


def command(directory, workdir, steps, *more):
    flags = FLAGS | {"config.model.directory": directory, "config.steps": steps}
    return [
        sys.executable,
        "launch/train.py",
        "--config=configs/onethinker.py:tiny",
        f"--workdir={workdir}",
        *(f"--{name}={value}" for name, value in flags.items()),
        *more,
    ]


def launch(*arguments):
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True)


def numbers(workdir):
    """Rows of metrics.jsonl without what a clock or the process decides."""
    free = ("time/", "compile/", "host/", "rollout/tokens_per_s")
    rows = metrics.read(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(free)} for row in rows]


@pytest.fixture(scope="module")
def whole(directory, tmp_path_factory):
    """A run of 6 steps, not interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = launch(directory, workdir, 6)
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done.stdout


@pytest.mark.slow
def test_a_run_writes_what_it_promises(whole):
    workdir, stdout = whole
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["finished"] and summary["wall_seconds"] > 0
    assert set(summary["before"]) == set(summary["after"]) and "mean" in summary["after"]
    assert set(summary["evaluations"]) == {"0", "3", "5", "6"}
    rows = metrics.read(workdir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(v) for row in rows for v in row.values() if v is not None)
    samples = metrics.read(workdir / "samples.jsonl")
    assert {s["step"] for s in samples} == {2, 4, 6} and len(samples[0]["responses"]) == 4
    for sample in samples:  # no filter here: every row is trained on
        assert sample["fate"] == "trained" and (workdir / sample["media"][0]["file"]).exists()
        assert all(np.isfinite(response["advantage"]) for response in sample["responses"])
    page = (workdir / "report.html").read_text()
    assert all(sample["media"][0]["file"] in page for sample in samples)
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert list((workdir / "tensorboard").iterdir())
    assert "held-out accuracy" in stdout and "summary.json" in stdout


@pytest.mark.slow
def test_nothing_compiles_after_the_first_steps(whole):
    counts = [row["compile/count"] for row in metrics.read(whole[0] / "metrics.jsonl")]
    assert counts[3] == counts[-1], counts


@pytest.mark.slow
def test_sampler_and_trainer_agree_and_the_run_learns_something(whole):
    rows = metrics.read(whole[0] / "metrics.jsonl")[1:]
    assert all(row["rollout/gap_max"] < 1e-3 for row in rows)
    assert all(row["policy/gradient_norm"] > 0 and row["policy/skipped"] == 0 for row in rows)


@pytest.mark.slow
def test_a_terminated_run_resumes_to_the_same_numbers(directory, whole, tmp_path):
    workdir = tmp_path / "run"
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(
        command(directory, workdir, 6), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=-2
    )
    deadline = time.monotonic() + 240
    while len(metrics.read(workdir / "metrics.jsonl")) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]
    stopped = json.loads((workdir / "summary.json").read_text())
    assert 2 <= stopped["steps"] <= 6
    resumed = launch(directory, workdir, 6, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert json.loads((workdir / "summary.json").read_text())["steps"] == 6
    assert numbers(workdir) == numbers(whole[0])


@pytest.mark.slow
def test_bad_input_is_one_sentence(directory, tmp_path):
    def complaint(*more):
        done = launch(directory, tmp_path / "run", 1, *more)
        assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
        return done.stderr

    assert "model directory" in complaint("--config.model.directory=nowhere")
    assert "hf download" in complaint("--config.model.directory=nowhere")
    assert "did you mean" in complaint("--config.advantage.name=grp").lower()
    assert "no such file" in complaint("--config.data.train=missing.json")
    assert "does not make 2 devices" in complaint("--config.mesh.data=3")
    assert "rows do not divide" in complaint("--config.batch.rollout_prompts=7")
    assert "did you mean" in complaint("--config.optim.lrr=1").lower()
    assert "nothing to resume" in complaint("--resume") or "no run to resume"


def test_evaluations_fall_where_asked():
    config = variant("tiny")
    from g2rpo_jax.config import resolve

    config.eval.every, config.eval.final_every, config.eval.final_count = 40, 10, 3
    assert evaluation_steps(resolve(config), 100) == {40, 80, 90, 100}
    config.eval.every = 0
    assert evaluation_steps(resolve(config), 100) == set()


def test_after_is_the_mean_of_the_last_evaluations():
    at = {
        s: {"a": {"accuracy": v}, "b": {"accuracy": 0.0}}
        for s, v in enumerate([0.1, 0.9, 0.3, 0.5])
    }
    got = outcome(at, final_count=2)
    assert got["before"] == {"a": 0.1, "b": 0.0, "mean": 0.05}
    assert got["after"] == pytest.approx({"a": 0.4, "b": 0.0, "mean": 0.2})
