"""Which rows of earlier steps are trained on again.

A row is replayed whole, with all its responses and the log-probs it was sampled with, against which
the ratio is taken. Published methods put stored responses into a fresh group of the same prompt;
that needs the prompt to come back, an epoch later, when its log-probs are an epoch old.
"""

import dataclasses

import numpy as np

from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Which rows of earlier steps are trained on again; each of them once.

    Losses without a ratio (gpg) take replayed rows for fresh ones. Estimators with a
    state see a replayed row's rewards a second time.

    Attributes:
      name: entry of REPLAYS.
      share: share of batch.prompts that is replayed in a step that replays, as far as there are
        rows.
      every: steps from one that replays to the next.
      capacity: rows that are kept, the newest ones.
      max_age: steps after which a row that waits is dropped.
      min_advantage: of replayed rows, responses with |advantage| below this do not train (EFRame:
        1).
    """

    name: str = "none"
    share: float = 0.25
    every: int = 1
    capacity: int = 256
    max_age: int = 8
    min_advantage: float = 0.0

    def __post_init__(self):
        lookup(REPLAYS, self.name, kind="replay")
        if not 0 < self.share <= 1:
            raise ValueError(f"replay.share={self.share} must lie in (0, 1]")
        for field in ("every", "capacity", "max_age"):
            if not getattr(self, field) >= 1:
                raise ValueError(f"replay.{field}={getattr(self, field)} must be at least 1")
        if not self.min_advantage >= 0:
            raise ValueError(f"replay.min_advantage={self.min_advantage} must be at least 0")


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a rule may look at of R rows with G responses each.

    Attributes:
      reward_RG: float32.
      accuracy_RG: float32, raw.
      born_R: int, the step that sampled the row.
      random_R: float64 in (0, 1), drawn anew for every step.
    """

    reward_RG: np.ndarray
    accuracy_RG: np.ndarray
    born_R: np.ndarray
    random_R: np.ndarray


def none(stored: Stored, count: int) -> np.ndarray:
    """Replays nothing, and stores nothing: a row is trained on once.

    S = {}
    """
    del stored, count
    return np.zeros(0, np.int64)


def random(stored: Stored, count: int) -> np.ndarray:
    """Replays rows drawn uniformly.

        S = count of R rows, without replacement

    Source: RePO, "Replay-Enhanced Policy Optimization" (2025), its random retrieval.
    """
    return _highest(stored.random_R, count)


def recent(stored: Stored, count: int) -> np.ndarray:
    """Replays the rows that were sampled last: those nearest to the policy.

        S = the count rows with the largest birth step; ties by chance

    Source: RePO, "Replay-Enhanced Policy Optimization" (2025), its recency-based retrieval.
    """
    return _highest(stored.born_R + stored.random_R, count)


def highest_reward(stored: Stored, count: int) -> np.ndarray:
    """Replays the rows with the highest mean reward.

        S = the count rows with the largest mean_i R_i; ties by chance

    Source: RePO, "Replay-Enhanced Policy Optimization" (2025), its reward-oriented retrieval, of
    rows in place of responses.
    """
    return _highest(stored.reward_RG.mean(1), count, stored.random_R)


def max_variance(stored: Stored, count: int) -> np.ndarray:
    """Replays the rows whose rewards vary most.

        S = the count rows with the largest var_i R_i; ties by chance

    Source: RePO, "Replay-Enhanced Policy Optimization" (2025), its variance-driven retrieval, of
    rows in place of responses.
    """
    return _highest(stored.reward_RG.astype(float).var(1), count, stored.random_R)


def middle(stored: Stored, count: int) -> np.ndarray:
    """Replays rows about half of whose responses were right.

        bucket k = rows with k of G right; bucket ~ exp(-(k - G/2)^2 / 2), then a row of it

    Drawn without replacement (Gumbel's trick). Accuracies are added up and rounded to k.
    Source: ExGRPO, "Learning to Reason from Experience" (2025), its choice of questions. Its one
    success of least entropy for each, and its shaped ratio, are not here.
    """
    G = stored.accuracy_RG.shape[1]
    right_R = np.round(stored.accuracy_RG.sum(1))
    same_R = (right_R[:, None] == right_R[None]).sum(1)
    weight_R = -0.5 * (right_R - G / 2) ** 2 - np.log(same_R)
    return _highest(weight_R - np.log(-np.log(stored.random_R)), count)


def choose(options: ReplayConfig, stored: Stored, count: int) -> np.ndarray:
    """Places of the rows to replay, int64, at most `count` and all different.

    Raises:
      ValueError: unknown replay.
    """
    return lookup(REPLAYS, options.name, kind="replay")(stored, count)


def _highest(score_R: np.ndarray, count: int, tie_R: np.ndarray | None = None) -> np.ndarray:
    keys = (-score_R,) if tie_R is None else (-tie_R, -score_R)
    return np.lexsort(keys)[:count]


REPLAYS = {
    "none": none,
    "random": random,
    "recent": recent,
    "highest_reward": highest_reward,
    "max_variance": max_variance,
    "middle": middle,
}
