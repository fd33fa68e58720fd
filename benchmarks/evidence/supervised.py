"""Supervised training from the same start, on as many rows and for as long as RL gets.

Three ways to learn from 600 rows (100 of each task): RL sees their answers alone ("answers" of
sweeps.py); "answers" here are the bare right answers as targets; "written" also the lines of
thought.
"""

import concurrent.futures
import json
import queue
import shutil
import subprocess
import sys
from pathlib import Path

from evidence.sweeps import SEEDS

from g2rpo_jax.sweep import runner

ROOT = Path(__file__).resolve().parents[2]
STEPS, LOOK = 75, 25  # updates of 64 responses; as long as 60 steps of RL (the page says how long)
WAYS = {"answers": 0.0, "written": 1.0}  # share of targets with a line of thought
RATE = 1e-3
FLAGS = {
    "model": "assets/tiny",
    "rows": 100,
    "steps": STEPS,
    "eval_every": LOOK,
    "eval_rows": 120,
    "caption_steps": 0,
    "caption_share": 0.0,
    "cooled": 1.0,
    "stop": 1.0,
    "microbatches": 1,
    "host_devices": 1,
    "optim.lr": RATE,
    "optim.warmup_steps": 10,
    "optim.schedule": "linear",
    "optim.final_lr": 0.2,
}


def folder_of(out: Path, way: str, seed: int) -> Path:
    """The model directory of one run."""
    return out / "supervised" / way / f"seed-{seed}"


def history(folder: Path) -> dict | None:
    """What a finished run wrote; None where it has not finished."""
    path = folder / "cold_start.json"
    return json.loads(path.read_text()) if path.exists() else None


def train(out: Path) -> None:
    """Makes what is missing, a run on each core, as the sweeps have it."""
    wanted = [(way, seed) for seed in SEEDS for way in WAYS]
    missing = [one for one in wanted if history(folder_of(out, *one)) is None]
    free = queue.SimpleQueue()
    for core in runner.cores():
        free.put(core)
    with concurrent.futures.ThreadPoolExecutor(free.qsize()) as pool:
        list(pool.map(lambda one: _one(free, out, *one), missing))


def _one(free: queue.SimpleQueue, out: Path, way: str, seed: int) -> None:
    folder, core = folder_of(out, way, seed), free.get()
    folder.mkdir(parents=True, exist_ok=True)
    # Seed 0 made the shipped model: rows that it has not seen are wanted.
    asked = FLAGS | {"seed": 100 + seed, "directory": str(folder), "think_share": WAYS[way]}
    pinned = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
    command = [*pinned, sys.executable, "launch/sft.py", "--config=configs/cold_start.py"]
    command += [f"--config.{name}={value}" for name, value in asked.items()]
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
    free.put(core)
    failed = f"FAILED: {folder}/log.txt says why"
    print(f"supervised, {way}, seed {seed}: {failed if done.returncode else 'done'}", flush=True)


def seconds(out: Path, way: str) -> float:
    """Mean training seconds of a way's runs: their pace after compiling, times all steps."""
    found = []
    for seed in SEEDS:
        if told := history(folder_of(out, way, seed)):
            first, *rest = told["history"]
            took = rest[-1]["seconds"] - first["seconds"] - sum(h["evaluation_s"] for h in rest)
            found.append(took / (rest[-1]["step"] - first["step"]) * told["steps"])
    return sum(found) / len(found)
