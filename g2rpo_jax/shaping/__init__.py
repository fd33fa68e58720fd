"""Shaping beside the task's own reward: response lengths and the policy's entropy, per task."""

from g2rpo_jax.shaping.automatic import (
    EntropyStatistics,
    LengthStatistics,
    automatic_bands,
    automatic_envelope,
    length_edges,
    see_entropy,
    see_lengths,
)
from g2rpo_jax.shaping.entropy import (
    ENTROPY_ESTIMATORS,
    ENTROPY_FORMS,
    entropy_coefficient,
    entropy_sums,
    entropy_term,
)
from g2rpo_jax.shaping.length import LENGTH_FORMS, Lengths, length_bands, length_reward
from g2rpo_jax.shaping.options import ShapingConfig

__all__ = [
    "ENTROPY_ESTIMATORS",
    "ENTROPY_FORMS",
    "LENGTH_FORMS",
    "EntropyStatistics",
    "LengthStatistics",
    "Lengths",
    "ShapingConfig",
    "automatic_bands",
    "automatic_envelope",
    "entropy_coefficient",
    "entropy_sums",
    "entropy_term",
    "length_bands",
    "length_edges",
    "length_reward",
    "see_entropy",
    "see_lengths",
]
