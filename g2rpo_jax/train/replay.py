"""Rows of earlier steps that wait to be trained on again."""

import dataclasses

import numpy as np

from g2rpo_jax.selection import replay
from g2rpo_jax.selection.chance import uniforms
from g2rpo_jax.selection.replay import ReplayConfig, Stored
from g2rpo_jax.train.rows import Row


class Replay:
    """A bounded buffer, the same in every process.

    Attributes:
      rows: what waits, oldest first, without encoded prompts: those are encoded again.
    """

    def __init__(self, options: ReplayConfig, seed: int):
        self._options, self._seed = options, seed
        self._idle = replay.REPLAYS[options.name] is replay.none
        self.rows: list[Row] = []

    def take(self, step: int, prompts: int) -> list[Row]:
        """The rows that a step of so many prompts trains on again; they leave the buffer."""
        options = self._options
        self.rows = [row for row in self.rows if step - row.born <= options.max_age]
        if step % options.every or not self.rows:
            return []
        stored = Stored(
            reward_RG=np.stack([row.reward_G for row in self.rows]),
            accuracy_RG=np.stack([row.part("accuracy") for row in self.rows]),
            born_R=np.array([row.born for row in self.rows]),
            random_R=uniforms(self._seed, "replay", step, len(self.rows)),
        )
        chosen = replay.choose(options, stored, round(options.share * prompts)).tolist()
        taken = [self.rows[i] for i in chosen]
        self.rows = [row for i, row in enumerate(self.rows) if i not in chosen]
        return taken

    def add(self, rows: list[Row]) -> None:
        """Keeps rows that were trained on for the first time."""
        if not self._idle:
            bare = [dataclasses.replace(row, drawn=row.drawn.elsewhere()) for row in rows]
            self.rows = (self.rows + bare)[-self._options.capacity :]
