"""Runs the cells of a sweep: each a process of its own, as many at a time as the machine allows.

A cell writes to its own run folder, beside it its output (log.txt). What is finished is not run
again; what was broken off goes on from its newest checkpoint. A cell that fails is reported and
the others go on.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from g2rpo_jax import platform
from g2rpo_jax.config import to_plain
from g2rpo_jax.sweep.plan import Cell, Plan
from g2rpo_jax.train import resume

LOG = "log.txt"
TAIL_LINES, TAIL_BYTES = 12, 20_000
SPARE = 1.25  # memory that must be free, as a multiple of what a cell has been seen to take
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place where one cell runs at a time.

    Attributes:
      environment: variables that give the process its devices.
      cpus: the cores it keeps to; empty: any.
    """

    environment: tuple[tuple[str, str], ...] = ()
    cpus: frozenset[int] = frozenset()


@dataclasses.dataclass
class Running:
    """A cell under way."""

    cell: Cell
    slot: Slot
    process: subprocess.Popen


def finished(cell: Cell) -> bool:
    """Whether the cell's run has come to its end."""
    return bool(summary(cell).get("finished"))


def summary(cell: Cell) -> dict:
    """The summary of a cell's run; empty where there is none yet."""
    try:
        return json.loads((cell.folder / "summary.json").read_text())
    except (OSError, ValueError):
        return {}


def check_begun(cells: Sequence[Cell]) -> None:
    """Raises ValueError if a folder holds a run of another configuration, with what differs."""
    for cell in cells:
        try:
            saved = json.loads((cell.folder / "config.json").read_text())
        except (OSError, ValueError):
            continue
        may, must = resume.differences(saved, json.loads(json.dumps(to_plain(cell.config))))
        if may or must:
            raise ValueError(
                f"{cell.folder} holds a run of another configuration:\n  "
                + "\n  ".join(must + may)
                + "\nThe cells of a sweep must differ in their arms alone: name another --out, or "
                "remove that folder"
            )


def slots(cells: Sequence[Cell], parallel: int = 0) -> list[Slot]:
    """The places of this machine for cells.

    CPU: each gets its share of the cores, at least as many as it has devices (`host_devices`).
    GPU: each gets as many as its mesh asks for (all, where an axis is -1); with more places than
    that several cells share GPUs, and their memory. Others: one place, with all devices.
    Args:
      parallel: how many; 0: as many as fit.
    Raises:
      ValueError: more than one is asked for where one process takes all devices.
    """
    name = platform.detect()
    if name == "gpu":
        return _gpu_slots(_gpus(), [_mesh_size(cell) for cell in cells], parallel)
    if name != "cpu":
        if parallel > 1:
            raise ValueError(f"--parallel={parallel}: on {name} one process takes all devices")
        return [Slot()]
    free = cores()
    each = max(1, *(cell.config.host_devices for cell in cells))
    count = parallel or max(1, len(free) // each)
    share = len(free) // count
    if count == 1 or share == 0 or not hasattr(os, "sched_setaffinity"):
        return [Slot()] * count
    return [Slot(cpus=frozenset(free[i * share : (i + 1) * share])) for i in range(count)]


def run(
    cells: Sequence[Cell],
    command: Sequence[str],
    places: Sequence[Slot],
    *,
    bounded: bool,
    say: Callable[[str], None],
    hold: int | None = None,
    poll_s: float = 0.5,
) -> dict[str, str]:
    """Runs all cells that are not finished; returns what failed: name -> what it said last.

    The first Ctrl-C or SIGTERM lets running cells finish their step and save, and starts no other;
    a second kills them.
    Args:
      command: the words before the flags of a run (Python and launch/train.py).
      places: from `slots`.
      bounded: also start a cell only where memory is left for it, as measured on those before.
      say: takes a line for each cell that ends.
      hold: from `alone`.
    """
    waiting = [cell for cell in cells if not finished(cell)]
    free, running, failures = list(places), [], {}
    done = len(cells) - len(waiting)
    every_s, shown = poll_s if sys.stderr.isatty() else 60.0, -math.inf
    bar = tqdm(total=len(cells), initial=done, bar_format=BAR, dynamic_ncols=True)
    with _stop_signals() as stop, bar, _killed_at_the_end(running):
        while running or (waiting and not stop.count):
            while waiting and free and not stop.count and (not bounded or _fits(cells, running)):
                cell, slot = waiting.pop(0), free.pop(0)
                running.append(Running(cell, slot, _start(cell, command, slot, hold)))
            if stop.count > stop.passed:
                _pass_on(stop, running)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.slot)
                told = _ended(job, stop.count > 0)
                done += finished(job.cell)
                if told and not stop.count:
                    failures[job.cell.name] = told
                with bar.external_write_mode():
                    say(f"{job.cell.name}: {told or _reached(job.cell)}")
            if time.monotonic() - shown > every_s:
                shown = time.monotonic()
                bar.n = max(bar.n, done + sum(progress(job.cell) for job in running))
                bar.set_postfix_str(f"{done} of {len(cells)} finished, {len(running)} running")
            time.sleep(poll_s)
    return failures


# tqdm's own, but for the count: it is of cells, and the fractions of those under way.
BAR = "sweep: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def progress(cell: Cell) -> float:
    """The share of a cell's steps that is done (0 where the configuration does not say of what)."""
    last = _last_row(cell.folder / "metrics.jsonl")
    return min(1.0, last.get("step", 0) / cell.config.steps) if cell.config.steps else 0.0


