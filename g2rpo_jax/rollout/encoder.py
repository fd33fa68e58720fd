"""Examples in, packed prompts out: encoding, limits, buckets."""

import collections
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from g2rpo_jax.data.encoding import PromptEncoder, patches
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.models.qwen3_vl.layout import pack
from g2rpo_jax.parallel.processes import Group


class Encoder(PromptEncoder):
    """A PromptEncoder that also packs prompts into buckets.

    Attributes:
      packed: what all processes packed since somebody last cleared it: "tokens" and "patches" of
        prompts, and the "token_slots" and "patch_slots" that hold them; the rest is padding.
    """

    def __init__(
        self,
        config: DataConfig,
        processor: Processor,
        group: Group | None = None,
        dtype: str = "float32",
    ):
        """
        Args:
          group: the processes of the run; None: this one alone.
          dtype: of packed patches: what the model computes in.
        """
        super().__init__(config, processor)
        self._group, self._dtype = group or Group(), jnp.dtype(dtype)
        self.packed: collections.Counter[str] = collections.Counter()

    def pack(self, prompts: Sequence[Prompt | None], rows: int, model_config):
        """RowInputs of `rows` rows, in the smallest bucket that holds the rows of all processes,
        which all call this. No medium is resized to fit a bucket.

        Args:
          prompts: of this process; None, and rows beyond them, are filler (copies of the first).
        """
        here = [prompt for prompt in prompts if prompt is not None]
        sizes = [(len(prompt.input_ids), patches(prompt)) for prompt in here]
        everybodys = [size for part in self._group.gather(sizes, "prompt sizes") for size in part]
        longest, most = (max(column) for column in zip(*everybodys, strict=True))
        tokens = _bucket(self.config.prompt_tokens, longest)
        most = _bucket(self.config.patches, most)
        self.packed["tokens"] += sum(length for length, _ in everybodys)
        self.packed["patches"] += sum(count for _, count in everybodys)
        self.packed["token_slots"] += self._group.count * rows * tokens
        self.packed["patch_slots"] += self._group.count * rows * most
        blank = Prompt(np.array([self.processor.pad_id], np.int32), None, None)
        filler = here[0] if here else blank
        filled = [filler if prompt is None else prompt for prompt in prompts]
        filled += [filler] * (rows - len(filled))
        return pack(filled, model_config, tokens, most, self._dtype)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
