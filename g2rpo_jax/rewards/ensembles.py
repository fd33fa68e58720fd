"""Several rewards of one answer put together, so that no single one of them is worth fooling."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from g2rpo_jax import tables
from g2rpo_jax.rewards.parse import Unscorable

_CALL = re.compile(r"\s*([a-z_]+)\s*\((.*)\)\s*")

Combine = Callable[[Sequence[float]], float]


def worst(scores: Sequence[float]) -> float:
    """The least of several rewards: `worst(OCR, bleu)`.

        R = min_k R_k

    Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (2024), WCO.
    """
    return min(scores)


def mean_less_variance(scores: Sequence[float], weight: float) -> float:
    """The mean of several rewards less their disagreement: `mean_less_variance(0.5, OCR, bleu)`.

        R = max(0, mean_k R_k - L var_k R_k)

    The variance is that of the population.
    Source: Coste et al., "Reward Model Ensembles Help Mitigate Overoptimization" (2024), UWO; cut
    at 0 here.
    """
    mean = sum(scores) / len(scores)
    variance = sum((score - mean) ** 2 for score in scores) / len(scores)
    return min(1.0, max(0.0, mean - weight * variance))


def members(name: str, rewards: Mapping[str, Any]) -> tuple[Combine, list[str]] | None:
    """How an ensemble's name puts together which rewards; None if it is the name of none.

    Raises:
      ValueError: an unknown ensemble or reward in it, fewer than two of them, or no weight.
    """
    call = _CALL.fullmatch(name)
    if not call or name in rewards:
        return None
    combine = tables.lookup(ENSEMBLES, _signature(call[1]), kind="ensemble of rewards")
    given = [part.strip() for part in call[2].split(",")]
    if combine is mean_less_variance:
        combine, given = functools.partial(combine, weight=_weight(name, given[0])), given[1:]
    for part in given:
        tables.lookup(rewards, part, kind="reward")
    if len(given) < 2:
        raise ValueError(f"{name!r} puts together fewer than two rewards: name two or more")
    return combine, given


def _signature(word: str) -> str:
    return next((known for known in ENSEMBLES if known.startswith(f"{word}(")), word)


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0.0 <= weight <= 100.0:
        raise ValueError(
            f"{name!r}: {text!r} is no weight of the variance: begin with a number in [0, 100]"
        )
    return weight


def accuracy(
    combine: Combine, parts: Sequence[Callable], answer: str, truth: str, data_type: str
) -> float:
    """`combine` of what the parts say; a part that cannot read the answer says 0.

    Raises:
      Unscorable: the kind of the first, if none of them can; bad_truth of any.
    """
    scores, problems = [], []
    for part in parts:
        try:
            scores.append(part(answer, truth, data_type))
        except Unscorable as problem:
            if problem.kind == "bad_truth":
                raise
            problems.append(problem)
            scores.append(0.0)
    if len(problems) == len(parts):
        raise problems[0]
    return combine(scores)


# What one writes -> what it does with the rewards A, B ..
ENSEMBLES = {
    "worst(A, B)": worst,
    "mean_less_variance(L, A, B)": mean_less_variance,
}
