"""A run's curriculum: what was seen of its rows, and which places of the stream it passes over."""

from collections.abc import Mapping

import numpy as np

from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.selection import prompts
from g2rpo_jax.selection.chance import uniforms
from g2rpo_jax.selection.prompts import CurriculumConfig, History
from g2rpo_jax.train.rows import Row


class Curriculum:
    """Decides by (seed, place, history), so alike in every process and after resuming."""

    def __init__(
        self, options: CurriculumConfig, stream: PromptStream, usable: np.ndarray, seed: int
    ):
        """
        Args:
          stream: what is drawn from; usable: its rows, rising.
        """
        self._options, self._stream, self._usable, self._seed = options, stream, usable, seed
        self._idle = prompts.CURRICULA[options.name] is prompts.uniform
        self._set(History.empty(0 if self._idle else len(usable)))

    def _set(self, history: History) -> None:
        self._history = history
        # Set at once, as threads that work ahead of the run ask too.
        self._chance_R = prompts.chances(history, self._options)

    def _place(self, prompt_id: int) -> int:
        return int(np.searchsorted(self._usable, self._stream.row(prompt_id)))

    def passes_over(self, prompt_id: int) -> bool:
        """Whether what stands at a place of the stream is not to be sampled, as known now."""
        if self._idle:
            return False
        chance = self._chance_R[self._place(prompt_id)]
        return bool(uniforms(self._seed, "curriculum", prompt_id)[0] >= chance)

    def saw(self, rows: list[Row]) -> None:
        """Takes in a round of sampled rows, those of all processes."""
        if self._idle:
            return
        places = [self._place(row.drawn.prompt_id) for row in rows]
        self._history.add(places, [row.part("accuracy") for row in rows], self._options)
        self._set(self._history)

    def to_json(self) -> dict:
        """What a resumed run needs, with exact numbers: the rows that were seen."""
        history = self._history
        seen = np.flatnonzero(history.tried_R)
        arrays = {name: getattr(history, name)[seen].tolist() for name in ARRAYS}
        explore = {name: getattr(history, name) for name in EXPLORE}
        return {"rows": seen.tolist()} | arrays | explore

    def restore(self, saved: Mapping) -> None:
        """Goes on from what `to_json` gave."""
        history = History.empty(len(self._history.tried_R))
        for name in ARRAYS:
            getattr(history, name)[saved["rows"]] = saved[name]
        for name in EXPLORE:
            setattr(history, name, saved[name])
        self._set(history)


ARRAYS = ("tried_R", "right_R", "last_R", "equal_R")
EXPLORE = ("explore_easy", "explore_hard")
