"""Qwen3-VL: vision tower with DeepStack, language model with M-RoPE, on rows."""

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig, TextConfig, VisionConfig
from g2rpo_jax.models.qwen3_vl.layout import RowInputs, pack
from g2rpo_jax.models.qwen3_vl.model import Cache, Qwen3VL
from g2rpo_jax.models.qwen3_vl.weights import load, save

__all__ = [
    "Cache",
    "Qwen3VL",
    "Qwen3VLConfig",
    "RowInputs",
    "TextConfig",
    "VisionConfig",
    "load",
    "pack",
    "save",
]
