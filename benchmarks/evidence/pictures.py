"""The pictures of docs/evidence.md: lines are means over seeds, bands 95 % t-intervals."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from evidence.found import TASKS, Study  # noqa: E402

from g2rpo_jax.sweep.picture import curve  # noqa: E402

SMOOTH = 10  # steps of the running mean
PARTS = {"accuracy": "accuracy", "format": "format", "structure": "structure", "length": "length"}


def _lines(axis, runs: Sequence[list[dict]], name: str, label: str, colour) -> None:
    runs = [run for run in runs if any(row.get(name) is not None for row in run)]
    if not runs:
        return
    steps, mean, half = curve(runs, name, SMOOTH)
    axis.plot(steps, mean, color=colour, label=label, lw=1.5)
    axis.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, lw=0)


def _finish(figure, axes, path: Path, columns: int = 6) -> None:
    for axis in axes.flat:
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def dynamics(study: Study, path: Path) -> None:
    """Response length and entropy along the steps, task by task, with and without shaping."""
    arms = ("g2rpo", "g2rpo+length", "g2rpo+entropy", "g2rpo+both", "g2rpo+both_auto")
    size = (2.9 * len(TASKS), 5.4)
    figure, axes = plt.subplots(2, len(TASKS), figsize=size, layout="constrained", squeeze=False)
    colours = plt.get_cmap("tab10").colors
    for arm, colour in zip(arms, colours, strict=False):
        runs = study.logged("as_scored", arm)
        for column, task in enumerate(TASKS):
            _lines(axes[0, column], runs, f"rollout/length_tokens/{task}", arm, colour)
            _lines(axes[1, column], runs, f"policy/entropy/{task}", arm, colour)
    for column, task in enumerate(TASKS.values()):
        axes[0, column].set_title(task, fontsize=10)
    axes[0, 0].set_ylabel("tokens a response")
    axes[1, 0].set_ylabel("entropy, nats a token")
    _finish(figure, axes, path)


def rewards(study: Study, path: Path) -> None:
    """The parts of the reward along the steps under G2RPO with both shapings, task by task."""
    size = (3.2 * len(PARTS), 3.2)
    figure, axes = plt.subplots(1, len(PARTS), figsize=size, layout="constrained", squeeze=False)
    runs = study.logged("as_scored", "g2rpo+both")
    colours = plt.get_cmap("tab10").colors
    for axis, (part, title) in zip(axes[0], PARTS.items(), strict=True):
        for (task, label), colour in zip(TASKS.items(), colours, strict=False):
            _lines(axis, runs, f"reward/{part}/{task}", label, colour)
        axis.set_title(title, fontsize=10)
    _finish(figure, axes, path)


def learning(study: Study, path: Path) -> None:
    """Accuracy of sampled responses along the steps: every estimator, under each reward."""
    sweeps = {"as_scored": "as scored", "noisy": "noisy marks (as marked)"}
    shown = {name: title for name, title in sweeps.items() if name in study.plans}
    size = (5.6 * len(shown), 4.2)
    figure, axes = plt.subplots(1, len(shown), figsize=size, layout="constrained", squeeze=False)
    arms = {arm: None for name in shown for arm in study.plans[name].arms if "+" not in arm}
    colours = dict(zip(arms, plt.get_cmap("tab10").colors, strict=False))
    for axis, (name, title) in zip(axes[0], shown.items(), strict=True):
        for arm in (arm for arm in arms if arm in study.plans[name].arms):
            _lines(axis, study.logged(name, arm), "reward/accuracy", arm, colours[arm])
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("accuracy of sampled responses")
    _finish(figure, axes, path, columns=4)


PICTURES = {"dynamics": dynamics, "rewards": rewards, "learning": learning}


def draw(study: Study, folder: Path) -> None:
    """Writes all of them."""
    for name, make in PICTURES.items():
        make(study, folder / f"evidence_{name}.png")
