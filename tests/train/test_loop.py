"""The whole run on a random model: what it writes, stopping and resuming, no recompilation."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from benchmarks import kill
from g2rpo_jax import metrics, models
from g2rpo_jax.config import ShapeConfig
from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.train import loop, resume
from g2rpo_jax.train.clock import AROUND, STEP
from g2rpo_jax.train.loop import evaluation_steps, outcome
from g2rpo_jax.train.sft import model_config
from tests import QUICK_COMPILATION, environment
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
    "config.shaping.length": "auto",
    "config.shaping.entropy": "auto",
    "config.shaping.auto_steps": 2,
    "config.curriculum.name": "vas",
    "config.replay.name": "max_variance",
    "config.selection.name": "pods",
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A user's cache folder of this file's own; two devices of a CPU keep no programs in it."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def launch(cache):
    """Runs the launcher to its end."""
    env = environment() | {"XDG_CACHE_HOME": str(cache)}
    del env["JAX_COMPILATION_CACHE_DIR"]

    def run(*arguments, before=()):
        line = [*before, *command(*arguments)]
        return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def whole(directory, launch, tmp_path_factory):
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
    fates = {sample["fate"] for sample in samples}  # no filter: surplus is what replay displaced
    assert "trained" in fates and fates <= {"trained", "surplus"}
    for sample in samples:
        assert (workdir / sample["media"][0]["file"]).exists()
        if sample["fate"] == "trained":
            assert all(np.isfinite(response["advantage"]) for response in sample["responses"])
    page = (workdir / "report.html").read_text()
    assert all(sample["media"][0]["file"] in page for sample in samples)
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert list((workdir / "tensorboard").iterdir())
    assert "held-out accuracy" in stdout and "summary.json" in stdout


@pytest.mark.slow
def test_the_log_accounts_for_every_second(whole):
    """Phases make up each step, and the lines make up the run; what was written after the last line
    (a checkpoint, curves, the page) stands in the summary."""
    rows = metrics.read(whole[0] / "metrics.jsonl")
    summary = json.loads((whole[0] / "summary.json").read_text())
    for row in rows[1:]:
        phases = [row.get(f"time/{phase}_s", 0.0) for phase in STEP]
        assert sum(phases) == pytest.approx(row["time/step_s"], rel=1e-3)
        assert row["time/score_s"] > 0 and row["time/update_s"] > 0  # two minibatches
    around = [row.get(f"time/{phase}_s", 0.0) for row in rows for phase in ("step", *AROUND)]
    assert sum(around) == pytest.approx(rows[-1]["time/wall_s"], rel=0.02)
    assert sum(summary["seconds"].values()) == pytest.approx(summary["wall_seconds"], abs=0.2)
    assert summary["seconds"]["eval"] == pytest.approx(
        sum(r.get("time/eval_s", 0) for r in rows), 0.1
    )
    assert "start     first update after" in whole[1]


@pytest.mark.slow
def test_nothing_compiles_after_the_first_steps(whole):
    counts = [row["compile/count"] for row in metrics.read(whole[0] / "metrics.jsonl")]
    assert counts[3] == counts[-1], counts


@pytest.mark.slow
def test_sampler_and_trainer_agree_and_the_run_learns_something(whole):
    rows = metrics.read(whole[0] / "metrics.jsonl")[1:]
    assert all(row["rollout/gap_max"] < 1e-3 for row in rows)
    assert all(row["policy/skipped"] == 0 for row in rows)
    # A step in which all rewards of every prompt are equal has none, as long as no entropy bound
    # has been found.
    assert sum(row["policy/gradient_norm"] > 0 for row in rows) >= len(rows) / 2


@pytest.fixture(scope="module")
def stopped(directory, cache, tmp_path_factory):
    """The same run with SIGTERM after two steps, in a folder where it was killed once before."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    (workdir / "metrics.jsonl").write_text('{"step": 0, "policy/kl": 5.0}\n{"step": 1, "pol')
    life = kill.Life(command(directory, workdir, 6, "--resume"), workdir, cache, QUICK_COMPILATION)
    assert life.wait(lambda: life.step() >= 2), life.output()
    life.process.send_signal(signal.SIGTERM)
    assert life.process.wait(timeout=120) == 0, life.output()
    assert "no checkpoint yet: from the beginning" in life.output()
    return workdir


@pytest.mark.slow
def test_a_terminated_run_saves_the_step_it_was_at(stopped):
    summary = json.loads((stopped / "summary.json").read_text())
    assert 2 <= summary["steps"] < 6 and not summary["finished"]
    assert (stopped / "checkpoints" / str(summary["steps"])).is_dir()


