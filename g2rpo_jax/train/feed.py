"""Encoded prompts of a stream of rows, one batch ahead of the device."""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor

from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.example import Example
from g2rpo_jax.data.processor import Prompt
from g2rpo_jax.rollout.encoder import Encoder


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One prompt of the stream, encoded. `prompt_id` is its place in the stream."""

    prompt_id: int
    example: Example
    prompt: Prompt


class Feed:
    """Encoded prompts of a stream, the next ones prepared while the device works."""

    def __init__(self, stream: PromptStream, encoder: Encoder):
        self._stream, self._encoder = stream, encoder
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead: tuple[int, Future] | None = None
        self.position = stream.position

    def take(self, count: int) -> list[Drawn]:
        """The next `count` usable prompts; starts on the following ones before it returns.

        Raises:
          ValueError: if a whole pass over the rows holds nothing usable.
        """
        if self._ahead is None or self._ahead[0] != count:
            self._discard()
            self._ahead = (count, self._worker.submit(self._draw, count))
        drawn, self.position = self._ahead[1].result()
        self._ahead = (count, self._worker.submit(self._draw, count))
        return drawn

    def again(self, prompt_id: int) -> Drawn:
        """A prompt that was drawn before, by its place in the stream (for resumed runs)."""
        example = self._stream.at(prompt_id)
        return Drawn(prompt_id, example, self._encoder.encode(example))

    def seek(self, position: int) -> None:
        """Goes on from a saved `position`."""
        self._discard()
        self._stream.seek(position)
        self.position = position

    def close(self) -> None:
        """Stops the worker."""
        self._worker.shutdown(cancel_futures=True)

    def _discard(self) -> None:
        if self._ahead is not None:
            self._ahead[1].result()
            self._ahead = None
            self._stream.seek(self.position)

    def _draw(self, count: int) -> tuple[list[Drawn], int]:
        drawn, misses = [], 0
        while len(drawn) < count:
            ((prompt_id, example),) = self._stream.take(1)
            prompt = self._encoder.encode(example)
            if prompt is None:
                misses += 1
                if misses > len(self._stream):
                    raise ValueError(
                        "no usable training row in a whole pass over the data; the first reasons:\n"
                        + "\n".join(self._encoder.messages)
                    )
                continue
            drawn.append(Drawn(prompt_id, example, prompt))
        return drawn, self._stream.position
