"""Numbers of an evaluation: means with standard errors, pass@k."""

import math
from collections.abc import Sequence

import numpy as np


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error s / sqrt(n) with the sample deviation s (0 for one value)."""
    values = np.asarray(values, float)
    n = len(values)
    error = values.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
    return float(values.mean()), float(error)


def pass_at(k: int, samples: int, right: int) -> float:
    """Chance that at least one of k samples, drawn without repetition from those made, is right.

    1 - C(n - c, k) / C(n, k): unbiased for the chance that one of k fresh samples is right.
    Args:
      k: 1 <= k <= samples.
      samples, right: n and c, samples made and how many of them are right.
    Raises:
      ValueError: k out of range.
    Source: Chen et al. 2021, eq. 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples: make more samples")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
