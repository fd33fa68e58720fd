"""Bounds during a run: from the task table or found, as inputs of programs, over a checkpoint."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import metrics
from g2rpo_jax.config import resolve
from g2rpo_jax.train.bounds import Bounds
from tests import environment, tiny
from tests.test_config import variant
from tests.train.test_policy_step import CONFIG, SGD, program, step

AUTO = {"length": "auto", "entropy": "auto", "auto_rows": 4.0, "auto_steps": 2}


def bounds(**options) -> Bounds:
    config = variant("tiny")
    for name, value in options.items():
        setattr(config.shaping, name, value)
    config.tasks.ocr.max_tokens = 12
    return Bounds(resolve(config))


def rows(tasks, seed, count=40, G=8, longest=28):
    """Sampled rows; right responses have 3 to 6 tokens, wrong ones more."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        accuracy_G = (rng.random(G) < 0.5).astype(np.float32)
        length_G = np.where(accuracy_G > 0, rng.integers(3, 7, G), rng.integers(8, longest + 1, G))
        made.append(
            types.SimpleNamespace(
                example=types.SimpleNamespace(task=tasks[i % len(tasks)]),
                length_G=length_G,
                part=lambda name, accuracy_G=accuracy_G: accuracy_G,
            )
        )
    return made


def sums(K, seed):
    """Two updates' sums; task 0 has no tokens."""
    rng = np.random.default_rng(seed)
    tokens_2K = rng.integers(1, 50, (2, K)).astype(np.float32)
    tokens_2K[:, 0] = 0
    return [{"task_tokens": t, "task_entropy": 0.5 * t, "task_nll": 0.75 * t} for t in tokens_2K]


def test_without_automatic_bounds_those_of_the_task_table_stay():
    fixed = bounds()
    before = fixed.length_K4.copy(), fixed.entropy_K2.copy()
    fixed.see(rows(fixed.tasks[:2], 0), sums(len(fixed.tasks), 0))
    assert_array_equal(fixed.length_K4, before[0])
    assert_array_equal(fixed.entropy_K2, before[1])
    assert_allclose(fixed.entropy_K2, np.tile([[0.15, 0.6]], (len(fixed.tasks), 1)), rtol=1e-6)
    assert fixed.numbers() == {} and fixed.to_json() == {}


def test_bounds_are_found_for_the_tasks_that_were_seen_and_logged_by_known_names():
    found = bounds(**AUTO)
    K = len(found.tasks)
    assert found.numbers() == {} and np.all(found.length_K4 > 1e8)
    for number in range(2):
        found.see(rows(found.tasks[:2], number), sums(K, number))
    numbers = found.numbers()
    assert all(metrics.known(name) for name in numbers)
    one, other, unseen = found.tasks[:3]
    for task in (one, other):
        assert numbers[f"shaping/length_pressure/{task}"] == 1
        assert 3 <= numbers[f"shaping/length_low/{task}"] <= 4
        assert 5 <= numbers[f"shaping/length_high/{task}"] <= 6
    assert f"shaping/length_low/{unseen}" not in numbers
    assert f"shaping/entropy_low/{one}" not in numbers  # it had no tokens
    assert_allclose(numbers[f"shaping/entropy_low/{other}"], 0.25)
    assert_allclose(numbers[f"shaping/entropy_high/{other}"], 0.75)
    assert np.all(found.length_K4[2:] > 1e8) and np.all(found.entropy_K2[0] == [0, np.float32(1e9)])


def test_the_envelope_stands_around_what_its_estimator_measures():
    found = bounds(**AUTO, entropy_estimator="score")
    for number in range(2):
        found.see([], sums(len(found.tasks), number))
    assert_allclose(found.entropy_K2[1], [0.375, 1.125])


def test_a_tasks_own_limit_bounds_its_band():
    found = bounds(**AUTO, auto_margin=10.0)
    k = found.tasks.index("ocr")
    assert found.limit_K[k] == 12 and found.limit_K.max() == 28
    found.see(rows(["ocr"], 0, longest=12), [])
    assert found.length_K4[k, 3] == 12


