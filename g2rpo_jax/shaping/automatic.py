"""Bounds that a run finds itself: length corners and entropy bounds of each task.

Host code in NumPy float64, once a step: the same rows give the same bounds on every process, and a
state written as JSON comes back exactly. State in, state out.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from g2rpo_jax.shaping.length import NEVER_TOKENS
from g2rpo_jax.shaping.options import ShapingConfig

BINS = 128
CHANCE = 1.36  # Kolmogorov and Smirnov's factor at 5 %: CHANCE sqrt(2 / n) for two samples of n
UNBOUNDED_NATS = 1e9

PerTask = Float[np.ndarray, " K"]


@dataclasses.dataclass(frozen=True)
class LengthStatistics:
    """Lengths of right and wrong responses of each task, float64 [K, B] by bins of tokens.

    Each row with both kinds adds 1 to either array, its right (wrong) responses an equal share, so
    both are of the same prompts: that hard prompts have long answers and wrong ones is no
    difference. Older rows weigh less.
    """

    right_KB: np.ndarray
    wrong_KB: np.ndarray

    @property
    def rows_K(self) -> np.ndarray:
        """Rows with right and wrong responses, decayed."""
        return self.right_KB.sum(axis=1)


def length_edges(limit: int) -> Int[np.ndarray, " E"]:
    """Edges of bins over 0..limit tokens: bin b holds edges[b] <= L < edges[b + 1].

    One token each as far as that goes, then each some per cent wider than the one before.
    """
    edges = np.round(np.geomspace(1, limit + 1, BINS + 1)).astype(int)
    return np.unique(np.concatenate([[0], edges]))


def see_lengths(
    statistics: LengthStatistics,
    edges: Int[np.ndarray, " E"],
    length_RG: Real[np.ndarray, "R G"],
    right_RG: Bool[np.ndarray, "R G"],
    task_R: Int[np.ndarray, " R"],
    decay: float,
) -> LengthStatistics:
    """The statistics with R more rows; a task's earlier ones first lose 1 - decay of their weight.

    Rows that are all right or all wrong say nothing, and tasks without others stay as they are.
    """
    both_R = right_RG.any(axis=1) & ~right_RG.all(axis=1)
    length_RG, right_RG, task_R = length_RG[both_R], right_RG[both_R], task_R[both_R]
    bin_RG = np.clip(np.searchsorted(edges, length_RG, side="right") - 1, 0, len(edges) - 2)
    sides = []
    for before_KB, here_RG in (
        (statistics.right_KB, right_RG),
        (statistics.wrong_KB, ~right_RG),
    ):
        after_KB = before_KB.copy()
        after_KB[np.unique(task_R)] *= decay
        share_RG = here_RG / here_RG.sum(axis=1, keepdims=True)
        np.add.at(after_KB, (np.broadcast_to(task_R[:, None], bin_RG.shape), bin_RG), share_RG)
        sides.append(after_KB)
    return LengthStatistics(*sides)


def automatic_bands(
    statistics: LengthStatistics,
    edges: Int[np.ndarray, " E"],
    limit_K: Real[np.ndarray, " K"],
    options: ShapingConfig,
) -> tuple[Float[np.ndarray, "K 4"], PerTask]:
    """Each task's trapezoid from where its right responses lie, as far as that is not where the
    wrong ones lie.

        s = clip((max_L |F_right(L) - F_wrong(L)| - 1.36 sqrt(2 / n)) / difference, 0, 1)
        corners = s (q1 / (1 + margin), q2, q3, (1 + margin) q4) + (1 - s) (0, 0, limit, limit)

    q1..q4 are quantiles of the right lengths, n the rows. Equal distributions give s = 0, the band
    that holds every length.

    Returns:
      (corners, s): rising corners in [0, limit] tokens; all NEVER_TOKENS, and s = 0, for a task
      with fewer than options.auto_rows rows.
    Source: none; the paper (OpenVLThinkerV2, 2026) sets its corners by hand and leaves the search
    to future work.
    """
    rows_K = statistics.rows_K
    shares_2KB = [
        np.cumsum(side_KB, axis=1) / np.maximum(rows_K, 1e-12)[:, None]
        for side_KB in (statistics.right_KB, statistics.wrong_KB)
    ]
    difference_K = np.abs(shares_2KB[0] - shares_2KB[1]).max(axis=1)
    beyond_K = difference_K - CHANCE * np.sqrt(2.0 / np.maximum(rows_K, 1e-12))
    pressure_K = np.clip(beyond_K / options.auto_difference, 0.0, 1.0)
    known_K = rows_K >= options.auto_rows
    pressure_K = np.where(known_K, pressure_K, 0.0)
    limit_K = limit_K.astype(float)
    right_K4 = _quantiles(statistics.right_KB, edges, options.auto_quantiles)
    right_K4 *= np.array([1 / (1 + options.auto_margin), 1.0, 1.0, 1 + options.auto_margin])
    right_K4 = np.minimum(right_K4, limit_K[:, None])
    all_K4 = np.stack([0 * limit_K, 0 * limit_K, limit_K, limit_K], axis=1)
    mixed_K4 = pressure_K[:, None] * right_K4 + (1 - pressure_K[:, None]) * all_K4
    mixed_K4 = np.maximum.accumulate(mixed_K4, axis=1)  # rising, whatever rounding did
    return np.where(known_K[:, None], mixed_K4, NEVER_TOKENS), pressure_K


@dataclasses.dataclass(frozen=True)
class EntropyStatistics:
    """Sums over each task's first steps, float64 [K]: of entropies in nats, of tokens, of steps."""

    sum_K: np.ndarray
    tokens_K: np.ndarray
    steps_K: np.ndarray


