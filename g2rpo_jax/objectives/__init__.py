"""Policy losses: log-probs, advantages -> a loss per token; how tokens are averaged; KL.

One file per family; every loss is `(options, tokens) -> (loss_PGT, clipped_PGT)` and an entry of
OBJECTIVES (`table.py`).
"""

from g2rpo_jax.objectives.importance import IMPORTANCE, IMPORTANCE_LEVELS, importance_weights
from g2rpo_jax.objectives.reduce import AGGREGATIONS, KL_ESTIMATORS, aggregation_weights, kl
from g2rpo_jax.objectives.table import (
    OBJECTIVES,
    Objective,
    ObjectiveConfig,
    look,
    token_losses,
)
from g2rpo_jax.objectives.tokens import Tokens

__all__ = [
    "AGGREGATIONS",
    "IMPORTANCE",
    "IMPORTANCE_LEVELS",
    "KL_ESTIMATORS",
    "OBJECTIVES",
    "Objective",
    "ObjectiveConfig",
    "Tokens",
    "aggregation_weights",
    "importance_weights",
    "kl",
    "look",
    "token_losses",
]
