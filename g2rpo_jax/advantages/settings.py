"""Which estimator, and every number that one of them reads."""

import dataclasses

from g2rpo_jax.ranks import RANKS
from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """Which estimator, and every number that one of them reads.

    Attributes:
      name: entry of ESTIMATORS.
      ranks: entry of RANKS: how g2rpo, g2rpo_release and gaussian_gdpo compute their ranks.
      unit_variance: divide the quantiles of n values by their root mean square (their variance is
        0.851 for n = 8), so that untied values have variance 1. Acts on the last ranking stage.
      ddof: 1 for the sample standard deviation (EasyR1, verl, TRL), 0 for the population's (the
        paper's Figure 2).
      eps: added to a standard deviation before dividing by it.
      ema_decay: share of the old moving average that a batch keeps.
      ema_floor: least task standard deviation of ema_grpo_onethinker.
      ema_guard: beyond this |advantage| a group of ema_grpo_onethinker uses its own standard
        deviation.
      gdpo_whitening: tokens (the release) or responses (TRL): what the batch statistics count.
      gpg_scale: none (F_norm = 1) or std.
    """

    name: str = "g2rpo"
    ranks: str = "comparison"
    unit_variance: bool = False
    ddof: int = 1
    eps: float = 1e-6
    ema_decay: float = 0.99
    ema_floor: float = 1e-3
    ema_guard: float = 5.0
    gdpo_whitening: str = "tokens"
    gpg_scale: str = "none"

    def __post_init__(self):
        for field, choices in CHOICES.items():
            lookup(dict.fromkeys(choices), getattr(self, field), kind=f"advantage.{field}")
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(
                    f"advantage.{field}={value} lies outside [{low}, {high}]: use a value inside"
                )


# What the fields may hold. Names of estimators are looked up where the table is.
CHOICES = {
    "ranks": tuple(RANKS),
    "gdpo_whitening": ("tokens", "responses"),
    "gpg_scale": ("none", "std"),
}

RANGES = {
    "ddof": (0, 1),
    "eps": (1e-12, 1.0),
    "ema_decay": (0.0, 1.0),
    "ema_floor": (1e-6, 1.0),
    "ema_guard": (0.0, 1e6),
}
