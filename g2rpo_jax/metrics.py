"""Every logged number: its name and unit in one table, and where it is written."""

import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import logging

# name (before the task, where it has one): unit and meaning. Writing a name that is not here fails.
METRICS = {
    "reward/accuracy": "mean over sampled responses, [0, 1]; also per task",
    "reward/format": "mean over sampled responses, [0, 1]; also per task",
    "reward/structure": "mean over sampled responses, [0, 1]; also per task",
    "reward/length": "mean length reward; also per task",
    "reward/total": "mean of what advantages are computed from; also per task",
    "reward/failures": "responses whose scoring failed, count since the start",
    "rollout/length_tokens": "mean response length, tokens; also per task",
    "rollout/truncated_share": "responses cut at max_tokens, share; also per task",
    "rollout/zero_variance_share": "rows whose rewards are all equal, share; also per task",
    "rollout/kept_share": "sampled rows that passed the filter, share; also per task",
    "rollout/rounds": "generation rounds of the step, count",
    "rollout/dropped": "kept rows that waited too long and were dropped, count",
    "rollout/surplus": "kept rows that wait for the next step, count",
    "rollout/replayed": "rows of earlier steps that were trained on again, count",
    "rollout/tokens_per_s": "generated tokens per second of rollout",
    "rollout/idle_share": "decoded for responses that had ended or for filler rows, share of all",
    "rollout/gap": "mean |trainer - sampler| log-probability of fresh tokens, nats",
    "rollout/gap_max": "largest such gap, nats",
    "rollout/gap_trusted": "1 where the sampler's log-probs served as old ones, else 0",
    "policy/loss": "minimised loss",
    "policy/kl": "weighted KL to the reference, nats",
    "policy/entropy": "mean entropy of the next-token distribution, nats; also per task",
    "policy/nll": "mean -log p of generated tokens, nats; also per task",
    "policy/clip_share": "tokens whose ratio was clipped, share; also per task",
    "policy/importance_cut_share": "tokens whose trainer / sampler ratio was bounded, share",
    "policy/gradient_norm": "global norm before clipping, mean over the step's updates",
    "policy/skipped": "updates skipped because not finite, count since the start",
    "policy/lr": "learning rate of the last update",
    "shaping/length_minimum": "least length that shaping.length=auto rewards, tokens; per task",
    "shaping/length_low": "length from which it rewards in full, tokens; per task",
    "shaping/length_high": "length up to which it does, tokens; per task",
    "shaping/length_maximum": "greatest length that it rewards, tokens; per task",
    "shaping/length_pressure": "how far right lengths narrow that band, [0, 1]; per task",
    "shaping/entropy_low": "lower bound that shaping.entropy=auto found, nats; per task",
    "shaping/entropy_high": "upper bound that it found, nats; per task",
    "batch/rows": "rows trained on, count",
    "batch/kept_responses_share": "responses of those rows that train, share",
    "batch/padding_tokens_share": "token slots of the step's packed prompts that are empty, share",
    "batch/padding_patches_share": "patch slots of the step's packed prompts that are empty, share",
    "batch/padding_responses_share": "response token slots of the step's updates that are empty",
    "ledger/share": "norm of the task's part of the gradient, share of the sum of them; per task",
    "ledger/cosine": "of the task's part of the gradient and the sum of the others'; per task",
    "ledger/norm": "norm of the task's part of the first update's gradient; per task",
    "eval/accuracy": "held-out accuracy, greedy; mean of tasks, and per task",
    "eval/accuracy_stderr": "standard error of it over rows; per task",
    "eval/format": "held-out format score; mean of tasks, and per task",
    "eval/length_tokens": "held-out response length, tokens; mean of tasks, and per task",
    "data/passed_over": "places of the stream that the curriculum passed over in the step, count",
    "data/skipped": "rows skipped while reading or encoding, count since the start",
    "time/data_s": "seconds of waiting for encoded prompts and packing them",
    "time/rollout_s": "seconds of sampling tokens",
    "time/reward_s": "seconds of waiting for texts and scores after the last token",
    "time/advantage_s": "seconds of advantages",
    "time/score_s": "seconds of old and reference log-probabilities",
    "time/ledger_s": "seconds of the task ledger, at the steps that have one",
    "time/update_s": "seconds of optimiser updates",
    "time/step_s": "seconds of the whole step: the seven above",
    "time/scoring_s": "seconds of work on texts and scores, most of it while tokens are sampled",
    "time/log_s": "seconds of writing numbers and samples since the line before",
    "time/eval_s": "seconds of evaluation since the line before",
    "time/checkpoint_s": "seconds that checkpoints held the run up since the line before",
    "time/start_s": "seconds from the program's beginning to the first evaluation or step",
    "time/wall_s": "seconds of the run, earlier lives included: start, steps and the lines' rest",
    "compile/count": "XLA programs compiled or read back, count since the process began",
    "compile/seconds": "seconds spent in that since the process began",
    "host/rss_gib": "resident memory of the process, GiB",
    "checkpoint/failures": "checkpoints that could not be written, count since the process began",
}

