"""The tables of docs/evidence.md."""

import json
from collections.abc import Sequence

import numpy as np
from evidence import supervised
from evidence.found import TASKS, Study

from g2rpo_jax.sweep.results import interval, markdown, shown

LABELS = {
    "g2rpo": "+ G2RPO",
    "g2rpo+entropy": "+ entropy shaping",
    "g2rpo+length": "+ length shaping",
}
LABELS |= {"g2rpo+both": "+ both", "g2rpo+both_auto": "+ both, bounds that set themselves"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text."""
    return "\n".join(markdown(head, rows))


def reached(study: Study, sweep: str, arms: Sequence[str], baseline: str, labels=None) -> str:
    """Held-out accuracy of each arm per task; the last column: minus the baseline, in pairs."""
    keys = [*TASKS, "mean"]
    start = study.start()
    rows = [["cold start", "", *(f"{start[key]:.3f}" for key in keys), ""]]
    for arm in arms:
        its = study.reached(sweep, arm)
        if not its:
            continue
        cells = [shown(study.level(sweep, arm, key)) for key in keys]
        gain = study.gain((sweep, arm), (sweep, baseline))
        minus = shown(gain, "+") if gain and arm != baseline else ""
        rows.append([(labels or {}).get(arm, f"`{arm}`"), str(len(its)), *cells, minus])
    name = (labels or {}).get(baseline, baseline).removeprefix("+ ")
    return table(["", "runs", *TASKS.values(), "mean", f"minus {name}"], rows)


def shaping(study: Study) -> str:
    """The paper's Table 4 in small."""
    return reached(study, "as_scored", list(LABELS), "g2rpo", LABELS)


def estimators(study: Study, sweep: str) -> str:
    """Every estimator of a sweep beside GRPO."""
    arms = [arm for arm in study.plans[sweep].arms if "+" not in arm]
    return reached(study, sweep, arms, "grpo")


def lengths(study: Study) -> str:
    """Greedy response lengths at the end, tokens per task."""
    start = study.start()
    rows = [["cold start", *(f"{start[f'length/{task}']:.1f}" for task in TASKS)]]
    for arm, label in LABELS.items():
        if study.reached("as_scored", arm):
            its = [study.level("as_scored", arm, f"length/{task}") for task in TASKS]
            rows.append([label, *(f"{i.mean:.1f} ± {i.half or 0:.1f}" for i in its)])
    return table(["", *TASKS.values()], rows)


def groups(study: Study) -> str:
    """Accuracy, pass@k and rows that carry signal, against the group size."""
    ks = ("1", "2", "4", "8", "16")
    start = study.start("pass")
    rows = [
        ["cold start", "", "", f"{study.start()['mean']:.3f}", *(f"{start[k]:.3f}" for k in ks)]
    ]
    arms = [("groups", "G=2", 2), ("groups", "G=4", 4), ("as_scored", "g2rpo", 8)]
    arms += [("groups", "G=16", 16), ("as_scored", "grpo", 8), ("as_scored", "dr_grpo", 8)]
    for sweep, arm, G in arms:
        if not study.reached(sweep, arm):
            continue
        runs = study.logged(sweep, arm)
        kept = interval([_mean_of(run, "rollout/kept_share") for run in runs])
        passed = study.reached(sweep, arm, "pass")
        cells = [shown(study.level(sweep, arm, k, "pass")) if passed else "-" for k in ks]
        name = "g2rpo" if sweep == "groups" else arm
        level = shown(study.level(sweep, arm))
        rows.append([f"`{name}`", str(G), f"{kept.mean:.2f}", level, *cells])
    return table(["", "G", "rows kept", "greedy", *(f"pass@{k}" for k in ks)], rows)


def _mean_of(run: list[dict], name: str) -> float:
    """Mean over the steps that logged it."""
    return float(np.mean([row[name] for row in run if row.get(name) is not None]))


def ways(study: Study) -> str:
    """RL from answers beside supervised training: accuracy, seconds, what each was told."""
    keys = [*TASKS, "mean"]
    start = study.start()
    rows = [["cold start", "", "", *(f"{start[key]:.3f}" for key in keys)]]
    told = {"answers": "answers", "written": "answers, lines of thought"}
    seconds = 60 * study.step_seconds("answers", "g2rpo")
    level = [shown(study.level("answers", "g2rpo", key)) for key in keys]
    rows.append(["RL, `g2rpo`", "answers", f"{seconds:.0f}", *level])
    for way, said in told.items():
        if study.reached("supervised", way):
            level = [shown(study.level("supervised", way, key)) for key in keys]
            took = supervised.seconds(study.out, way)
            rows.append(["supervised", said, f"{took:.0f}", *level])
    return table(["", "told", "seconds", *TASKS.values(), "mean"], rows)


def ledger(study: Study) -> str:
    """Each task's share of the gradient along the runs of "unlike"; pay of reading, arithmetic and
    choice is a tenth."""
    rows = []
    for arm in study.plans["unlike"].arms:
        runs = study.logged("unlike", arm)
        if not runs:
            continue
        cells = []
        for task in TASKS:
            key, each = f"ledger/share/{task}", []
            for run in runs:
                looks = [r for r in run if any(name.startswith("ledger/share/") for name in r)]
                # A task that is not in the minibatch has no share of its gradient.
                each.append(float(np.mean([look.get(key, 0.0) for look in looks])))
            cells.append(shown(interval(each)))
        rows.append([f"`{arm}`", *cells])
    return table(["", *TASKS.values()], rows)


def equity(study: Study) -> str:
    """equity.py: how far the shares move when rewards are on another scale, mean over batches."""
    said = json.loads((study.out / "equity.json").read_text())
    by = {(e["batch"], e["scene"], e["estimator"]): e for e in said["entries"]}
    batches = sorted({batch for batch, _, _ in by})
    names = list(dict.fromkeys(estimator for _, _, estimator in by))
    rows = []
    for name in names:
        its = {
            scene: [by[b, scene, name] for b in batches]
            for scene in ("as_scored", "unlike_scales", "heavy_tailed", "outlier")
        }
        variances = [v for e in its["as_scored"] for v in e["variance"].values()]
        moved = [
            interval([_moved(a, b) for a, b in zip(its["as_scored"], its[scene], strict=True)])
            for scene in ("unlike_scales", "heavy_tailed", "outlier")
        ]
        largest = [max(e["largest"] for e in its[s]) for s in ("heavy_tailed", "outlier")]
        share = [
            interval([e["share"].get("math_reasoning", 0.0) for e in its[s]])
            for s in ("outlier", "as_scored")
        ]
        rows.append(
            [
                f"`{name}`",
                f"{min(variances):.2f} to {max(variances):.2f}",
                *(shown(value, digits=2) for value in moved),
                *(f"{value:.1f}" for value in largest),
                f"{shown(share[0], digits=2)} ({share[1].mean:.2f})",
            ]
        )
    head = ["estimator", "variance of advantages by task, as scored", "moved: unlike scales"]
    head += ["heavy tails", "outlier", "largest advantage: heavy tails", "outlier"]
    return table([*head, "arithmetic's share with the outlier (as scored)"], rows)


def _moved(before: dict, after: dict) -> float:
    tasks = before["share"].keys() | after["share"].keys()
    pairs = [(before["share"].get(t, 0.0), after["share"].get(t, 0.0)) for t in tasks]
    return 0.5 * sum(abs(a - b) for a, b in pairs)


def times(study: Study) -> str:
    """What took how long, and at which commits it was begun."""
    rows = [
        [part, f"{said['seconds'] / 60:.0f}", ", ".join(f"`{c}`" for c in said["commits"])]
        for part, said in study.times.items()
    ]
    return table(["part", "minutes", "begun at commit"], rows)
