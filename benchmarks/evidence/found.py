"""What a study's folder holds: finished cells, what they reached, intervals of it."""

import dataclasses
import functools
import json
from pathlib import Path

from evidence import supervised
from evidence.sweeps import SEEDS, SWEEPS

from g2rpo_jax import metrics
from g2rpo_jax.sweep import plan, runner
from g2rpo_jax.sweep.results import Interval, interval

TASKS = {  # as the embedded set names them, and as the tables do
    "ocr": "reading",
    "math_reasoning": "arithmetic",
    "chart_figure_qa": "charts",
    "general_vqa_science_stem": "choice",
    "spatial_reasoning": "spatial",
    "spatial_grounding": "grounding",
}
START = "assets/tiny"


@dataclasses.dataclass(frozen=True)
class Study:
    """The results in one folder.

    Attributes:
      out: the folder of study.py.
    """

    out: Path

    @functools.cached_property
    def plans(self) -> dict[str, plan.Plan]:
        """The sweeps that were begun."""
        begun = [name for name in SWEEPS if (self.out / name / plan.FILE).exists()]
        return {name: plan.parse(plan.read_file(self.out / name / plan.FILE)) for name in begun}

    @functools.cached_property
    def judged(self) -> dict[str, dict]:
        """judge.py's file: by the folder's path within the study."""
        path = self.out / "judged.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        return {self._short(Path(folder)): value for folder, value in said.items()}

    def _short(self, folder: Path) -> str:
        return str(folder.relative_to(self.out)) if folder.is_relative_to(self.out) else START

    @functools.cached_property
    def times(self) -> dict[str, dict]:
        """Seconds and commit of each part."""
        path = self.out / "times.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def cells(self, sweep: str, arm: str | None = None) -> list[plan.Cell]:
        """The finished cells of a sweep, or of one of its arms."""
        if sweep not in self.plans:
            return []
        cells = self.plans[sweep].cells(self.out / sweep)
        return [c for c in cells if arm in (None, c.arm) and runner.finished(c)]

    def folders(self) -> list[Path]:
        """Run folders of all finished cells."""
        return [cell.folder for name in SWEEPS for cell in self.cells(name)]

    def supervised(self) -> list[Path]:
        """Model directories of the finished supervised runs."""
        wanted = [supervised.folder_of(self.out, way, s) for way in supervised.WAYS for s in SEEDS]
        return [folder for folder in wanted if supervised.history(folder)]

    def reached(self, sweep: str, arm: str, part: str = "greedy") -> dict[int, dict[str, float]]:
        """What judge.py found of an arm's models, by seed."""
        if sweep == "supervised":
            folders = {s: supervised.folder_of(self.out, arm, s) for s in SEEDS}
        else:
            folders = {cell.seed: cell.folder for cell in self.cells(sweep, arm)}
        found = {s: self.judged.get(self._short(f), {}).get(part) for s, f in folders.items()}
        return {seed: numbers for seed, numbers in found.items() if numbers}

    def start(self, part: str = "greedy") -> dict[str, float]:
        """What judge.py found of the cold start; empty if it was not asked."""
        return self.judged.get(START, {}).get(part, {})

    def gain(
        self,
        ours: tuple[str, str],
        theirs: tuple[str, str] | None,
        key: str = "mean",
        part: str = "greedy",
    ) -> Interval | None:
        """Mean difference of two arms at equal seeds (None: of the first and the cold start)."""
        a = self.reached(*ours, part)
        b = self.reached(*theirs, part) if theirs else dict.fromkeys(a, self.start(part))
        b = {seed: numbers for seed, numbers in b.items() if numbers}
        pairs = [a[seed][key] - b[seed][key] for seed in sorted(a.keys() & b.keys())]
        return interval(pairs) if pairs else None

    def level(self, sweep: str, arm: str, key: str = "mean", part: str = "greedy") -> Interval:
        """Mean over seeds of what an arm's models reach."""
        return interval([found[key] for found in self.reached(sweep, arm, part).values()])

    def logged(self, sweep: str, arm: str) -> list[list[dict]]:
        """The metrics of each finished cell of an arm, step by step."""
        return [metrics.read(cell.folder / "metrics.jsonl") for cell in self.cells(sweep, arm)]

    def step_seconds(self, sweep: str, arm: str) -> float:
        """Mean seconds of a step of these runs once their programs are there."""
        rows = [row for run in self.logged(sweep, arm) for row in run if row["step"] > 5]
        return sum(row["time/step_s"] for row in rows) / len(rows)
