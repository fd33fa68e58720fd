"""The released sizes of Qwen3-VL, so that a run can be planned before its weights are fetched."""

from pathlib import Path

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig


def config_of(directory: str | Path) -> Qwen3VLConfig:
    """The shape of a model: from its config.json, or without files from the name of its release.

    Args:
      directory: a Hugging Face directory, or a path or repository name whose last part is a
        release, e.g. "Qwen/Qwen3-VL-8B-Instruct"; it need not exist.
    Raises:
      ValueError: if there is neither; or if config.json cannot be read or is not Qwen3-VL's.
    """
    directory = Path(directory)
    if (directory / "config.json").exists():
        return Qwen3VLConfig.read(directory)
    if directory.name not in SIZES:
        raise ValueError(
            f"{directory} has no config.json, and {directory.name!r} is no release of Qwen3-VL; "
            f"give a Hugging Face directory or one of {', '.join(SIZES)}"
        )
    return SIZES[directory.name]


def _text(width: int, mlp: int, layers: int, heads: int, **others: int) -> TextConfig:
    shape = dict(
        vocab_size=151936,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=262144,
        rope_theta=5e6,
    )
    return TextConfig(**shape | others)


def _small_tower(width: int) -> VisionConfig:
    return VisionConfig(
        depth=24,
        hidden_size=1024,
        intermediate_size=4096,
        out_hidden_size=width,
        deepstack_visual_indexes=(5, 11, 17),
    )


def _large_tower(width: int) -> VisionConfig:
    return VisionConfig(
        depth=27,
        hidden_size=1152,
        intermediate_size=4304,
        out_hidden_size=width,
        deepstack_visual_indexes=(8, 16, 24),
    )


# As the releases' config.json; Instruct and Thinking share a shape.
_SHAPES = {
    "2B": Qwen3VLConfig(
        _text(2048, 6144, 28, heads=16), _small_tower(2048), tie_word_embeddings=True
    ),
    "4B": Qwen3VLConfig(
        _text(2560, 9728, 36, heads=32), _small_tower(2560), tie_word_embeddings=True
    ),
    "8B": Qwen3VLConfig(_text(4096, 12288, 36, heads=32), _large_tower(4096)),
    "30B-A3B": Qwen3VLConfig(
        _text(2048, 6144, 48, heads=32, num_key_value_heads=4, num_experts=128), _large_tower(2048)
    ),
    "32B": Qwen3VLConfig(_text(5120, 25600, 64, heads=64), _large_tower(5120)),
}
SIZES = {
    f"Qwen3-VL-{size}-{kind}": shape
    for size, shape in _SHAPES.items()
    for kind in ("Instruct", "Thinking")
}
