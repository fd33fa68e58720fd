"""Held-out evaluation: greedy responses to every test row, scored by the training rewards."""

import dataclasses
from collections.abc import Sequence

import numpy as np

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
    pack,
    decode,
    scorer: Scorer,
    prompts: int,
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
    Returns:
      TaskScore by task name, in name order.
    """
    results: dict[str, list[tuple[float, float, int]]] = {}
    for start in range(0, len(items), prompts):
        part = items[start : start + prompts]
        inputs = pack([prompt for _, prompt in part], prompts)
        limit_P = np.where(np.arange(prompts) < len(part), engine.max_tokens, 0)
        out = engine.generate(params, inputs, np.arange(prompts), seed=0, limit_P=limit_P)
        texts = [decode(out.token_PGT[i, 0][out.mask_PGT[i, 0]]) for i in range(len(part))]
        scores = scorer.score_batch(
            [
                (text, example.answer, example.problem_type, example.data_type)
                for text, (example, _) in zip(texts, part, strict=True)
            ]
        )
        for i, ((example, _), score) in enumerate(zip(part, scores, strict=True)):
            results.setdefault(example.task, []).append(
                (score.accuracy, score.format, int(out.length_PG[i, 0]))
            )
    return {task: _summary(results[task]) for task in sorted(results)}


def _summary(rows: list[tuple[float, float, int]]) -> TaskScore:
    accuracy, form, length = np.array(rows, float).T
    n = len(rows)
    stderr = float(accuracy.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return TaskScore(float(accuracy.mean()), stderr, n, float(form.mean()), float(length.mean()))
