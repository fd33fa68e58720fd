"""Examples in, packed prompts out: encoding, limits, buckets; what cannot be used is counted."""

import collections

from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.prompts import messages
from g2rpo_jax.data.rows import open_images
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.models.qwen3_vl.layout import pack


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


def _patches(prompt: Prompt) -> int:
    return 0 if prompt.pixel_values is None else len(prompt.pixel_values)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
