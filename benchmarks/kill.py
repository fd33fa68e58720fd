"""A run that is killed again and again against one that is not: the same to the last bit?

    python benchmarks/kill.py                          30 steps, 20 kills: about ten minutes
    python benchmarks/kill.py --steps=10 --kills=4 --seed=3

Trains the shipped tiny model twice on two virtual devices: once in one go, once with `kill -9` at
random moments: while it starts, within steps, while a checkpoint is being written, after the last
step. Every time it is started again with --requeue. Then compares parameters, optimiser state, the
host facts of the last checkpoint, the lines of metrics.jsonl (but for what a clock measures: see
metrics.MEASURED), samples.jsonl, its pictures, and the summary. Exits with 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from g2rpo_jax import metrics

ROOT = Path(__file__).parents[1]
# Small, and with everything in it that has a state: a filter that leaves a surplus, an estimator
# with moving averages, several updates a step, evaluations, a sample log.
FLAGS = {
    "host_devices": 2,
    "responses": 4,
    "data.train": "embedded:train?rows=96&seed=1",
    "data.test": "embedded:test?rows=24&seed=0",
    "batch.rollout_prompts": 24,
    "batch.prompts": 8,
    "batch.minibatches": 2,
    "batch.microbatches": 1,
    "filter.max_rounds": 2,
    "advantage.name": "ema_grpo",
    "optim.lr": 1e-3,
    "eval.every": 4,
    "eval.prompts": 24,
    "eval.final_every": 1,
    "eval.final_count": 2,
    "checkpoint.every": 1,
    "log.samples_every": 1,
    "log.samples": 2,
}
KINDS = ("start", "step", "save")
POLL_S = 0.002


def command_line(workdir: Path, steps: int) -> list[str]:
    """The launcher's."""
    given = {f"config.{name}": value for name, value in FLAGS.items()}
    given |= {"config.steps": steps, "workdir": workdir}
    return [
        sys.executable,
        str(ROOT / "launch/train.py"),
        "--config=configs/onethinker.py:tiny",
        *(f"--{name}={value}" for name, value in given.items()),
        "--requeue",
    ]


class Life:
    """One process of a run, from its start to its end or its kill."""

    def __init__(self, command: list[str], workdir: Path, cache: Path, xla_flags: str = ""):
        """Starts it; compiled programs are kept in `cache`."""
        self.workdir = workdir
        self._lines = workdir / "metrics.jsonl"
        self._before = self._inode()
        self.began = time.monotonic()
        env = os.environ | {"XLA_FLAGS": xla_flags}
        env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        cache.mkdir(parents=True, exist_ok=True)
        self._said = cache / f"said-{time.time_ns()}.txt"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _inode(self) -> int:
        try:
            return self._lines.stat().st_ino
        except FileNotFoundError:
            return 0

    @property
    def seconds(self) -> float:
        """Since the process was started."""
        return time.monotonic() - self.began

    def step(self) -> int:
        """The last step that this life has logged or kept; -1 while it has not opened the log."""
        if self._inode() == self._before:
            return -1
        return max((row["step"] for row in metrics.rows(self._lines)), default=0)

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"))

    def wait(self, until) -> bool:
        """Waits for `until()`; whether it came before the process ended."""
        while self.process.poll() is None:
            if until():
                return True
            time.sleep(POLL_S)
        return False

    def kill(self) -> None:
        """kill -9, of the process itself alone: its children have to notice."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def orphans(self, patience_s: float = 20.0) -> int:
        """Processes of this life that are still there some time after its end."""
        deadline = time.monotonic() + patience_s
        while (count := _in_session(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return count

    def output(self) -> str:
        """What it said."""
        return self._said.read_text(errors="replace")


def _in_session(session: int) -> int:
    """Living processes of a session (Linux)."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended meanwhile
            continue
        found += int(own) == session and state != "Z"
    return found


def whole(command: list[str], workdir: Path, cache: Path) -> float:
    """A run that nobody kills; returns its seconds."""
    life = Life(command, workdir, cache)
    life.process.wait()
    if life.process.returncode:
        sys.exit(f"the run failed:\n{life.output()[-3000:]}")
    return life.seconds


def moments(kills: int, steps: int, rng: random.Random) -> list[tuple[str, int]]:
    """(what is under way, after which step) for every kill: every kind in turn, shuffled, steps
    rising; the last one strikes after the last step."""
    kinds = [KINDS[i % len(KINDS)] for i in range(kills - 1)]
    rng.shuffle(kinds)
    at = sorted(rng.randint(0, max(0, steps - 2)) for _ in kinds)
    return [*zip(kinds, at, strict=True), ("end", steps)]


