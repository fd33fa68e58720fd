"""Evaluation inside training: greedy responses to held-out rows, scored by the rewards."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from g2rpo_jax.evaluate.generate import respond
from g2rpo_jax.evaluate.statistics import mean_and_error
from g2rpo_jax.rewards import Scorer
from g2rpo_jax.rollout.engine import Engine


@dataclasses.dataclass(frozen=True)
class TaskScore:
    """One task's result: mean accuracy in [0, 1], its standard error over rows, row count, mean
    format score, mean response length in tokens."""

    accuracy: float
    stderr: float
    rows: int
    format: float
    length_tokens: float


def mean_accuracy(scores: dict[str, TaskScore]) -> float:
    """Unweighted mean over tasks."""
    return float(np.mean([score.accuracy for score in scores.values()]))


def evaluate(
    engine: Engine,
    params,
    items: Sequence[tuple],
    pack: Callable,
    decode: Callable,
    scorer: Scorer,
    prompts: int,
    limits: Mapping[str, int] | None = None,
) -> dict[str, TaskScore]:
    """Greedy accuracy per task.

    Args:
      engine: a greedy engine of one response per prompt.
      params: model parameters.
      items: (Example, Prompt) pairs; all are used.
      pack: (list of prompts, rows) -> RowInputs, padded with filler rows.
      decode: token ids -> text.
      scorer: the reward.
      prompts: rows decoded together.
      limits: tokens that responses to a task's rows may have; default the engine's for all.
    Returns:
      TaskScore by task name, in name order.
    """
    results: dict[str, list[tuple[float, float, int]]] = {}
    for start in range(0, len(items), prompts):
        part = items[start : start + prompts]
        cut = [limits[example.task] for example, _ in part] if limits else None
        answered = respond(engine, params, [p for _, p in part], prompts, pack, decode, limits=cut)
        said = [group[0] for group in answered]
        scores = scorer.score_batch(
            [example.item(response.text) for response, (example, _) in zip(said, part, strict=True)]
        )
        for (example, _), response, score in zip(part, said, scores, strict=True):
            results.setdefault(example.task, []).append(
                (score.accuracy, score.format, response.tokens)
            )
    return {task: _summary(results[task]) for task in sorted(results)}


def _summary(rows: list[tuple[float, float, int]]) -> TaskScore:
    accuracy, form, length = np.array(rows, float).T
    mean, error = mean_and_error(accuracy)
    return TaskScore(mean, error, len(rows), float(form.mean()), float(length.mean()))
