"""An endless, seeded, resumable order of examples whose whole state is one integer."""

from collections.abc import Sequence

import numpy as np

from g2rpo_jax.data.example import Example


class PromptStream:
    """Epoch after epoch over the examples, each epoch shuffled by (seed, epoch).

    Attributes:
      position: how many examples were taken so far; the only state.
    """

    def __init__(self, examples: Sequence[Example], seed: int = 0, shuffle: bool = True) -> None:
        """Start at position 0.

        Args:
          seed: at least 0; gives another order.
          shuffle: False keeps the file's order in every epoch.
        Raises:
          ValueError: if there are no examples or the seed is negative.
        """
        if not examples:
            raise ValueError("no examples to draw prompts from: the data source is empty")
        if seed < 0:
            raise ValueError(f"{seed=} must be at least 0")
        self.position = 0
        self._examples = examples
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = -1
        self._order: np.ndarray = np.arange(len(examples))

    def __len__(self) -> int:
        """Examples of one epoch."""
        return len(self._examples)

    @property
    def epoch(self) -> int:
        """How many times every example was taken."""
        return self.position // len(self._examples)

    def take(self, n: int) -> list[tuple[int, Example]]:
        """The next `n` as (prompt_id, example).

        prompt_id is the position in the stream: it names one draw in the whole run, so that an
        example drawn again gets other random numbers. `row(prompt_id)` gives the example's index.
        """
        taken = [(i, self.at(i)) for i in range(self.position, self.position + n)]
        self.position += n
        return taken

    def seek(self, position: int) -> None:
        """Go on as if `position` examples had been taken.

        Raises:
          ValueError: if `position` is negative.
        """
        if position < 0:
            raise ValueError(f"{position=} of the prompt stream must be at least 0")
        self.position = position

    def at(self, prompt_id: int) -> Example:
        """The example that stands at `prompt_id`, whether taken yet or not."""
        return self._examples[self.row(prompt_id)]

    def row(self, prompt_id: int) -> int:
        """Index of the example that stands at `prompt_id`."""
        epoch, offset = divmod(prompt_id, len(self._examples))
        if epoch != self._epoch:
            self._order = self._permutation(epoch)
            self._epoch = epoch
        return int(self._order[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        count = len(self._examples)
        if not self._shuffle:
            return np.arange(count)
        # Sorting raw bits of a counter-based generator: the same order with every NumPy version,
        # which Generator.permutation does not promise.
        bits = np.random.Philox(key=self._seed, counter=[0, 0, 0, epoch]).random_raw(count)
        return np.argsort(bits, kind="stable")
