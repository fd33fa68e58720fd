"""Every logged number: its name and unit in one table, and where it is written."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

# name (before the task, where it has one): unit and meaning. Writing a name that is not here fails.
METRICS = {
    "reward/accuracy": "mean over sampled responses, [0, 1]; also per task",
    "reward/format": "mean over sampled responses, [0, 1]; also per task",
    "reward/structure": "mean over sampled responses, [0, 1]; also per task",
    "reward/length": "mean length reward (eq. 9), [0, 1]; also per task",
    "reward/total": "mean of what advantages are computed from; also per task",
    "reward/failures": "responses whose scoring failed, count since the start",
    "rollout/length_tokens": "mean response length, tokens; also per task",
    "rollout/truncated_share": "responses cut at max_tokens, share; also per task",
    "rollout/zero_variance_share": "rows whose rewards are all equal, share; also per task",
    "rollout/kept_share": "sampled rows that passed the filter, share; also per task",
    "rollout/rounds": "generation rounds of the step, count",
    "rollout/dropped": "kept rows that waited too long and were dropped, count",
    "rollout/surplus": "kept rows that wait for the next step, count",
    "rollout/tokens_per_s": "generated tokens per second of rollout",
    "rollout/gap": "mean |trainer - sampler| log-probability of fresh tokens, nats",
    "rollout/gap_max": "largest such gap, nats",
    "policy/loss": "minimised loss",
    "policy/kl": "weighted KL to the reference, nats",
    "policy/entropy": "mean entropy of the next-token distribution, nats; also per task",
    "policy/nll": "mean -log p of generated tokens, nats; also per task",
    "policy/clip_share": "tokens whose ratio was clipped, share; also per task",
    "policy/gradient_norm": "global norm before clipping, mean over the step's updates",
    "policy/skipped": "updates skipped because not finite, count since the start",
    "policy/lr": "learning rate of the last update",
    "batch/rows": "rows trained on, count",
    "batch/padding_tokens_share": "token slots of the step's packed prompts that are empty, share",
    "batch/padding_patches_share": "patch slots of the step's packed prompts that are empty, share",
    "eval/accuracy": "held-out accuracy, greedy; mean of tasks, and per task",
    "eval/accuracy_stderr": "standard error of it over rows; per task",
    "eval/format": "held-out format score; mean of tasks, and per task",
    "eval/length_tokens": "held-out response length, tokens; mean of tasks, and per task",
    "data/skipped": "rows skipped while reading or encoding, count since the start",
    "time/rollout_s": "seconds of generation and decoding to text",
    "time/reward_s": "seconds of scoring",
    "time/update_s": "seconds of advantages and optimiser updates",
    "time/eval_s": "seconds of evaluation",
    "time/step_s": "seconds of the whole step, evaluation left out",
    "compile/count": "XLA compilations since the start",
    "compile/seconds": "seconds spent in them since the start",
    "host/rss_gib": "resident memory of the process, GiB",
}


def known(name: str) -> bool:
    """Whether `name`, or `name` without its last part (the task), is in METRICS."""
    return name in METRICS or name.rpartition("/")[0] in METRICS


class Writer:
    """metrics.jsonl, one object per step, and TensorBoard events beside it.

    Opening it for a resumed run keeps the rows of earlier steps and drops those of `start` and
    later, which the run is about to write again.
    """

    def __init__(self, workdir: Path, *, start: int, tensorboard: bool):
        self._path = Path(workdir) / "metrics.jsonl"
        keep = [row for row in read(self._path) if row["step"] < start]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in keep))
        os.replace(temporary, self._path)
        self._file = self._path.open("a")
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes one step; a number that is not finite is written as null.

        Raises:
          KeyError: for a name that METRICS does not have.
        """
        row = {"step": step}
        for name, value in numbers.items():
            if not known(name):
                raise KeyError(f"metric {name!r} is not in metrics.METRICS: add it there")
            value = float(value)
            row[name] = value if np.isfinite(value) else None
            if self._events and np.isfinite(value):
                self._events.add_scalar(name, value, step)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._events:
            self._events.close()


def rows(path: Path) -> Iterator[dict]:
    """Rows of a metrics.jsonl or samples.jsonl, one at a time; none if there is no such file.

    Lines that are not a row (the unfinished last line of a killed run) are left out.
    """
    try:
        file = Path(path).open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row


def read(path: Path) -> list[dict]:
    """All of `rows`."""
    return list(rows(path))


class CompileCounter:
    """Counts XLA compilations of this process from the moment it is made."""

    def __init__(self):
        import jax

        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, name: str, seconds: float, **_) -> None:
        if name == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += seconds


def rss_gib() -> float:
    """Resident memory of this process, GiB (0 where the system does not say)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30
