"""Evaluation inside training: greedy responses to held-out rows, scored by the rewards."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from g2rpo_jax.evaluate.beside import Beside
from g2rpo_jax.evaluate.generate import respond
from g2rpo_jax.evaluate.statistics import mean_and_error
from g2rpo_jax.parallel.processes import Group
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
    group: Group | None = None,
) -> dict[str, TaskScore]:
    """Greedy accuracy per task.

    Args:
      engine: a greedy engine of one response per prompt.
      params: model parameters.
      items: (Example, Prompt) pairs; all are used. Where the prompt is None, another process has
        it, and answers.
      pack: (list of prompts, rows) -> RowInputs, padded with filler rows.
      decode: token ids -> text.
      scorer: the reward.
      prompts: rows decoded together, in all processes.
      limits: tokens that responses to a task's rows may have; default the engine's for all.
      group: the processes of the run, which all call this; None: this one alone.
    Returns:
      TaskScore by task name, in name order; of all items, the same in all processes.
    """
    group = group or Group()
    own = [i for i, (_, prompt) in enumerate(items) if prompt is not None]
    most, each = max(group.gather(len(own), "held-out rows")), prompts // group.count
    tokens: dict[int, int] = {}
    with Beside(scorer, group) as beside:  # a batch is scored while the next one is answered
        for start in range(0, most, each):
            part = own[start : start + each]
            cut = [limits[items[i][0].task] for i in part] if limits else None
            chosen = [items[i][1] for i in part]
            answered = respond(engine, params, chosen, each, pack, decode, limits=cut)
            said = {i: responses[0] for i, responses in zip(part, answered, strict=True)}
            tokens |= {i: answer.tokens for i, answer in said.items()}
            beside.add(
                [
                    (i, functools.partial(items[i][0].item, answer.text))
                    for i, answer in said.items()
                ]
            )
        scored = beside.finish()
    found = {i: (score.accuracy, score.format, tokens[i]) for i, (_, score) in scored.items()}
    for others in group.gather(found, "scores of held-out rows"):
        found = others | found
    results: dict[str, list[tuple[float, float, int]]] = {}
    for i, (example, _) in enumerate(items):
        results.setdefault(example.task, []).append(found[i])
    return {task: _summary(results[task]) for task in sorted(results)}


def _summary(rows: list[tuple[float, float, int]]) -> TaskScore:
    accuracy, form, length = np.array(rows, float).T
    mean, error = mean_and_error(accuracy)
    return TaskScore(mean, error, len(rows), float(form.mean()), float(length.mean()))
