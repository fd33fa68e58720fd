"""The learning curves of a sweep: a panel for each number, a line for each arm."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from g2rpo_jax import metrics
from g2rpo_jax.sweep.results import Result, interval, tasks_of

SMOOTH = 10  # steps of the running mean of numbers that are logged at every step
COLUMNS = 4


def curve(
    runs: Sequence[Sequence[dict]], name: str, smooth: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One number of several runs, step by step.

    Args:
      runs: rows of the metrics.jsonl of each.
      smooth: each run's values are means over so many of its rows before.
    Returns:
      steps int [N] that every run has; mean over runs [N]; half of its 95 % t-interval [N], 0 for
      a single run.
    """
    found = []
    for rows in runs:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        values = np.array([value for _, value in points], float)
        sums = np.concatenate([[0.0], np.cumsum(values)])
        last = np.arange(1, len(values) + 1)
        first = np.maximum(0, last - smooth)
        means = (sums[last] - sums[first]) / (last - first)
        found.append(dict(zip((step for step, _ in points), means, strict=True)))
    steps = sorted(set.intersection(*(set(its) for its in found)))
    whole = [interval([its[step] for its in found]) for step in steps]
    half = np.array([value.half or 0.0 for value in whole])
    return np.array(steps, int), np.array([value.mean for value in whole]), half


def draw(path: Path, results: Sequence[Result]) -> None:
    """Writes curves.png of finished cells: held-out accuracy of all and of each task, and the
    accuracy of sampled responses; lines are means over seeds, bands their 95 % t-intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs: dict[str, list[list[dict]]] = {}
    for result in results:
        rows = metrics.read(result.cell.folder / "metrics.jsonl")
        runs.setdefault(result.cell.arm, []).append(rows)
    tasks = [task for task in tasks_of(results) if task != "mean"]
    panels = [
        ("eval/accuracy", "held-out accuracy"),
        ("reward/accuracy", f"sampled responses, mean of {SMOOTH} steps"),
        *((f"eval/accuracy/{task}", task) for task in tasks),
    ]
    height = math.ceil(len(panels) / COLUMNS)
    size = (3.6 * COLUMNS, 3.0 * height + 0.6)
    figure, axes = plt.subplots(height, COLUMNS, figsize=size, layout="constrained", squeeze=False)
    colours = plt.get_cmap("tab10" if len(runs) <= 10 else "tab20").colors
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        smooth = 1 if name.startswith("eval/") else SMOOTH
        for i, (arm, its) in enumerate(runs.items()):
            steps, mean, half = curve(its, name, smooth)
            colour = colours[i % len(colours)]
            style = "-" if i < len(colours) else "--"
            dots = "o" if smooth == 1 else None
            axis.plot(steps, mean, style, color=colour, label=arm, lw=1.6, marker=dots, ms=3)
            axis.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, lw=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
