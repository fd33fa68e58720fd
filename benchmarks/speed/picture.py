"""The curves of a result as a picture.

python benchmarks/speed/picture.py speed.json docs/images/performance_curves.png
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

SHARED, REPEATED, BOUND = "#1f6f8b", "#c8553d", "#777777"
AXES = {"prompt_tokens": ("prompt tokens S", 8), "responses": ("responses G", 512)}


def series(entries: list[dict], phase: str, along: str) -> dict[str, np.ndarray]:
    """Columns of the entries of a phase along one axis, in rising order; "x" is the axis."""
    other = "responses" if along == "prompt_tokens" else "prompt_tokens"
    fixed = AXES[along][1]
    chosen = [e for e in entries if e["phase"] == phase and e[other] == fixed]
    chosen.sort(key=lambda entry: entry[along])
    names = ("shared_s", "repeated_s", "ratio", "bound")
    found = {name: np.array([entry[name] for entry in chosen]) for name in names}
    return {"x": np.array([entry[along] for entry in chosen])} | found


def draw(entries: list[dict], path: Path) -> None:
    """Seconds (above) and times saved with the bound (below), against S and against G."""
    figure = Figure(figsize=(9.6, 6.2), layout="constrained", dpi=120)
    panels = figure.subplots(2, 2, sharex="col")
    for column, (along, (label, _)) in enumerate(AXES.items()):
        above, below = panels[:, column]
        for phase, style in (("policy_step", "-"), ("rollout", ":")):
            found = series(entries, phase, along)
            name = phase.replace("_", " ")
            points = dict(marker="o", markersize=4, linestyle=style)
            above.plot(
                found["x"], found["repeated_s"], color=REPEATED, label=f"{name}, repeated", **points
            )
            above.plot(
                found["x"], found["shared_s"], color=SHARED, label=f"{name}, shared", **points
            )
            below.plot(found["x"], found["ratio"], color=SHARED, label=f"{name}, saved", **points)
        below.plot(
            found["x"],
            found["bound"],
            color=BOUND,
            linestyle="--",
            label="G (S + T) / (S + G T): linear layers",
        )
        above.set(yscale="log", ylabel="seconds")
        below.set(xlabel=label, ylabel="repeated / shared", ylim=(0, None))
        below.set_xscale("log", base=2)
        below.set_xticks(found["x"], [str(x) for x in found["x"]])
        for panel in (above, below):
            panel.grid(alpha=0.25)
            panel.legend(fontsize=8, frameon=False)
    panels[0, 0].set_title("8 responses of 128 tokens", fontsize=10)
    panels[0, 1].set_title("prompts of 512 tokens, responses of 128", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["curves"], Path(sys.argv[2]))
