"""Rows in, packed prompts out: encoding, buckets, skipping, one batch ahead of the device."""

import collections
import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor

from g2rpo_jax.config import DataConfig
from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.prompts import messages
from g2rpo_jax.data.rows import BadRow, Example, open_images
from g2rpo_jax.models.qwen3_vl.layout import pack


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One prompt of the stream, encoded. `prompt_id` is its place in the stream."""

    prompt_id: int
    example: Example
    prompt: Prompt


class Encoder:
    """Examples to prompts under the limits of the configured buckets; counts what it skips."""

    def __init__(self, config: DataConfig, processor: Processor, tasks: tuple[str, ...]):
        self.config, self.processor, self.tasks = config, processor, tasks
        self.skipped: collections.Counter[str] = collections.Counter()
        self.messages: list[str] = []

    def encode(self, example: Example) -> Prompt | None:
        """The prompt, or None (counted by reason) if the row cannot be used."""
        try:
            if example.task not in self.tasks:
                raise BadRow(
                    "unknown task",
                    f"{example.where}: task {example.task!r} is not in the configuration's `tasks`",
                )
            prompt = self.processor.encode(
                messages(example, self.config.template, open_images(example))
            )
            self._check(example, prompt)
        except BadRow as bad:
            self.skipped[bad.reason] += 1
            if len(self.messages) < 10:
                self.messages.append(str(bad))
            return None
        return prompt

    def _check(self, example: Example, prompt: Prompt) -> None:
        longest, most = self.config.prompt_tokens[-1], self.config.patches[-1]
        if len(prompt.input_ids) > longest:
            raise BadRow(
                "prompt too long",
                f"{example.where}: {len(prompt.input_ids)} prompt tokens; the largest bucket "
                f"data.prompt_tokens holds {longest}",
            )
        if _patches(prompt) > most:
            raise BadRow(
                "too many image patches",
                f"{example.where}: {_patches(prompt)} image patches; the largest bucket "
                f"data.patches holds {most}: lower data.max_pixels or add a bucket",
            )

    def pack(self, prompts: list[Prompt], rows: int, model_config):
        """RowInputs of `rows` rows in the smallest bucket that holds them; the last ones may be
        filler (copies of the first)."""
        filled = prompts + [prompts[0]] * (rows - len(prompts))
        tokens = _bucket(self.config.prompt_tokens, max(len(p.input_ids) for p in prompts))
        patches = _bucket(self.config.patches, max(_patches(p) for p in prompts))
        return pack(filled, model_config, tokens, patches)


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


def _patches(prompt: Prompt) -> int:
    return 0 if prompt.pixel_values is None else len(prompt.pixel_values)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
