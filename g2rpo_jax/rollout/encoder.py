"""Examples in, packed prompts out: encoding, limits, buckets; what cannot be used is counted."""

import collections

from g2rpo_jax.data.encoding import PromptEncoder, patches
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.models.qwen3_vl.layout import pack


class Encoder(PromptEncoder):
    """A PromptEncoder that also packs prompts into buckets; counts what it skips."""

    def __init__(self, config: DataConfig, processor: Processor, tasks: tuple[str, ...]):
        super().__init__(config, processor)
        self.tasks = tasks
        self.skipped: collections.Counter[str] = collections.Counter()
        self.messages: list[str] = []

    def encode(self, example: Example) -> Prompt | None:
        """The prompt, or None (counted by reason) if the row cannot be used."""
        try:
            if example.task not in self.tasks:
                raise BadRow(
                    "unknown_task",
                    f"{example.where}: task {example.task!r} is not in the configuration's `tasks`",
                )
            return super().encode(example)
        except BadRow as bad:
            self.skipped[bad.reason] += 1
            if len(self.messages) < 10:
                self.messages.append(str(bad))
            return None

    def pack(self, prompts: list[Prompt], rows: int, model_config):
        """RowInputs of `rows` rows in the smallest bucket that holds them; the last ones may be
        filler (copies of the first)."""
        filled = prompts + [prompts[0]] * (rows - len(prompts))
        tokens = _bucket(self.config.prompt_tokens, max(len(p.input_ids) for p in prompts))
        most = _bucket(self.config.patches, max(patches(p) for p in prompts))
        return pack(filled, model_config, tokens, most)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
