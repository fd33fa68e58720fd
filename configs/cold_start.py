"""The supervised warm-up that made the shipped tiny model (assets/tiny).

    python launch/sft.py --config=configs/cold_start.py

Two CPU cores; the time it took stands in docs/results.md.
"""

import ml_collections

from g2rpo_jax.config import SftConfig, defaults


def get_config() -> ml_collections.ConfigDict:
    """The defaults of SftConfig are the tiny model's."""
    return defaults(SftConfig)