def killed(workdir: Path, steps: int, cache: Path, kills: int, rng: random.Random) -> None:
    """A run that is killed at random moments and started again, until it is done.

    Raises:
      RuntimeError: it failed, ended before all kills, or left a process behind.
    """
    command = command_line(workdir, steps)
    starting_s = 10.0  # how long a life takes to its first line; learnt below
    for number, (kind, target) in enumerate(moments(kills, steps, rng), 1):
        life = Life(command, workdir, cache)
        if kind == "start":
            delay = rng.uniform(0, starting_s)
            reached = life.wait(lambda s=delay, one=life: one.seconds > s)
        else:
            reached = life.wait(lambda one=life: one.step() >= 0)
            starting_s = life.seconds
            reached = reached and life.wait(lambda at=target, one=life: one.step() >= at)
            if kind == "save" and reached:
                reached = life.wait(life.saving)
            # Uniform over what comes next: the files of a checkpoint, a step and a half, the page.
            time.sleep(rng.uniform(0, {"save": 0.03, "step": 0.6, "end": 1.5}[kind]))
        if not reached or life.process.poll() is not None:
            raise RuntimeError(f"kill {number} ({kind}) came too late:\n{life.output()[-3000:]}")
        saving = life.saving()
        seconds, step = life.seconds, life.step()
        life.kill()
        left = life.orphans()
        resumed = next((x for x in life.output().splitlines() if x.startswith("resumed")), "began")
        print(
            f"{number:4} {kind:6} {seconds:8.2f} s {step:5} {'yes' if saving else '':7} "
            f"{left:6}  {resumed[:60].replace(str(workdir), 'RUN')}"
        )
        if left:
            raise RuntimeError(f"{left} processes outlived kill {number}")
    whole(command, workdir, cache)


def arrays(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by name."""
    import jax
    import orbax.checkpoint as ocp
    from absl import logging

    folder = run / "checkpoints" / str(step) / "arrays"
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Orbax expects its own file beside the arrays
    try:
        with ocp.PyTreeCheckpointer() as reader:
            tree = reader.metadata(folder).item_metadata.tree
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return reader.restore(folder, restore_args=args)
    finally:
        logging.set_verbosity(before)


def numbers(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what a clock measures."""
    rows = metrics.read(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not metrics.measured(k)} for row in rows]


def compare(one: Path, other: Path, steps: int) -> list[tuple[str, str, bool]]:
    """(what, how much of it, whether it is the same in both) of two finished runs."""
    out = []

    def add(what: str, amount: str, a, b) -> None:
        out.append((what, amount, a == b))

    a, b = arrays(one, steps), arrays(other, steps)
    for part in ("params", "opt_state"):
        x, y = ({n: v for n, v in t.items() if n.startswith(part)} for t in (a, b))
        size = sum(v.size for v in x.values())
        bits = [{n: (v.shape, v.dtype, v.tobytes()) for n, v in t.items()} for t in (x, y)]
        add(part, f"{len(x)} arrays, {size:,} numbers", *bits)
    hosts = [
        json.loads((run / "checkpoints" / str(steps) / "host" / "metadata").read_text())
        for run in (one, other)
    ]
    for host in hosts:
        del host["wall_s"], host["code"]
    add("host facts", f"{len(hosts[0])} (surplus rows: {len(hosts[0]['surplus'])})", *hosts)
    x, y = numbers(one), numbers(other)
    add("metrics.jsonl", f"{len(x)} lines, {sum(map(len, x)):,} numbers", x, y)
    x, y = ((run / "samples.jsonl").read_bytes() for run in (one, other))
    add("samples.jsonl", f"{x.count(10)} lines, {len(x):,} bytes", x, y)
    x, y = ({p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (one, other))
    add("pictures", f"{len(x)} files", x, y)
    x, y = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    for summary in (x, y):
        del summary["wall_seconds"], summary["seconds"], summary["compile"]
    add("summary.json", f"{len(x)} entries", x, y)
    return out


def main() -> None:
    """Both runs and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", help="keep both runs there (default: a temporary folder)")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary).resolve()
        one, other, cache = folder / "whole", folder / "killed", folder / "programs"
        seconds = whole(command_line(one, args.steps), one, cache)
        print(f"not interrupted: {args.steps} steps in {seconds:.0f} s")
        print("kill during     after  line saving orphans  what this life said")
        began = time.monotonic()
        killed(other, args.steps, cache, args.kills, random.Random(args.seed))
        print(f"{args.kills} kills, then finished: {time.monotonic() - began:.0f} s\n")
        results = compare(one, other, args.steps)
    for what, amount, same in results:
        print(f"{what:14} {amount:40} {'identical' if same else 'DIFFERENT'}")
    sys.exit(not all(same for _, _, same in results))


if __name__ == "__main__":
    main()
