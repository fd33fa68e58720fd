"""Examples in, packed prompts out: encoding, limits, buckets."""

import collections

from g2rpo_jax.data.encoding import PromptEncoder, patches
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.models.qwen3_vl.layout import pack


class Encoder(PromptEncoder):
    """A PromptEncoder that also packs prompts into buckets.

    Attributes:
      packed: what was packed since somebody last cleared it: "tokens" and "patches" of prompts, and
        the "token_slots" and "patch_slots" that hold them; the rest is padding.
    """

    def __init__(self, config: DataConfig, processor: Processor):
        super().__init__(config, processor)
        self.packed: collections.Counter[str] = collections.Counter()

    def pack(self, prompts: list[Prompt], rows: int, model_config):
        """RowInputs of `rows` rows in the smallest bucket that holds them; the last ones may be
        filler (copies of the first). No medium is resized to fit a bucket."""
        filled = prompts + [prompts[0]] * (rows - len(prompts))
        tokens = _bucket(self.config.prompt_tokens, max(len(p.input_ids) for p in prompts))
        most = _bucket(self.config.patches, max(patches(p) for p in prompts))
        self.packed["tokens"] += sum(len(p.input_ids) for p in prompts)
        self.packed["patches"] += sum(patches(p) for p in prompts)
        self.packed["token_slots"] += rows * tokens
        self.packed["patch_slots"] += rows * most
        return pack(filled, model_config, tokens, most)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
