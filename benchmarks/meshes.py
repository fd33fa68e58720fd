"""The same steps on one device, on eight virtual devices, and in several processes.

python benchmarks/meshes.py --folder=/tmp/meshes

Every run starts from the shipped tiny model and takes the same STEPS steps, with filtering, rows
left over, two minibatches and float32. Printed: loss and mean held-out accuracy of the last step,
and the largest differences from the run on one device: of a parameter at the end, and of a number
of metrics.jsonl in the first step. The runs differ in the order in which numbers are added up; were
that to turn a sampled token, they would go apart from there. A run that is in the folder already
is not run again.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
STEPS = 30
FLAGS = {
    "steps": STEPS,
    "seed": 3,
    "batch.rollout_prompts": 24,
    "batch.prompts": 16,
    "batch.minibatches": 2,
    "batch.microbatches": 1,
    "optim.lr": 1e-4,
    "optim.warmup_steps": 1,
    "filter.max_rounds": 2,
    "model.param_dtype": "float32",
    "data.test": "embedded:test?rows=216&seed=0",
    "eval.every": STEPS,
    "eval.final_count": 1,
    "eval.prompts": 72,
    "checkpoint.every": 0,
    "log.tensorboard": False,
}
# name: (processes, devices of each, mesh)
RUNS = {
    "1 device": (1, 1, (1, 1, 1)),
    "8 devices, data 8": (1, 8, (8, 1, 1)),
    "8 devices, fsdp 8": (1, 8, (1, 8, 1)),
    "8 devices, data 2 x fsdp 2 x tensor 2": (1, 8, (2, 2, 2)),
    "8 devices, fsdp 4 x tensor 2": (1, 8, (1, 4, 2)),
    "2 processes, fsdp 2": (2, 1, (1, 2, 1)),
    "4 processes, data 2 x fsdp 2": (4, 1, (2, 2, 1)),
}


def train(folder: Path, count: int, devices: int, mesh: tuple[int, int, int]) -> float:
    """Runs the steps in `count` processes; returns the seconds that it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = FLAGS | dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh, strict=True))
    command = [
        sys.executable,
        "launch/train.py",
        "--config=configs/onethinker.py:tiny",
        f"--workdir={folder}",
        f"--config.host_devices={devices}",
        *(f"--config.{name}={value}" for name, value in flags.items()),
    ]
    together = [f"--coordinator=127.0.0.1:{port}", f"--processes={count}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)
    began, running = time.perf_counter(), []
    for index in range(count):
        own = [*together, f"--process={index}"] if count > 1 else []
        with open(f"{folder}.{index}.log", "w") as log:
            running.append(
                subprocess.Popen(command + own, cwd=ROOT, env=env, stdout=log, stderr=log)
            )
    for index, process in enumerate(running):
        if process.wait():
            sys.exit(f"{folder}.{index}.log: " + Path(f"{folder}.{index}.log").read_text()[-2000:])
    return time.perf_counter() - began


def compare(one: Path, other: Path) -> dict[str, float]:
    """Largest differences of two runs, and the other's last loss."""
    import jax
    from flax import nnx

    from g2rpo_jax import metrics
    from g2rpo_jax.evaluate import policy

    rows = [metrics.read(folder / "metrics.jsonl") for folder in (one, other)]
    first = [next(row for row in each if row["step"] == 1) for each in rows]
    assert first[0].keys() == first[1].keys()
    names = [name for name in first[0] if not metrics.measured(name)]
    params = [jax.tree.leaves(nnx.state(policy.load(folder)[0])) for folder in (one, other)]
    return {
        "loss": rows[1][-1]["policy/loss"],
        "accuracy": rows[1][-1]["eval/accuracy"],
        "first": max(abs(first[0][name] - first[1][name]) for name in names),
        "params": max(float(np.abs(a - b).max()) for a, b in zip(*params, strict=True)),
        "same": sum(_alike(*pair) for pair in zip(*rows, strict=True)) - 1,
    }


def _alike(one: dict, other: dict) -> bool:
    """Whether the same tokens were sampled in a step, as far as its numbers tell."""
    names = ("rollout/length_tokens", "reward/total", "rollout/kept_share")
    return all(np.isclose(one.get(name, 0), other.get(name, 0), atol=1e-9) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs go; kept")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    reference = None
    print(
        "| run | loss of the last step | held-out accuracy | largest difference of a parameter "
        "| of a number of step 1 | steps with the same samples |\n" + "| --- " * 6 + "|",
        flush=True,
    )
    for name, (count, devices, mesh) in RUNS.items():
        run = folder / name.replace(" ", "_").replace(",", "")
        seconds = None if (run / "summary.json").exists() else train(run, count, devices, mesh)
        reference = reference or run
        got = compare(reference, run)
        print(
            f"| {name} | {got['loss']:.8f} | {got['accuracy']:.4f} | {got['params']:.1e} | "
            f"{got['first']:.1e} | {got['same']} of {STEPS} |",
            flush=True,
        )
        if seconds is not None:
            print(f"{name}: {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
