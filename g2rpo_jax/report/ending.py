"""The last words of a run: the table, the curves, and where everything lies."""

from pathlib import Path

from g2rpo_jax import metrics


def table(summary: dict) -> str:
    """Held-out accuracy before and after, per task, as text."""
    before, after = summary["before"], summary["after"]
    lines = [f"{'held-out accuracy':28} {'before':>7} {'after':>7} {'change':>7}"]
    for task in [*sorted(set(after) - {"mean"}), "mean"] if after else []:
        row = f"{task:28} {before.get(task, float('nan')):7.3f} {after[task]:7.3f}"
        lines.append(f"{row} {after[task] - before.get(task, float('nan')):+7.3f}")
    return "\n".join(lines)


def closing(workdir: Path, summary: dict, curves: Path, page: Path | None = None) -> str:
    """What a run reached, how long it took, where everything lies; `page` where one was written."""
    state = "finished" if summary["finished"] else "stopped; go on with --resume"
    compiled = summary["compile"]
    shown = [f"page     {page}"] if page else []
    return "\n".join(
        [
            "",
            *([table(summary), ""] if summary["after"] else []),
            f"{state}: {summary['steps']} steps in {summary['wall_seconds']:.0f} s, "
            f"{compiled['count']} programs compiled in {compiled['seconds']:.0f} s "
            f"({compiled['read']} read from the cache)",
            f"seconds  {spent(summary['seconds'])}",
            *skipped(summary["rows_skipped_by_file"]),
            *shown,
            f"curves   {curves}",
            f"numbers  {workdir}/summary.json, metrics.jsonl, tensorboard/",
            f"samples  {workdir}/samples.jsonl",
            f"weights  {workdir}/checkpoints",
        ]
    )


def spent(seconds: dict[str, float]) -> str:
    """Where a run's seconds went, most first; what took less than a hundredth is left out."""
    least = sum(seconds.values()) / 100
    most_first = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{phase} {took:.0f}" for phase, took in most_first if took > least)


def skipped(by_file: dict[str, dict[str, int]]) -> list[str]:
    """A line for each file with rows that could not be used."""
    lines = []
    for file, reasons in by_file.items():
        counts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        lines.append(f"skipped  {sum(reasons.values()):,} rows of {file}: {counts}")
    return lines


PANELS = (
    ("eval/accuracy", "held-out accuracy"),
    ("reward/accuracy", "accuracy of sampled responses"),
    ("rollout/length_tokens", "response length, tokens"),
    ("policy/entropy", "entropy, nats per token"),
    ("rollout/zero_variance_share", "rows with equal rewards, share"),
    ("rollout/kept_share", "rows kept by the filter, share"),
)


def curves(workdir: Path, tasks: tuple[str, ...]) -> Path:
    """Draws curves.png of a run from its metrics.jsonl: six panels, a line per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = metrics.read(Path(workdir) / "metrics.jsonl")
    figure, axes = plt.subplots(2, 3, figsize=(14, 7.5), layout="constrained")
    for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
        for task in tasks:
            _line(axis, rows, f"{name}/{task}", label=task, linewidth=1.2, alpha=0.8)
        _line(axis, rows, name, label="all", linewidth=2.4, color="black")
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path = Path(workdir) / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _line(axis, rows: list[dict], name: str, **style) -> None:
    """One curve: evaluations as they are, noisy per-step numbers as a running mean over 10."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if not name.startswith("eval/"):
        values = [
            sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1])
            for i in range(len(values))
        ]
    axis.plot(steps, values, marker="o" if name.startswith("eval/") else None, ms=3, **style)
