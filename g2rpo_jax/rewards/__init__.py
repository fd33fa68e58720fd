"""Text in, score out: how right a response is, and how well formed.

    total = (1 - w) accuracy + w format + structure,  w = 0.1

`table.REWARDS` says what each problem type is scored by; a new one is one entry there, and a
reward of one's own needs none (`RewardConfig.custom`). Any text gets finite scores in bounded
time; what could not be read or scored is counted by kind (`parse.KINDS`). No JAX here, and nothing
slow to import: math-verify is loaded by child processes alone. See docs/rewards.md.
"""

import dataclasses
import functools

from g2rpo_jax.rewards.scorer import Scorer
from g2rpo_jax.rewards.settings import Item, RewardConfig, Score, TaskReward
from g2rpo_jax.rewards.table import (
    REWARDS,
    TASKS,
    TYPE_TASKS,
    Reward,
    canonical,
    task_of,
    truth_problem,
)

__all__ = [
    "REWARDS",
    "TASKS",
    "TYPE_TASKS",
    "Item",
    "Reward",
    "RewardConfig",
    "Score",
    "Scorer",
    "TaskReward",
    "canonical",
    "score",
    "task_of",
    "truth_problem",
]


def score(
    response: str,
    answer: str,
    problem_type: str,
    data_type: str = "image",
    config: RewardConfig | None = None,
) -> dict[str, float]:
    """Scores one response: {"accuracy", "format", "structure", "total"}.

    Args:
      response: any text.
      answer: the row's answer, with or without `<answer>` tags.
      problem_type: a key of REWARDS; case does not matter.
      data_type: "image", "video" or "text"; some problem types ask for other shapes by it.
    Returns:
      Floats, finite for any text: accuracy in [0, 1], format 0 or 1, structure in [0, 0.5], total
      in [0, 1.5] = 0.9 accuracy + 0.1 format + structure; structure is 0 where format is 0.
    Raises:
      ValueError: an unknown problem type.
    Source: OpenVLThinkerV2's release. We differ where it can be fooled; docs/rewards.md lists how.
    """
    result = dataclasses.asdict(
        _shared(config or RewardConfig()).score(response, answer, problem_type, data_type)
    )
    del result["failure"]
    return result


@functools.cache
def _shared(config: RewardConfig) -> Scorer:
    return Scorer(config)
