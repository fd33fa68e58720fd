"""Real processes over loopback: one process's run, each on its own rows; a death stops all."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from g2rpo_jax import metrics, models
from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.evaluate import policy
from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.train.sft import model_config
from tests import environment
from tests.train.test_loop import FLAGS, SHAPE

ROOT = Path(__file__).parents[2]
ROWS, STEPS, DRAWN = 40, 3, 8
PATIENCE_S = 600  # a busy machine compiles slowly
# Filtering on, rows left over, two minibatches, a row whose picture is cut off.
CHANGED = FLAGS | {
    "config.batch.rollout_prompts": DRAWN,
    "config.batch.prompts": 4 * 2,
    "config.filter.enabled": True,
    "config.filter.max_rounds": 2,
    "config.reward.custom": "tests.parallel.worker:coin",
    "config.checkpoint.every": 1,
    "config.eval.every": 0,
    "config.optim.lr": 1e-3,
    "config.steps": STEPS,
    "config.log.samples_every": 1,
    "config.log.samples": 8,
    "config.log.tensorboard": False,
    "config.data.prefetch": 4,
    "config.data.prompt_tokens": (96,),
}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """A random model, and rows with pictures of their own, one of them broken."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.build(str(folder))
    models.save(Qwen3VL(model_config(SHAPE, Processor(str(folder))), nnx.Rngs(0)), folder)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {
                "problem_id": i,
                "problem": f"<image> digit {i}",
                "problem_type": "numerical",
                "task_type": ["ocr", "math_reasoning"][i % 2],
                "data_type": "image",
                "answer": str(i),
                "images": [f"{i}.png"],
            }
        )
    for i in range(0, ROWS, 5):  # wherever the order of the run begins, it meets some
        (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
    (folder / "rows.json").write_text(json.dumps(rows))
    return CHANGED | {
        "config.model.directory": folder,
        "config.data.train": folder / "rows.json",
        "config.data.max_bad_share": 0.5,
    }


@contextlib.contextmanager
def running(flags, workdir, count, devices, *more):
    """The processes of a run; each writes what it says to WORKDIR.<index>.log. None outlives it."""
    started = start(flags, workdir, count, devices, *more)
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def start(flags, workdir, count, devices, *more):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = environment()
    started = []
    for index in range(count):
        where = (f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={index}")
        notes = f"{workdir}.{index}.notes"
        with open(f"{workdir}.{index}.log", "w") as log:
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        *("-m", "tests.parallel.worker", notes),
                        "--config=configs/onethinker.py:tiny",
                        f"--workdir={workdir}",
                        f"--config.host_devices={devices}",
                        *(f"--{name}={value}" for name, value in flags.items()),
                        *(where if count > 1 else ()),
                        *more,
                    ],
                    cwd=ROOT,
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def said(workdir, index):
    return Path(f"{workdir}.{index}.log").read_text()


def finish(flags, workdir, count, devices, *more):
    with running(flags, workdir, count, devices, *more) as started:
        for index, process in enumerate(started):
            assert process.wait(PATIENCE_S) == 0, said(workdir, index)[-3000:]


def notes(workdir, index):
    lines = Path(f"{workdir}.{index}.notes").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def runs(flags, tmp_path_factory):
    """The run in one process of two devices; and in two processes of one, of which one is killed,
    gone on with in four."""
    folder = tmp_path_factory.mktemp("runs")
    alone, several = folder / "alone", folder / "several"
    finish(flags, alone, 1, 2)
    with running(flags, several, 2, 1) as (first, second):
        deadline = time.monotonic() + PATIENCE_S
        while not (several / "checkpoints" / "1").exists():
            assert first.poll() is None and time.monotonic() < deadline, said(several, 0)[-3000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                second.wait(0.05)
        killed = time.monotonic()
        second.send_signal(signal.SIGKILL)
        code = first.wait(60)
        death = {"code": code, "seconds": time.monotonic() - killed, "pid": second.pid}
    death["said"] = said(several, 0)
    for index in range(2):
        os.replace(f"{several}.{index}.notes", f"{several}.{index}.before")
    finish(flags, several, 4, 1, "--resume")
    return alone, several, death


@pytest.mark.slow
def test_a_death_stops_the_others_with_a_sentence(runs):
    death = runs[2]
    assert death["code"] == 1 and death["seconds"] < 60
    assert re.search(
        rf"error: process 1 of 2 \(host \S+, pid {death['pid']}\) is gone without a word.*"
        r"--resume",
        death["said"],
    ), death["said"][-2000:]


@pytest.mark.slow
def test_processes_give_the_numbers_and_parameters_of_one(runs):
    alone, several, _ = runs
    expected, got = metrics.read(alone / "metrics.jsonl"), metrics.read(several / "metrics.jsonl")
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    assert expected[-1]["batch/rows"] == 8 and expected[-1]["data/skipped"] > 0
    assert any(row.get("rollout/surplus", 0) > 0 for row in expected)
    for one, other in zip(expected, got, strict=True):
        assert _computed(one) == _computed(other)
        for name in _computed(one):
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), (one["step"], name)
    params = [jax.tree.leaves(nnx.state(policy.load(run)[0])) for run in (alone, several)]
    for a, b in zip(*params, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def _computed(row):
    """Names of what no clock or meter says; those differ from one start to the next."""
    return {name for name in row if not metrics.measured(name)}


@pytest.mark.slow
def test_the_sample_log_is_that_of_one_process(runs):
    samples = [metrics.read(run / "samples.jsonl") for run in runs[:2]]
    assert len(samples[0]) == len(samples[1]) == 8 * STEPS
    for one, other in zip(*samples, strict=True):
        assert one["prompt_id"] == other["prompt_id"] and one["fate"] == other["fate"]
        texts = [[r["text"] for r in sample["responses"]] for sample in (one, other)]
        assert texts[0] == texts[1] and one["prompt_tokens"] == other["prompt_tokens"]
        assert one["media"][0]["file"] and other["media"][0]["file"]


@pytest.mark.slow
def test_a_process_opens_and_scores_its_own_rows_alone(runs):
    alone, several, _ = runs
    seen = [notes(several, index) for index in range(4)]
    scored = [sum(note.get("scored", 0) for note in each) for each in seen]
    assert len(set(scored)) == 1 and scored[0] > 0
    assert sum(scored) < sum(note.get("scored", 0) for note in notes(alone, 0))  # steps 2 and 3
    rows = [{note["row"] for note in each if "row" in note} for each in seen]
    everywhere = set().union(*rows)
    # In two processes: the row described at the start, rows carried over a restart or moved by the
    # filter, and what stood ready when bad rows moved the blocks.
    assert sum(map(len, rows)) <= 1.5 * len(everywhere)
    assert max(map(len, rows)) <= len(everywhere) / 2