# Beginnings of names that a clock or the process decides: a run that was interrupted has other
# numbers there than one that was not. All others are the same, bit for bit.
MEASURED = ("time/", "compile/", "host/", "checkpoint/", "rollout/tokens_per_s")


def known(name: str) -> bool:
    """Whether `name`, or `name` without its last part (the task), is in METRICS."""
    return name in METRICS or name.rpartition("/")[0] in METRICS


def measured(name: str) -> bool:
    """Whether a clock or the process decides a number (MEASURED), not the run."""
    return name.startswith(MEASURED)


class Lines:
    """A file of JSON lines, one object each, that outlives a full disk.

    Opening it for a resumed run keeps the lines of steps before `start` and drops the others, which
    the run is about to write again. What cannot be written is kept in memory, in order, and written
    with what comes next; the trouble is logged once.
    """

    def __init__(self, path: Path, *, start: int):
        self._path = Path(path)
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as kept:  # a line at a time: a log may be larger than memory
            for row in rows(self._path):
                if row["step"] < start:
                    kept.write(json.dumps(row) + "\n")
        os.replace(temporary, self._path)
        self._file = self._path.open("r+b", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)  # bytes that are whole lines
        self._waiting: list[bytes] = []

    def write(self, rows: Iterable[dict]) -> None:
        """Adds one line per row; never fails."""
        in_trouble = bool(self._waiting)
        self._waiting += [(json.dumps(row) + "\n").encode() for row in rows]
        try:
            self._drain()
        except OSError as error:
            if not in_trouble:
                logging.error("%s: %s. Lines are kept until they can be written", self._path, error)

    def sync(self) -> None:
        """Puts every line on the disk; raises OSError if that cannot be."""
        self._drain()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; says how many lines could not be written."""
        try:
            self._drain()
        except OSError as error:
            logging.error("%s: %d lines are lost (%s)", self._path, len(self._waiting), error)
        self._file.close()

    def _drain(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            self._file.seek(self._end)
            try:
                done = 0
                while done < len(line):
                    done += self._file.write(line[done:])
            except OSError:
                self._file.truncate(self._end)  # no half lines for readers
                raise
            self._end += len(line)
            self._waiting.pop(0)


class Writer:
    """metrics.jsonl, one object per step (see `Lines`), and TensorBoard events beside it."""

    def __init__(self, workdir: Path, *, start: int, tensorboard: bool):
        self._lines = Lines(Path(workdir) / "metrics.jsonl", start=start)
        self._events = _Events(Path(workdir) / "tensorboard", start) if tensorboard else None

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
        self._lines.write([row])
        if self._events:
            self._events.write(step, {name: v for name, v in row.items() if v is not None})

    def sync(self) -> None:
        """Puts every line on the disk; raises OSError if that cannot be."""
        self._lines.sync()

    def close(self) -> None:
        """Closes the files."""
        self._lines.close()
        if self._events:
            self._events.close()


class _Events:
    """TensorBoard's file, written in the caller's thread: SummaryWriter's own thread dies of a full
    disk, and then its queue holds up the run for ever. Numbers that cannot be written are left out.
    """

    def __init__(self, folder: Path, start: int):
        self._folder, self._start = folder, start
        self._file, self._files = None, 0

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds one event with all numbers of a step; never fails."""
        values = [{"tag": k, "simple_value": v} for k, v in numbers.items() if k != "step"]
        try:
            if self._file is None:
                self._open()
            self._put(step=step, summary={"value": values})
            self._file.flush()
        except OSError as error:
            logging.error("%s: %s. Step %d is left out there", self._folder, error, step)
            self._give_up()

    def close(self) -> None:
        """Closes the file."""
        self._give_up()

    def _open(self) -> None:
        RecordWriter, _ = _tensorboard()
        self._folder.mkdir(exist_ok=True)
        self._files += 1
        # The kind of name that TensorBoard looks for, and reads in alphabetical order.
        name = f"events.out.tfevents.{time.time_ns()}.{os.uname().nodename}"
        self._file = RecordWriter(str(self._folder / name))
        self._put(file_version="brain.Event:2")
        if self._files == 1:  # of earlier files only what is before `start` is to be shown
            self._put(step=self._start, session_log={"status": 1})

    def _put(self, **event) -> None:
        _, Event = _tensorboard()
        self._file.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _give_up(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass


@functools.cache
def _tensorboard() -> tuple[type, type]:
    """tensorboardX's RecordWriter and Event.

    Its package imports torch where that is installed, 3 seconds for nothing that is used here:
    while it is imported, torch looks as if it were not.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return RecordWriter, Event


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
    """Counts XLA compilations of this process from the moment it is made.

    Attributes:
      count: programs compiled or read back; read: those that came from the cache on the disk.
      seconds: what all of them took.
    """

    def __init__(self):
        import jax

        self.count, self.read, self.seconds = 0, 0, 0.0
        jax.monitoring.register_event_listener(self._on_read)
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_read(self, name: str, **_) -> None:
        self.read += name == "/jax/compilation_cache/cache_hits"

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
