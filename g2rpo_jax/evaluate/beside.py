"""Responses scored while the device makes others."""

import queue
import threading
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from g2rpo_jax.parallel.processes import Group
from g2rpo_jax.rewards import Item, Score, Scorer

Answer = tuple[Hashable, Callable[[], Item]]  # whose it is, and what makes it: decoding, mostly


class Beside:
    """Scores answers in a thread of its own, in the order they come, as many together as wait.

    A score depends on its item alone, so scores are those of one batch, whenever they are given.

    Attributes:
      seconds: how long the thread was at it.
    """

    def __init__(self, scorer: Scorer, group: Group | None = None):
        """
        Args:
          scorer: its counts of failures become those of all processes at the end.
          group: the processes of the run; None: this one alone.
        """
        self.seconds = 0.0
        self._scorer, self._group = scorer, group or Group()
        self._before = scorer.failures.copy()
        self._waiting: queue.SimpleQueue[list[Answer] | None] = queue.SimpleQueue()
        self._found: dict[Hashable, tuple[Item, Score]] = {}
        self._error: BaseException | None = None
        # A daemon: Ctrl-C ends the run at once, and the children of the scorer with it.
        self._thread = threading.Thread(target=self._work, name="scores", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, *_) -> None:
        self._waiting.put(None)

    def add(self, answers: Sequence[Answer]) -> None:
        """Hands answers over; returns at once."""
        self._waiting.put(list(answers))

    def finish(self) -> dict[Hashable, tuple[Item, Score]]:
        """Waits for all scores: (item, score) by key; every process of the group calls it.

        Raises:
          what scoring raised.
        """
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        new = self._scorer.failures - self._before
        for process, failures in enumerate(self._group.gather(new, "failures")):
            if process != self._group.index:
                self._scorer.failures.update(failures)
        return self._found

    def _work(self) -> None:
        going = True
        while going and self._error is None:
            parts = [self._waiting.get()]
            while not self._waiting.empty():
                parts.append(self._waiting.get())
            going = None not in parts
            answers = [answer for part in parts if part is not None for answer in part]
            started = time.perf_counter()
            try:
                items = [make() for _, make in answers]
                scores = self._scorer.score_batch(items)
            except BaseException as error:
                self._error = error
                return
            found = zip(answers, items, scores, strict=True)
            self._found |= {key: (item, score) for (key, _), item, score in found}
            self.seconds += time.perf_counter() - started


class Finished:
    """Which responses of a batch have finished since it was last asked."""

    def __init__(self, limit_P: Sequence[int], eos: tuple[int, ...], responses: int):
        """
        Args:
          limit_P: tokens that each row's responses may have; 0 for filler, which is never named.
          eos: token ids that end a response.
          responses: G.
        """
        limit_P1 = np.asarray(limit_P)[:, None]
        self._left_PG = np.repeat(limit_P1, responses, axis=1)
        self._going_PG, self._eos = self._left_PG > 0, eos

    def new(
        self, token_PGT: np.ndarray, mask_PGT: np.ndarray, here: slice
    ) -> list[tuple[int, int, int]]:
        """(p, g, length) of those that the tokens at places `here` finish.

        Args:
          token_PGT, mask_PGT: int32 tokens and bool of used ones, so far.
        """
        used_PGc = mask_PGT[..., here]
        self._left_PG -= used_PGc.sum(-1)
        ended_PG = (np.isin(token_PGT[..., here], self._eos) & used_PGc).any(-1)
        new_PG = (ended_PG | (self._left_PG <= 0)) & self._going_PG
        self._going_PG &= ~new_PG
        return [(p, g, int(mask_PGT[p, g].sum())) for p, g in np.argwhere(new_PG).tolist()]
