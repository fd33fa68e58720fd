"""Which tensors of a Hugging Face checkpoint each parameter is made of, and how."""

import dataclasses

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Where one parameter lies in a checkpoint.

    `names` has one tensor per layer for a stacked parameter, else one in all. A linear layer's
    weight is [out, in] there and [in, out] here (`transpose`). `part` is which third of a fused
    q, k, v tensor this is. Experts' tensors are 3-D, and come in `either` order of their last two
    axes: as here in the releases, the other way round as transformers 5 saves a new model.
    """

    names: tuple[str, ...]
    stacked: bool = False
    transpose: bool = False
    part: int | None = None
    either: bool = False


def leaves(config: Qwen3VLConfig) -> dict[tuple[str, ...], Leaf]:
    """Every parameter path of `Qwen3VL(config)` and where it lies in the checkpoint."""
    table = {
        ("embedding",): Leaf(("model.language_model.embed_tokens.weight",)),
        ("norm",): Leaf(("model.language_model.norm.weight",)),
        ("vision", "patch_proj"): Leaf(("model.visual.patch_embed.proj.weight",), transpose=True),
        ("vision", "patch_bias"): Leaf(("model.visual.patch_embed.proj.bias",)),
        ("vision", "pos_embed"): Leaf(("model.visual.pos_embed.weight",)),
    }
    if not config.tie_word_embeddings:
        table[("head",)] = Leaf(("lm_head.weight",))
    taps = len(config.vision.deepstack_visual_indexes)
    text = TEXT | (EXPERTS if config.text.num_experts else MLP)
    stacks = [
        (("layers",), "model.language_model.layers.{}.", config.text.num_hidden_layers, text),
        (("vision", "layers"), "model.visual.blocks.{}.", config.vision.depth, BLOCK),
        (("vision", "merger"), "model.visual.merger.", 1, MERGER),
        (("vision", "deepstack"), "model.visual.deepstack_merger_list.{}.", taps, MERGER),
    ]
    for path, prefix, count, entries in stacks:
        for name, (suffix, part) in entries.items() if count else ():
            names = tuple(prefix.format(i) + suffix for i in range(count))
            either = name.startswith("experts_")
            transpose = name.endswith("_proj") and not either
            table[(*path, name)] = Leaf(names, True, transpose, part, either)
    return table


# parameter -> (the rest of its tensor's name, its third of a fused tensor)
TEXT = {
    "input_norm": ("input_layernorm.weight", None),
    "q_proj": ("self_attn.q_proj.weight", None),
    "k_proj": ("self_attn.k_proj.weight", None),
    "v_proj": ("self_attn.v_proj.weight", None),
    "q_norm": ("self_attn.q_norm.weight", None),
    "k_norm": ("self_attn.k_norm.weight", None),
    "o_proj": ("self_attn.o_proj.weight", None),
    "post_norm": ("post_attention_layernorm.weight", None),
}
MLP = {
    "gate_proj": ("mlp.gate_proj.weight", None),
    "up_proj": ("mlp.up_proj.weight", None),
    "down_proj": ("mlp.down_proj.weight", None),
}
EXPERTS = {
    "router_proj": ("mlp.gate.weight", None),
    "experts_up_proj": ("mlp.experts.gate_up_proj", None),
    "experts_down_proj": ("mlp.experts.down_proj", None),
}
BLOCK = {
    "norm1_scale": ("norm1.weight", None),
    "norm1_bias": ("norm1.bias", None),
    "q_proj": ("attn.qkv.weight", 0),
    "k_proj": ("attn.qkv.weight", 1),
    "v_proj": ("attn.qkv.weight", 2),
    "q_bias": ("attn.qkv.bias", 0),
    "k_bias": ("attn.qkv.bias", 1),
    "v_bias": ("attn.qkv.bias", 2),
    "o_proj": ("attn.proj.weight", None),
    "o_bias": ("attn.proj.bias", None),
    "norm2_scale": ("norm2.weight", None),
    "norm2_bias": ("norm2.bias", None),
    "up_proj": ("mlp.linear_fc1.weight", None),
    "up_bias": ("mlp.linear_fc1.bias", None),
    "down_proj": ("mlp.linear_fc2.weight", None),
    "down_bias": ("mlp.linear_fc2.bias", None),
}
MERGER = {
    "norm_scale": ("norm.weight", None),
    "norm_bias": ("norm.bias", None),
    "up_proj": ("linear_fc1.weight", None),
    "up_bias": ("linear_fc1.bias", None),
    "down_proj": ("linear_fc2.weight", None),
    "down_bias": ("linear_fc2.bias", None),
}