def tail(path: Path) -> str:
    """The last lines of a cell's output; of a progress bar what it showed last."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join([line for line in lines if line][-TAIL_LINES:])


@contextlib.contextmanager
def alone(out: Path) -> Iterator[int]:
    """Holds the folder of a sweep; cells inherit the hold, so that it outlives a killed sweep.

    Yields:
      What they inherit: a file descriptor.
    Raises:
      ValueError: another sweep, or a cell of one that was killed, is running there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"{out}: another sweep, or a cell that a killed one has left, is running there; "
                "wait for it or end it (--collect shows the results so far)"
            ) from error
        yield file.fileno()


def describe(plan: Plan, cells: Sequence[Cell], places: Sequence[Slot]) -> str:
    """What is going to be run, in words."""
    done = sum(finished(cell) for cell in cells)
    lines = [
        f"sweep     {len(plan.arms)} arms x {len(plan.seeds)} seeds of {plan.config}, "
        f"{len(cells)} cells, {done} of them finished, {len(places)} at a time"
    ]
    for arm in plan.arms:
        against = plan.opponent(arm)
        lines.append(f"          {arm}" + (f" (against {against})" if against else ""))
    return "\n".join(lines)


def _start(cell: Cell, command: Sequence[str], slot: Slot, hold: int | None) -> subprocess.Popen:
    cell.folder.mkdir(parents=True, exist_ok=True)
    words = [*command, *cell.flags, f"--workdir={cell.folder}", "--requeue"]
    # A bar that is written to a file a few times a minute is enough.
    environment = {"TQDM_MININTERVAL": "10"} | os.environ | dict(slot.environment)
    before = os.sched_getaffinity(0) if slot.cpus else None
    with (cell.folder / LOG).open("ab") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        try:
            if slot.cpus:
                os.sched_setaffinity(0, slot.cpus)  # inherited: XLA makes that many threads
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is passed on by `_pass_on`, and its children end
                pass_fds=() if hold is None else (hold,),
            )
        finally:
            if before:
                os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _killed_at_the_end(running: Sequence[Running]) -> Iterator[None]:
    """Leaves no cell behind, whatever ends the sweep."""
    try:
        yield
    finally:
        for job in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)


def _pass_on(stop: "_Stop", running: Sequence[Running]) -> None:
    stop.passed = stop.count
    for job in running:
        with contextlib.suppress(ProcessLookupError):
            if stop.count == 1:
                job.process.terminate()
            else:
                os.killpg(job.process.pid, signal.SIGKILL)


def _ended(job: Running, stopping: bool) -> str:
    """What to tell of a cell that ended before its end; empty for one that is finished."""
    if finished(job.cell):
        return ""
    code = job.process.returncode
    if stopping:
        return "stopped; the same command goes on with it"
    how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    if code == 0:
        how = "ended before its last step"
    return f"{how}; {job.cell.folder / LOG} ends\n{_indented(tail(job.cell.folder / LOG))}"


def _reached(cell: Cell) -> str:
    told = summary(cell)
    accuracy = told.get("after", {}).get("mean", float("nan"))
    return f"{accuracy:.3f} after {told['steps']} steps, {told['wall_seconds']:.0f} s"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _last_row(path: Path) -> dict:
    """The last whole line of a metrics.jsonl; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                return row
    return {}


def _fits(cells: Sequence[Cell], running: Sequence[Running]) -> bool:
    """Whether the memory has room for one more cell.

    The first one runs alone until it has told what it takes.
    """
    if not running:
        return True
    available = _available_gib()
    if available is None:
        return True
    taken = {cell.name: _taken_gib(cell) for cell in cells}
    need = max(taken.values())
    growing = sum(max(0.0, need - taken[job.cell.name]) for job in running)
    return need > 0 and available > SPARE * (need + growing)


def _taken_gib(cell: Cell) -> float:
    """What a cell took when it was last heard of; 0 before its first update."""
    row = _last_row(cell.folder / "metrics.jsonl")
    return row.get("host/rss_gib", 0.0) if row.get("step", 0) else 0.0


def _available_gib() -> float | None:
    """Memory that can be had without swapping, GiB; None where the system does not say."""
    try:
        said = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(said[1]) / 2**20 if said else None


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))) or 1)]


def _mesh_size(cell: Cell) -> int:
    """Devices of a cell's mesh; 0: all there are."""
    mesh = cell.config.mesh
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    return 0 if -1 in sizes else math.prod(sizes)


def _gpu_slots(gpus: Sequence[str], meshes: Sequence[int], parallel: int) -> list[Slot]:
    each = min(len(gpus), max(size or len(gpus) for size in meshes))
    groups = [gpus[i : i + each] for i in range(0, len(gpus) - each + 1, each)]
    count = parallel or len(groups)
    together = math.ceil(count / len(groups))
    made = []
    for i in range(count):
        environment = {VISIBLE: ",".join(groups[i % len(groups)])}
        if together > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / together:.3f}"
        made.append(Slot(tuple(environment.items())))
    return made


class _Stop:
    """How often a stop was asked for, and how many of these the cells have been told."""

    count = passed = 0


@contextlib.contextmanager
def _stop_signals():
    stop = _Stop()

    def ask(number, _):
        stop.count += 1
        then = "running cells save and end (again: kills them)" if stop.count == 1 else "killing"
        tqdm.write(f"{signal.Signals(number).name}: {then}", file=sys.stderr)

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
