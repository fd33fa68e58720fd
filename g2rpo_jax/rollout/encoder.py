"""Examples in, packed prompts out: encoding, limits, buckets."""

from g2rpo_jax.data.encoding import PromptEncoder, patches
from g2rpo_jax.data.processor import Prompt
from g2rpo_jax.models.qwen3_vl.layout import pack


class Encoder(PromptEncoder):
    """A PromptEncoder that also packs prompts into buckets."""

    def pack(self, prompts: list[Prompt], rows: int, model_config):
        """RowInputs of `rows` rows in the smallest bucket that holds them; the last ones may be
        filler (copies of the first)."""
        filled = prompts + [prompts[0]] * (rows - len(prompts))
        tokens = _bucket(self.config.prompt_tokens, max(len(p.input_ids) for p in prompts))
        most = _bucket(self.config.patches, max(patches(p) for p in prompts))
        return pack(filled, model_config, tokens, most)


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    return next(size for size in sizes if size >= needed)
