"""An endless, seeded, resumable order of rows whose whole state is one integer.

The order is a function of place, seed and shares alone. Grain's own shuffle is not used for it: it
seeds epoch e with seed + e, so that a run of seed 1 begins with the second epoch of seed 0, and its
mixing rounds shares to whole numbers and gives up the exact counts of an epoch.
"""

import zlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from g2rpo_jax.data.example import Example
from g2rpo_jax.tables import nearest


class Rows(Protocol):
    """What a stream draws from; data.rows.RowSet is one.

    Attributes:
      usable: int64, indices of the rows that may be drawn.
    """

    usable: np.ndarray

    def __getitem__(self, row: int) -> Example:
        """The row; raises BadRow."""

    def groups(self) -> dict[str, np.ndarray]:
        """The usable rows by task."""


class PromptStream:
    """Epoch after epoch over the usable rows, each epoch shuffled by (seed, epoch).

    `shares` say how often the rows of a task are drawn, relative to the file: of a task of n rows
    with share s, round(s n) draws stand in every epoch (at least one, if s > 0), and its rows take
    turns over the epochs, all of them once before any comes again. With all shares at 1 this is a
    plain shuffle.

    A draw is named by its prompt_id, its place in the stream. Which process of a run encodes which
    places is for `train.feed` to say; the stream is one.

    Attributes:
      position: every place before it was taken; the only state.
    """

    def __init__(
        self,
        rows: Rows,
        seed: int = 0,
        shuffle: bool = True,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Start at position 0.

        Args:
          seed: at least 0; gives another order.
          shuffle: False keeps the file's order in every epoch; no shares then.
          shares: by task, at least 0; 1 for tasks that are left out.
        Raises:
          ValueError: there is nothing to draw, the seed is negative, or a share is negative or of
            a task without rows.
        """
        if not len(rows.usable):
            raise ValueError("no rows to draw prompts from: the data source is empty")
        if seed < 0:
            raise ValueError(f"{seed=} must be at least 0")
        self.position = 0
        self._rows, self._seed, self._shuffle = rows, seed, shuffle
        self._groups, draws, keys = _layout(rows, shares or {}, shuffle)
        self._ends = np.cumsum(draws)
        self._epochs = _Shuffle(seed, int(self._ends[-1]))
        # Other random numbers than those of the epochs, and others for each task.
        self._turns = [
            _Shuffle(seed + (key << 64), len(group))
            for key, group in zip(keys, self._groups, strict=False)
        ]

    def __len__(self) -> int:
        """Draws of one epoch."""
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> int:
        """A number that changes with seed, shares and which rows there are."""
        found = zlib.crc32(np.array([self._seed, *self._ends], np.uint64).tobytes())
        for group in self._groups:
            found = zlib.crc32(np.asarray(group, np.int64).tobytes(), found)
        return found

    @property
    def epoch(self) -> int:
        """How many whole epochs were taken."""
        return self.position // len(self)

    def ids(self, count: int) -> list[int]:
        """The places of the next `count` draws."""
        return list(range(self.position, self.position + count))

    def take(self, n: int) -> list[tuple[int, Example]]:
        """The next `n` as (prompt_id, example).

        prompt_id names one draw in the whole run, so that an example drawn again gets other random
        numbers. `row(prompt_id)` gives the example's index.
        Raises:
          BadRow: one of them cannot be used; the position stays.
        """
        taken = [(i, self.at(i)) for i in self.ids(n)]
        if taken:
            self.position = taken[-1][0] + 1
        return taken

    def seek(self, position: int) -> None:
        """Go on as if all places before `position` had been taken.

        Raises:
          ValueError: if `position` is negative.
        """
        if position < 0:
            raise ValueError(f"{position=} of the prompt stream must be at least 0")
        self.position = position

    def at(self, prompt_id: int) -> Example:
        """The example that stands at `prompt_id`, whether taken yet or not; raises BadRow."""
        return self._rows[self.row(prompt_id)]

    def row(self, prompt_id: int) -> int:
        """Index of the row that stands at `prompt_id`."""
        epoch, offset = divmod(prompt_id, len(self))
        slot = int(self._epochs(epoch)[offset]) if self._shuffle else offset
        if not self._turns:
            return int(self._groups[0][slot])
        which = int(np.searchsorted(self._ends, slot, side="right"))
        group, end = self._groups[which], int(self._ends[which])
        start = int(self._ends[which - 1]) if which else 0
        turn, place = divmod(epoch * (end - start) + slot - start, len(group))
        return int(group[self._turns[which](turn)[place]])


class _Shuffle:
    """Permutations of `count` places, one for each turn; the last two are kept."""

    def __init__(self, seed: int, count: int):
        self._seed, self._count = seed, count
        self._kept: dict[int, np.ndarray] = {}

    def __reduce__(self):
        return _Shuffle, (self._seed, self._count)

    def __call__(self, turn: int) -> np.ndarray:
        order = self._kept.get(turn)
        if order is None:
            # Sorting raw bits of a counter-based generator: the same order with every NumPy
            # version, which Generator.permutation does not promise.
            bits = np.random.Philox(key=self._seed, counter=[0, 0, 0, turn]).random_raw(self._count)
            order = np.argsort(bits, kind="stable").astype(np.int32)
            # Two, as threads work on both sides of an epoch's end; set at once, for their sake.
            self._kept = dict([*self._kept.items()][-1:]) | {turn: order}
        return order


def _layout(
    rows: Rows, shares: Mapping[str, float], shuffle: bool
) -> tuple[list[np.ndarray], list[int], list[int]]:
    """(groups of rows, draws of each in an epoch, a number for each group's name).

    Without shares there is one group, of all rows, and no numbers.
    """
    groups = rows.groups()
    for task, share in shares.items():
        if not (share >= 0 and share < float("inf")):
            raise ValueError(
                f"the sampling share of task {task!r} is {share}: at least 0 is needed"
            )
        if share not in (0, 1) and task not in groups:
            raise ValueError(
                f"a sampling share of {share:g} is set for task {task!r}, of which there are no "
                f"rows{nearest(task, groups)}. The rows have {', '.join(sorted(groups))}"
            )
    chosen = {task: shares[task] if task in shares else 1.0 for task in sorted(groups)}
    if all(share == 1 for share in chosen.values()):
        return [rows.usable], [len(rows.usable)], []
    if not shuffle:
        raise ValueError("sampling shares need a shuffled stream")
    chosen = {task: share for task, share in chosen.items() if share > 0}
    if not chosen:
        raise ValueError("the sampling shares of all tasks are 0: nothing is left to draw")
    draws = [max(1, round(share * len(groups[task]))) for task, share in chosen.items()]
    return [groups[task] for task in chosen], draws, [1 + zlib.crc32(t.encode()) for t in chosen]
