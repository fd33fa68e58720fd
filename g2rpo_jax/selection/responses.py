"""Which of a prompt's responses are trained on: keep masks [P, G].

A selection before the advantages decides what the estimator sees: what it leaves out moves nobody
and gets advantage 0. One after the advantages leaves the statistics whole and takes responses out
of the update alone. Either way a response that is left out has no tokens in the update: it counts
in no mean of the loss, and with `batch.packed_shares` it passes through no layer.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class Responses:
    """What a selection may look at, arrays [P, G].

    Attributes:
      reward_PG: float32, what advantages are computed from.
      length_PG: int or float, tokens.
      ended_PG: bool; False where the response was cut at the limit of tokens.
      valid_PG: bool; False for padding. What is not valid is never kept.
      adv_PG: float32 advantages; None before there are any.
    """

    reward_PG: np.ndarray
    length_PG: np.ndarray
    ended_PG: np.ndarray
    valid_PG: np.ndarray
    adv_PG: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Which of a prompt's responses train.

    Attributes:
      name: entry of SELECTIONS.
      share: share of a prompt's responses that gfpo, gfpo_efficiency, pods and cppo keep, rounded
        to whole responses, one at least. `batch.packed_shares` with shares times this make the
        update as much shorter.
      min_advantage: eframe leaves out responses with |advantage| below this.
    """

    name: str = "all"
    share: float = 0.5
    min_advantage: float = 0.05

    def __post_init__(self):
        lookup(SELECTIONS, self.name, kind="selection")
        if not 0 < self.share <= 1:
            raise ValueError(f"selection.share={self.share} must lie in (0, 1]")
        if not self.min_advantage >= 0:
            raise ValueError(f"selection.min_advantage={self.min_advantage} must be at least 0")


@dataclasses.dataclass(frozen=True)
class Selection:
    """An entry of SELECTIONS.

    Attributes:
      function: (responses, options) -> keep_PG, a part of responses.valid_PG.
      after: whether it reads advantages, and so acts on the update alone.
    """

    function: Callable[[Responses, SelectionConfig], np.ndarray]
    after: bool = False

    def __call__(self, responses: Responses, options: SelectionConfig) -> np.ndarray:
        return self.function(responses, options)


def every_response(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Keeps all responses.

    keep_i = valid_i
    """
    del options
    return responses.valid_PG.copy()


def gfpo(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Keeps the shortest responses of each prompt; advantages are over those alone.

        keep = the k shortest of G;  A_i = estimator over the kept, 0 elsewhere

    Sample more (`responses`) than are kept. Of equal lengths the earlier response is kept.
    Source: GFPO, "Sample More to Think Less: Group Filtered Policy Optimization for Concise
    Reasoning" (2025), its first metric. Its k that adapts to difficulty is not here.
    """
    length_PG = np.asarray(responses.length_PG, float)
    return _first(responses.valid_PG, length_PG, options.share)


def gfpo_efficiency(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Keeps the responses with the highest reward per token; advantages are over those alone.

        keep = the k of G with the largest R_i / L_i;  A_i = estimator over the kept, 0 elsewhere

    A response without tokens counts as one token long.
    Source: GFPO, "Sample More to Think Less" (2025), its second metric.
    """
    length_PG = np.maximum(np.asarray(responses.length_PG, float), 1.0)
    return _first(responses.valid_PG, -responses.reward_PG / length_PG, options.share)


def pods(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Keeps the responses whose rewards vary most; advantages are over those alone.

        keep = argmax over S of k of G of var{R_i : i in S}

    Such a set is made of some of the largest and the rest of the smallest rewards, so k + 1 sets
    are looked at. Of equal rewards the earlier response is kept among the smallest, the later one
    among the largest; of sets that vary alike the one with fewer of the largest is taken.
    Source: PODS, "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement
    Learning" (2025), max-variance down-sampling.
    """
    keep_PG = np.zeros_like(responses.valid_PG)
    for p, valid_G in enumerate(responses.valid_PG):
        places = np.flatnonzero(valid_G)
        order = places[np.argsort(responses.reward_PG[p, places], kind="stable")]
        k = _count(len(places), options.share)
        sets = [np.r_[order[: k - i], order[len(order) - i :]] for i in range(k + 1)]
        spread = [np.asarray(responses.reward_PG[p, s], float).var() if k else 0.0 for s in sets]
        keep_PG[p, sets[int(np.argmax(spread))]] = True
    return keep_PG


def cppo(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Keeps the responses with the largest |advantage| of each prompt; the others only give
    statistics.

        keep = the k of G with the largest |A_i|,  k = (1 - P) G,  P the pruning rate

    The paper fills the update up with other prompts: ask for `batch.prompts` / share of them. Of
    equal |A| the earlier response is kept.
    Source: CPPO, "Accelerating the Training of Group Relative Policy Optimization-Based Reasoning
    Models" (2025), P = 0.5. Its verl port prunes over the whole batch instead.
    """
    return _first(responses.valid_PG, -np.abs(responses.adv_PG), options.share)


def eframe(responses: Responses, options: SelectionConfig) -> np.ndarray:
    """Leaves out responses that say little, and those that were cut off and are praised.

        keep_i = |A_i| >= min_advantage  and not (A_i > 0 and i was cut off)

    Source: EFRame, "Deeper Reasoning via Exploration-Filter-Replay Reinforcement Learning
    Framework" (2025), the filter, with 0.05. For its replay see `replay`; its extra hot samples
    for prompts without a right response are not here.
    """
    praised_PG = (responses.adv_PG > 0) & ~responses.ended_PG
    strong_PG = np.abs(responses.adv_PG) >= options.min_advantage
    return responses.valid_PG & strong_PG & ~praised_PG


def _count(responses: int, share: float) -> int:
    """How many of so many responses are kept."""
    return min(responses, max(1, round(share * responses)))


def _first(valid_PG: np.ndarray, key_PG: np.ndarray, share: float) -> np.ndarray:
    """The responses with the smallest keys, a share of each prompt's valid ones."""
    keep_PG = np.zeros_like(valid_PG)
    for p, valid_G in enumerate(valid_PG):
        places = np.flatnonzero(valid_G)
        order = places[np.argsort(key_PG[p, places], kind="stable")]
        keep_PG[p, order[: _count(len(places), share)]] = True
    return keep_PG


SELECTIONS = {
    "all": Selection(every_response),
    "gfpo": Selection(gfpo),
    "gfpo_efficiency": Selection(gfpo_efficiency),
    "pods": Selection(pods),
    "cppo": Selection(cppo, after=True),
    "eframe": Selection(eframe, after=True),
}
