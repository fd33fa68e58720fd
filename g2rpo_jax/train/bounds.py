"""The bounds of length rewards and entropy envelopes during a run: those of the task table, or what
the run has found itself so far."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from g2rpo_jax import shaping
from g2rpo_jax.config import RunConfig
from g2rpo_jax.train.rows import Row

CORNERS = ("minimum", "low", "high", "maximum")


class Bounds:
    """Each task's length corners and entropy bounds.

    Attributes:
      length_K4: corners of the trapezoid, float32, tokens.
      entropy_K2: (minimum, maximum), float32, nats per token.
      limit_K: tokens that a response may have, float32.
    """

    def __init__(self, config: RunConfig):
        self.config, self.tasks = config.shaping, tuple(config.tasks)
        tasks = config.tasks.values()
        self.limit_K = np.array(
            [min(task.max_tokens or config.max_tokens, config.max_tokens) for task in tasks],
            np.float32,
        )
        self.length_K4 = shaping.length_bands([task.length for task in tasks])
        self.entropy_K2 = np.array([task.entropy for task in tasks], np.float32)
        self._edges = shaping.length_edges(config.max_tokens)
        zero_K, zero_KB = np.zeros(len(tasks)), np.zeros((len(tasks), len(self._edges) - 1))
        self._lengths = shaping.LengthStatistics(zero_KB, zero_KB)
        self._entropies = shaping.EntropyStatistics(zero_K, zero_K, zero_K)
        self._numbers: dict[str, float] = {}
        self._find()

    def lengths(
        self, length_PG: np.ndarray, accuracy_PG: np.ndarray, task_P: np.ndarray, step: int
    ) -> shaping.Lengths:
        """What the length reward takes, of prompts sampled in `step`."""
        return shaping.Lengths(
            length_PG=length_PG.astype(np.float32),
            accuracy_PG=accuracy_PG.astype(np.float32),
            band_P4=self.length_K4[task_P],
            limit_P=self.limit_K[task_P],
            step=np.float32(step - 1),
        )

    def see(self, rows: Sequence[Row], sums: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Takes in one step; what it changes holds from the next one on.

        Args:
          rows: everything that all processes sampled in it.
          sums: of its updates, on the host (`policy_step`).
        """
        config = self.config
        if config.length == "auto" and rows:
            self._lengths = shaping.see_lengths(
                self._lengths,
                self._edges,
                np.stack([row.length_G for row in rows]),
                np.stack([row.part("accuracy") for row in rows]) >= config.auto_right,
                np.array([self.tasks.index(row.example.task) for row in rows]),
                config.auto_decay,
            )
        if config.entropy == "auto" and sums:
            measured = "task_entropy" if config.entropy_estimator == "exact" else "task_nll"
            sum_K, tokens_K = (
                np.sum([np.asarray(each[name], float) for each in sums], axis=0)
                for name in (measured, "task_tokens")
            )
            self._entropies = shaping.see_entropy(
                self._entropies, sum_K, tokens_K, config.auto_steps
            )
        self._find()

    def numbers(self) -> dict[str, float]:
        """The bounds that were found, for the log; of tasks that have some."""
        return dict(self._numbers)

    def to_json(self) -> dict:
        """What a resumed run needs, with exact numbers: nothing where nothing is automatic."""
        saved = {}
        if self.config.length == "auto":
            saved["length"] = dataclasses.asdict(self._lengths)
        if self.config.entropy == "auto":
            saved["entropy"] = dataclasses.asdict(self._entropies)
        return jax.tree.map(np.ndarray.tolist, saved)

    def restore(self, saved: Mapping) -> None:
        """Puts `to_json` back."""
        saved = {
            part: {name: np.array(values, float) for name, values in arrays.items()}
            for part, arrays in saved.items()
        }
        if "length" in saved:
            self._lengths = shaping.LengthStatistics(**saved["length"])
        if "entropy" in saved:
            self._entropies = shaping.EntropyStatistics(**saved["entropy"])
        self._find()

    def _find(self) -> None:
        self._numbers = {}
        if self.config.length == "auto":
            found_K4, pressure_K = shaping.automatic_bands(
                self._lengths, self._edges, self.limit_K, self.config
            )
            self.length_K4 = found_K4.astype(np.float32)
            for k in np.flatnonzero(self._lengths.rows_K >= self.config.auto_rows):
                for name, corner in zip(CORNERS, found_K4[k], strict=True):
                    self._numbers[f"shaping/length_{name}/{self.tasks[k]}"] = corner
                self._numbers[f"shaping/length_pressure/{self.tasks[k]}"] = pressure_K[k]
        if self.config.entropy == "auto":
            found_K2, known_K = shaping.automatic_envelope(self._entropies, self.config)
            self.entropy_K2 = found_K2.astype(np.float32)
            for k in np.flatnonzero(known_K):
                for name, bound in zip(("low", "high"), found_K2[k], strict=True):
                    self._numbers[f"shaping/entropy_{name}/{self.tasks[k]}"] = bound