@pytest.mark.slow
def test_a_run_that_was_terminated_and_killed_is_the_same_to_the_last_bit(
    directory, whole, stopped, launch, cache, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    life = kill.Life(command(directory, workdir, 6, "--requeue"), workdir, cache, QUICK_COMPILATION)
    assert life.wait(life.saving), life.output()
    life.kill()
    assert life.orphans() == 0
    resumed = launch(directory, workdir, 6, "--requeue")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"of {workdir}" in resumed.stdout and "changed " not in resumed.stdout
    for what, amount, same in kill.compare(whole[0], workdir, 6):
        assert same, (what, amount)


@pytest.mark.slow
def test_on_another_number_of_devices_a_run_goes_on_but_for_rounding(
    directory, whole, stopped, launch, tmp_path
):
    """The bound: of the numbers 1e-3 of their size, of the parameters 1e-3 of the distance that
    training has moved them since."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    resumed = launch(directory, workdir, 6, "--resume", "--config.host_devices=1")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert f"changed   host_devices: 2 -> 1 ({resume.CLOSE})" in resumed.stdout
    for row, other in zip(kill.numbers(whole[0]), kill.numbers(workdir), strict=True):
        assert row.keys() == other.keys()
        # Each device packs what selection left of its own rows.
        for name in row.keys() - {"batch/padding_responses_share"}:
            np.testing.assert_allclose(other[name], row[name], rtol=1e-3, atol=1e-5, err_msg=name)
    got, want = kill.arrays(workdir, 6), kill.arrays(whole[0], 6)
    first = kill.arrays(stopped, json.loads((stopped / "summary.json").read_text())["steps"])
    for name in want:
        if name.startswith("params"):
            moved = np.abs(want[name] - first[name]).max()
            assert np.abs(got[name] - want[name]).max() <= 1e-3 * moved, name


@pytest.mark.slow
def test_a_changed_configuration_is_told_from_the_checkpoint(directory, stopped, launch):
    refused = launch(directory, stopped, 6, "--resume", "--config.optim.lr=0.5")
    assert refused.returncode == 1 and "optim.lr: 0.01 -> 0.5" in refused.stderr
    assert "Traceback" not in refused.stderr and "launch/export.py" in refused.stderr


@pytest.mark.slow
def test_a_run_without_room_for_checkpoints_trains_to_its_end_and_says_so(
    directory, launch, tmp_path
):
    code = (
        "import os, resource, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    workdir = tmp_path / "run"
    # Entropy bounds from the start, so that no state is all zeros and small on the disk.
    more = ("--config.checkpoint.every=1", "--config.eval.every=0")
    more += ("--config.shaping.entropy=tasks",)
    done = launch(directory, workdir, 2, *more, before=[sys.executable, "-c", code])
    assert done.returncode == 1, done.stderr[-3000:]
    assert "the last checkpoint could not be written" in done.stderr
    assert "goes on from the beginning" in done.stderr
    assert done.stderr.count("could not be written to") == 2
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["finished"] and summary["checkpoint_failures"] == 2
    assert [row["step"] for row in metrics.read(workdir / "metrics.jsonl")] == [1, 2]
    # A write that was under way when another failed may come later, under a name of its own.
    assert not [p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]


@pytest.mark.slow
def test_bad_input_is_one_sentence(directory, launch, tmp_path):
    def complaint(*more):
        done = launch(directory, tmp_path / "run", 1, *more)
        assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
        return done.stderr

    said = complaint("--config.model.directory=nowhere")
    assert "model directory" in said and "hf download" in said
    assert "no such file" in complaint("--config.data.train=missing.json")
    assert "does not make 2 devices" in complaint("--config.mesh.data=3")
    assert "rows do not divide" in complaint("--config.batch.rollout_prompts=7")
    assert "did you mean" in complaint("--config.optim.lrr=1").lower()
    assert "no run to resume" in complaint("--resume", f"--workdir={tmp_path / 'new'}")


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


def test_the_best_evaluations_are_saved_when_they_come():
    from g2rpo_jax.config import resolve

    config = variant("tiny")
    config.checkpoint.every, config.checkpoint.keep_best = 10, 1
    config = resolve(config)
    scores = {step: {"a": {"accuracy": v}} for step, v in {0: 0.9, 3: 0.4, 6: 0.3, 9: 0.4}.items()}
    so_far = {step: {s: scores[s] for s in scores if s <= step} for step in scores}
    assert loop.save_due(config, 10, scores) and not loop.save_due(config, 8, scores)
    assert [loop.save_due(config, s, so_far[s]) for s in (3, 6, 9)] == [True, False, True]
    assert loop.best(scores) == {"step": 9, "accuracy": 0.4} and loop.best({0: scores[0]}) == {}