def test_what_a_response_earns_is_decided_by_its_own_task_and_step():
    fixed = bounds()
    task_P = np.array([3, 1], np.int32)
    seen = fixed.lengths(np.ones((2, 4), int), np.ones((2, 4)), task_P, step=7)
    assert_array_equal(seen.band_P4, fixed.length_K4[task_P])
    assert_array_equal(seen.limit_P, fixed.limit_K[task_P])
    assert seen.step == 6 and seen.length_PG.dtype == np.float32


def test_a_resumed_run_has_the_same_bounds_to_the_last_bit():
    whole, first = bounds(**AUTO), bounds(**AUTO)
    K = len(whole.tasks)
    for number in range(3):
        whole.see(rows(whole.tasks[:3], number), sums(K, number))
        first.see(rows(whole.tasks[:3], number), sums(K, number))
    second = bounds(**AUTO)
    second.restore(json.loads(json.dumps(first.to_json(), sort_keys=True)))
    assert second.numbers() == whole.numbers()
    for number in range(3, 6):
        for each in (whole, second):
            each.see(rows(whole.tasks[:3], number), sums(K, number))
    assert second.numbers() == whole.numbers() and second.to_json() == whole.to_json()
    assert_array_equal(second.length_K4, whole.length_K4)
    assert_array_equal(second.entropy_K2, whole.entropy_K2)


def test_moving_bounds_change_the_update_and_compile_nothing():
    """Outside its band a task is pushed; inside, the update is that without an entropy term."""
    batch = tiny.batch()
    wide = np.tile(np.array([[0.0, 1e9]], np.float32), (8, 1))
    inside, _ = step(batch=dataclasses.replace(batch, entropy_bounds_P2=wide))
    without, _ = step(dataclasses.replace(CONFIG, entropy_weight=0.0))
    tiny.close(inside.params, without.params, rtol=1e-5, atol=1e-7)
    outside, _ = step(batch=batch)
    leaves = map(jax.tree.leaves, (inside.params, outside.params))
    assert max(np.abs(a - b).max() for a, b in zip(*leaves, strict=True)) > 1e-6
    assert program(CONFIG, (1, 1, 1), SGD)[0]._cache_size() == 1


def test_micro_batches_change_nothing_of_an_entropy_bonus():
    config = dataclasses.replace(CONFIG, entropy_form="bonus")
    tiny.close(step(dataclasses.replace(config, microbatches=4)), step(config))


@pytest.mark.slow
def test_a_run_finds_its_bounds_logs_them_and_compiles_nothing_new(tmp_path):
    line = [
        *(sys.executable, "launch/train.py", "--config=configs/onethinker.py:tiny"),
        *("--config.shaping.length=auto", "--config.shaping.length_weight=0.1"),
        *("--config.shaping.entropy=auto", "--config.shaping.auto_steps=2"),
        *("--config.shaping.auto_rows=2", "--config.eval.every=0", "--config.steps=4"),
        *("--config.host_devices=1", "--config.batch.rollout_prompts=28"),
        "--config.batch.prompts=16",
        f"--workdir={tmp_path / 'run'}",
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run(line, cwd=root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert not any(name.startswith("shaping/") for name in lines[0])
    last = {name: value for name, value in lines[-1].items() if name.startswith("shaping/")}
    tasks = {name.rpartition("/")[2] for name in last if "length_low" in name}
    assert tasks and any("entropy_high" in name for name in last)
    for task in tasks:
        corners = [last[f"shaping/length_{x}/{task}"] for x in ("minimum", "low", "high")]
        corners.append(last[f"shaping/length_maximum/{task}"])
        assert corners == sorted(corners) and corners[0] >= 0 and corners[-1] <= 28
    assert lines[1]["compile/count"] == lines[-1]["compile/count"]
