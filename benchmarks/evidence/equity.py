"""Whose gradient is it? Each task's share under each estimator when reward scales differ.

    python benchmarks/evidence/equity.py --out=equity.json

The shipped tiny model answers prompts of six tasks; nothing is trained. The same answers get their
rewards on other scales (SCENES), every estimator turns them into advantages, and the task ledger
says how much of the gradient each task then is. Estimators that carry state see WARM batches first.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from g2rpo_jax import platform  # noqa: E402

platform.prepare(host_devices=2)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from configs import onethinker  # noqa: E402
from g2rpo_jax import advantages  # noqa: E402
from g2rpo_jax.config import resolve  # noqa: E402
from g2rpo_jax.parallel import mesh as meshes  # noqa: E402
from g2rpo_jax.train import ledger  # noqa: E402
from g2rpo_jax.train.policy_step import StepBatch  # noqa: E402
from g2rpo_jax.train.trainer import Trainer  # noqa: E402

PROMPTS, WARM = 48, 3
SCALES = {"chart_figure_qa": 10.0, "spatial_grounding": 10.0, "ocr": 0.1, "math_reasoning": 0.1}


def as_scored(reward_PG: np.ndarray, tasks: list[str], rng: np.random.Generator) -> np.ndarray:
    """Rewards in [0, 1.5]: right or wrong for most tasks, overlap for grounding and reading."""
    return reward_PG


def unlike_scales(reward_PG, tasks, rng):
    """Two tasks pay ten times as much, two a tenth."""
    return reward_PG * np.array([[SCALES.get(task, 1.0)] for task in tasks], np.float32)


def heavy_tailed(reward_PG, tasks, rng):
    """Every reward times a Pareto number (shape 1.5): rare ones are huge."""
    return reward_PG * (1.0 + rng.pareto(1.5, reward_PG.shape)).astype(np.float32)


def outlier(reward_PG, tasks, rng):
    """The best response of the first mixed group in arithmetic gets 100."""
    found = reward_PG.copy()
    here = np.array([task == "math_reasoning" for task in tasks])
    mixed = np.flatnonzero(here & (np.ptp(reward_PG, axis=1) > 0))
    found[mixed[0], int(reward_PG[mixed[0]].argmax())] = 100.0
    return found


ESTIMATORS = (
    "g2rpo",
    "g2rpo_task",
    "g2rpo_release",
    "grpo",
    "dr_grpo",
    "rloo",
    "ema_grpo",
    "ema_grpo_onethinker",
    "gdpo",
    "lite_ppo",
    "gpg",
)
SCENES: dict[str, Callable] = {
    f.__name__: f for f in (as_scored, unlike_scales, heavy_tailed, outlier)
}


def trainer_of(seed: int) -> Trainer:
    """The tiny config without a filter, P rows a step, the ledger on."""
    config = onethinker.get_config("tiny")
    config.seed, config.steps = seed, 1
    config.batch.rollout_prompts = config.batch.prompts = PROMPTS
    config.filter.enabled, config.shaping.entropy_weight = False, 0.0
    config.eval.every, config.log.ledger_every = 0, 1
    return Trainer(resolve(config))


def changed(
    group: advantages.Group, tasks: list[str], scene: Callable, seed: int
) -> advantages.Group:
    """The group with its rewards, and its accuracy, on another scale."""
    change = functools.partial(scene, tasks=tasks)
    parts = dict(group.components)
    parts["accuracy"] = change(parts["accuracy"], rng=np.random.default_rng(seed))
    reward_PG = change(group.reward_PG, rng=np.random.default_rng(seed))
    return dataclasses.replace(group, reward_PG=reward_PG, components=parts)


def estimate(name: str, groups: list[advantages.Group]) -> np.ndarray:
    """Advantages of the last group, after the others have moved the state."""
    options = advantages.AdvantageConfig(name=name)
    state = advantages.init_state(options, groups[0].num_tasks)
    call = jax.jit(functools.partial(advantages.ESTIMATORS[name], options=options))
    for group in groups:
        adv_PG, state = call(group, state)
    return np.asarray(adv_PG)


def shares(trainer: Trainer, rows: list, adv_PG: np.ndarray) -> dict[str, dict[str, float]]:
    """Each task's share of the gradient norm, and its cosine to the others."""
    keep_PG = np.ones(adv_PG.shape, bool)
    columns, packings = trainer._columns(rows, adv_PG, keep_PG, step=1)
    batch = meshes.put_rows(trainer.mesh, StepBatch(**columns, packing=packings[0]))
    tasks = {trainer.tasks.index(row.example.task) for row in rows}
    params = trainer.state.params
    measured = trainer.programs.ledger.measure(params, trainer.frozen, batch, tasks)
    found = ledger.numbers(measured, trainer.tasks)
    parts = {"share": {}, "cosine": {}}
    for key, value in found.items():
        _, kind, task = key.split("/")
        if kind in parts:
            parts[kind][task] = value
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="batches")
    parser.add_argument("--estimators", default=",".join(ESTIMATORS))
    asked = parser.parse_args()
    trainer, found = trainer_of(0), []
    batches = [trainer.rollout(1) for _ in range(WARM + asked.seeds)]
    groups = [trainer._group(rows) for rows in batches]
    for seed in range(asked.seeds):
        for scene_name, scene in SCENES.items():
            window = range(seed, seed + WARM + 1)
            tasks = [[row.example.task for row in batches[i]] for i in window]
            seen = [changed(groups[i], tasks[i - seed], scene, 100 + i) for i in window]
            rows, task_P = batches[seed + WARM], seen[-1].task_P
            for name in asked.estimators.split(","):
                adv_PG = estimate(name, seen)
                by_task = {
                    task: adv_PG[task_P == k].ravel() for k, task in enumerate(trainer.tasks)
                }
                entry = {"batch": seed, "scene": scene_name, "estimator": name}
                entry |= shares(trainer, rows, adv_PG)
                entry["variance"] = {t: float(np.var(a)) for t, a in by_task.items() if a.size}
                entry["largest"] = float(np.abs(adv_PG).max())
                found.append(entry)
        asked.out.write_text(json.dumps({"tasks": trainer.tasks, "entries": found}) + "\n")
        print(f"batch {seed}: {len(found)} entries", flush=True)
    trainer.close()


if __name__ == "__main__":
    main()
