"""What the cells of a sweep reached: a row for each, means over seeds, differences in pairs."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from scipy.special import stdtrit

from g2rpo_jax.evaluate.statistics import mean_and_error
from g2rpo_jax.sweep.plan import Cell, Plan, as_text
from g2rpo_jax.sweep.runner import finished, summary

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes:
      before, after: held-out accuracy per task and "mean", of the first weights and at the end.
      seconds: wall seconds of the run, all its lives together.
    """

    cell: Cell
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    steps: int


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds; `half` is None for a single one."""

    mean: float
    half: float | None
    count: int


def collect(cells: Sequence[Cell]) -> list[Result]:
    """The results of the cells that are finished, in the cells' order."""
    made = []
    for cell in cells:
        if finished(cell):
            told = summary(cell)
            times = float(told["wall_seconds"]), int(told["steps"])
            made.append(Result(cell, told["before"], told["after"], *times))
    return made


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values with the half width of its 95 % t-interval.

        half = t(0.975, n - 1) * s / sqrt(n)

    with the sample deviation s. It is exact for normal values; with three seeds t is 4.30.
    Args:
      values: at least one.
    Source: Student, The Probable Error of a Mean, 1908.
    """
    mean, error = mean_and_error(values)
    if len(values) < 2:
        return Interval(mean, None, len(values))
    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    return Interval(mean, quantile * error, len(values))


def tasks_of(results: Sequence[Result]) -> list[str]:
    """ "mean", then the tasks that every result has, by name."""
    shared = set.intersection(*(set(result.after) for result in results)) - {"mean"}
    return ["mean", *sorted(shared)]


def differences(results: Sequence[Result], arm: str, other: str, task: str) -> list[float]:
    """`after` of an arm minus that of another, at every seed that both have finished.

    The same seed draws the same prompts in the same order in both, so what they share cancels.
    """
    reached = {(r.cell.arm, r.cell.seed): r.after[task] for r in results}
    seeds = [r.cell.seed for r in results if r.cell.arm == arm]
    return [reached[arm, s] - reached[other, s] for s in seeds if (other, s) in reached]


def write_csv(path: Path, plan: Plan, results: Sequence[Result]) -> None:
    """A row for each finished cell: arm, seed, fields, accuracies, seconds, steps."""
    fields = list(dict.fromkeys(field for its in plan.arms.values() for field in its))
    tasks = tasks_of(results) if results else []
    with Path(path).open("w", newline="") as file:
        out = csv.writer(file)
        accuracies = [f"{when}/{task}" for when in ("after", "before") for task in tasks]
        out.writerow(["arm", "seed", *fields, *accuracies, "seconds", "steps"])
        for r in results:
            its = [as_text(r.cell.fields[f]) if f in r.cell.fields else "" for f in fields]
            numbers = [r.after[task] for task in tasks]
            numbers += [r.before.get(task, math.nan) for task in tasks]
            out.writerow([r.cell.arm, r.cell.seed, *its, *numbers, r.seconds, r.steps])


def table(plan: Plan, results: Sequence[Result]) -> str:
    """Markdown: what each arm reached, and its paired differences from what it is compared with."""
    total = len(plan.arms) * len(plan.seeds)
    lines = [
        f"Held-out accuracy at the end of {plan.config}: mean over seeds ± half of the 95 % "
        f"t-interval. {len(results)} of {total} cells are finished."
    ]
    if not results:
        return lines[0] + "\n"
    tasks = tasks_of(results)
    rows = []
    for arm in plan.arms:
        its = [r for r in results if r.cell.arm == arm]
        if its:
            cells = [shown(interval([r.after[task] for r in its])) for task in tasks]
            rows.append([arm, str(len(its)), *cells, f"{_mean(r.seconds for r in its):.0f}"])
    lines += ["", *markdown(["arm", "seeds", *tasks, "seconds"], rows)]
    rows = []
    for arm in plan.arms:
        other = plan.opponent(arm)
        if other is None or not differences(results, arm, other, "mean"):
            continue
        by_task = [differences(results, arm, other, task) for task in tasks]
        cells = [shown(interval(values), "+") for values in by_task]
        better = f"{sum(value > 0 for value in by_task[0])} of {len(by_task[0])}"
        rows.append([arm, other, better, *cells])
    if rows:
        head = ["arm", "minus", "better at seeds", *tasks]
        lines += ["", "Differences at equal seeds:", "", *markdown(head, rows)]
    return "\n".join(lines) + "\n"


def shown(value: Interval, sign: str = "", digits: int = 3) -> str:
    """The mean with half of its interval, where it has one; sign "+": with its sign."""
    half = "" if value.half is None else f" ± {value.half:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half}"


def _mean(values) -> float:
    return mean_and_error(list(values))[0]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