def see_entropy(
    statistics: EntropyStatistics, sum_K: PerTask, tokens_K: PerTask, steps: int
) -> EntropyStatistics:
    """The statistics with one step more, for the tasks that had tokens in it and fewer than `steps`
    steps before."""
    early_K = (tokens_K > 0) & (statistics.steps_K < steps)
    return EntropyStatistics(
        statistics.sum_K + np.where(early_K, sum_K, 0.0),
        statistics.tokens_K + np.where(early_K, tokens_K, 0.0),
        statistics.steps_K + early_K,
    )


def automatic_envelope(
    statistics: EntropyStatistics, options: ShapingConfig
) -> tuple[Float[np.ndarray, "K 2"], Bool[np.ndarray, " K"]]:
    """Bounds around each task's early mean entropy H0, nats per token; they do not move again.

        low = clip(a H0, floor, ceiling),  high = clip(b H0, floor, ceiling)

    (a, b) = auto_entropy, (floor, ceiling) = auto_entropy_range.

    Returns:
      (bounds, known): a task that has not had options.auto_steps steps has bounds beyond any
      entropy.
    Source: none; the paper (OpenVLThinkerV2, 2026) sets its bounds by hand and leaves the search to
    future work.
    """
    early_K = statistics.sum_K / np.maximum(statistics.tokens_K, 1.0)
    known_K = statistics.steps_K >= options.auto_steps
    bounds_K2 = np.clip(early_K[:, None] * options.auto_entropy, *options.auto_entropy_range)
    return np.where(known_K[:, None], bounds_K2, [0.0, UNBOUNDED_NATS]), known_K


def _quantiles(
    weight_KB: Float[np.ndarray, "K B"], edges: Int[np.ndarray, " E"], shares: tuple[float, ...]
) -> Float[np.ndarray, "K Q"]:
    """Least lengths with at least these shares of the weight at or below them; within a bin of
    several lengths the weight is spread evenly. 0 without weight."""
    upto_KB = np.cumsum(weight_KB, axis=1)
    first_B, last_B = edges[:-1].astype(float), edges[1:] - 1.0
    out_KQ = np.zeros((len(weight_KB), len(shares)))
    for k, (weight_B, upto_B) in enumerate(zip(weight_KB, upto_KB, strict=True)):
        for q, share in enumerate(shares if upto_B[-1] > 0 else ()):
            wanted = share * upto_B[-1]
            # The first bin that reaches the share and holds anything.
            b = int(np.argmax((upto_B >= wanted * (1 - 1e-12)) & (weight_B > 0)))
            part = np.clip((wanted - (upto_B[b] - weight_B[b])) / weight_B[b], 0.0, 1.0)
            out_KQ[k, q] = first_B[b] + part * (last_B[b] - first_B[b])
    return out_KQ
