"""Where a run's seconds go: every moment belongs to one phase, so that phases add up to the run."""

import collections
import time
from collections.abc import Iterable

# Of a step. Programs run while the host goes on: a phase's time is how long the host was at it,
# waiting included; what a program takes shows where its results are fetched.
STEP = ("data", "rollout", "reward", "advantage", "score", "ledger", "update")
# Around steps. "close" is the run's end: last checkpoint on the disk, curves, page.
AROUND = ("start", "eval", "checkpoint", "log", "close")


class Clock:
    """Laps: `lap` puts the time since the lap before down to a phase.

    Attributes:
      seconds: of each phase since the beginning.
      last: when the last lap ended, as time.perf_counter() gives it.
    """

    def __init__(self, began: float | None = None):
        """
        Args:
          began: when the run did, as time.perf_counter() gave it; None: now.
        """
        self.began = self.last = time.perf_counter() if began is None else began
        self.seconds: collections.Counter[str] = collections.Counter()
        self._told: dict[str, float] = {}

    @property
    def total(self) -> float:
        """Seconds from the beginning to the last lap: the sum of all phases."""
        return self.last - self.began

    def lap(self, phase: str) -> None:
        """Ends a lap, which was of `phase` (of STEP or AROUND)."""
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def numbers(self, phases: Iterable[str] = (*STEP, *AROUND)) -> dict[str, float]:
        """{"time/PHASE_s": seconds} of the phases that had laps since they were last asked for."""
        new = {phase: self.seconds[phase] - self._told.get(phase, 0.0) for phase in phases}
        self._told |= {phase: self.seconds[phase] for phase in phases}
        return {f"time/{phase}_s": seconds for phase, seconds in new.items() if seconds > 0}
