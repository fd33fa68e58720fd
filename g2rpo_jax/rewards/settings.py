"""What a Scorer is told (RewardConfig, TaskReward), is given (Item) and gives back (Score)."""

import dataclasses
import re
from typing import NamedTuple

from g2rpo_jax import tables

MODES = ("sound", "release")
FALLBACKS = ("rouge", "zero")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """How responses are scored.

    Attributes:
      format_weight: w, the weight of the format reward, taken from the accuracy's.
      structure: whether the structure reward is added to the total (it is reported either way).
      think_tag: `thinking` (OpenVLThinkerV2's release) or `think` (OneThinker).
      untagged_answers: a response without answer tags is scored as if all of it were the answer
        (both releases do); False gives it accuracy 0.
      mode: `sound`, or `release`: the authors' scores, where they can be fooled too
        (docs/rewards.md lists the differences).
      custom: "module:function" that scores before the built-in rewards do; "" for none.
      workers: child processes, started when first needed, for symbolic comparison, custom rewards
        and long texts.
      deadline_s: wall-clock limit of one sample in a child.
      memory_mb: address space of a child, MiB.
      judge_url: an OpenAI-style endpoint (".../v1/chat/completions") that scores open-ended
        answers; "" scores them by ROUGE.
      judge_model: the model to name in the request.
      judge_key_env: environment variable with the bearer token; "" sends none.
      judge_deadline_s: wall-clock limit of one request.
      judge_retries: further requests after a failure that may pass (no connection, 429, 5xx).
      judge_backoff_s: pause before the first retry; doubles with each.
      judge_concurrency: requests under way at once.
      judge_fallback: what decides when the judge does not: `rouge` or `zero`.
    """

    format_weight: float = 0.1
    structure: bool = True
    think_tag: str = "thinking"
    untagged_answers: bool = True
    mode: str = "sound"
    custom: str = ""
    workers: int = 2
    deadline_s: float = 5.0
    memory_mb: int = 1024
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    judge_deadline_s: float = 30.0
    judge_retries: int = 2
    judge_backoff_s: float = 0.5
    judge_concurrency: int = 8
    judge_fallback: str = "rouge"

    def __post_init__(self):
        _share("reward.format_weight", self.format_weight)
        if not self.think_tag.isidentifier() or self.think_tag == "answer":
            raise ValueError(
                f"reward.think_tag={self.think_tag!r} must be a bare tag name other than 'answer', "
                "such as 'thinking' or 'think'"
            )
        _choice("reward.mode", self.mode, MODES)
        if self.custom and not is_dotted(self.custom):
            raise ValueError(
                f"reward.custom={self.custom!r} must read 'module:function', such as "
                "'my_module:my_reward' for my_reward in my_module.py of the current folder"
            )
        if not 1 <= self.workers <= 256:
            raise ValueError(f"reward.workers={self.workers} must be processes in 1..256")
        _seconds("reward.deadline_s", self.deadline_s)
        if self.memory_mb < 512:
            raise ValueError(
                f"reward.memory_mb={self.memory_mb} must be at least 512: importing math-verify "
                "takes half of that"
            )
        if self.judge_url and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", self.judge_url):
            raise ValueError(
                f"reward.judge_url={self.judge_url!r} must be the whole address of the endpoint, "
                "such as http://localhost:8000/v1/chat/completions"
            )
        if self.judge_url and not self.judge_model:
            raise ValueError(
                "reward.judge_model is empty: name the model that reward.judge_url serves"
            )
        _seconds("reward.judge_deadline_s", self.judge_deadline_s)
        if not 0 <= self.judge_retries <= 20:
            raise ValueError(f"reward.judge_retries={self.judge_retries} must lie in 0..20")
        if not 0.0 <= self.judge_backoff_s <= 60.0:
            raise ValueError(
                f"reward.judge_backoff_s={self.judge_backoff_s} must be seconds in [0, 60]"
            )
        if not 1 <= self.judge_concurrency <= 256:
            raise ValueError(f"reward.judge_concurrency={self.judge_concurrency} is not in 1..256")
        _choice("reward.judge_fallback", self.judge_fallback, FALLBACKS)


@dataclasses.dataclass(frozen=True)
class TaskReward:
    """What differs for the rows of one task.

    Attributes:
      reward: "" for the reward of the row's problem type (after `RewardConfig.custom`, if any); a
        key of REWARDS or ALTERNATIVES; an ensemble of them, such as "worst(OCR, bleu)"; or
        "module:function", a custom reward.
      format_weight: None for RewardConfig's.
    """

    reward: str = ""
    format_weight: float | None = None

    def __post_init__(self):
        if self.format_weight is not None:
            _share("format_weight of a task", self.format_weight)


class Item(NamedTuple):
    """One response and the row it answers.

    Attributes:
      response: any text.
      answer: the row's, with or without tags.
      problem_type: a key of REWARDS; case does not matter.
      data_type: "image", "video" or "text".
      task: the row's task; looked up in a Scorer's `by_task`.
      question: the row's question, shown to the judge of open-ended answers; may be empty.
    """

    response: str
    answer: str
    problem_type: str
    data_type: str = "image"
    task: str = ""
    question: str = ""


class Question(NamedTuple):
    """What is shown to the judge of open-ended answers."""

    question: str
    reference: str
    response: str


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """The scores of one response; all 0 if `failure` is one of `parse.OURS`.

    Attributes:
      accuracy: in [0, 1].
      format: 1 if the response is well formed, else 0 (a custom reward: in [0, 1]).
      structure: in [0, 0.5]; 0 where format is 0 (a custom reward: in [0, 1]).
      total: (1 - w) accuracy + w format + structure: in [0, 1.5] (a custom reward: in [0, 2]).
      failure: a key of `parse.KINDS` if something could not be read or scored, else None.
    """

    accuracy: float
    format: float
    structure: float
    total: float
    failure: str | None = None


def is_dotted(reward: str) -> bool:
    """Whether a reward's name is a path "module:function" rather than a key of REWARDS."""
    return bool(_DOTTED.fullmatch(reward))


def _share(field: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{field}={value} must lie in [0, 1]")


def _seconds(field: str, value: float) -> None:
    if not 0.0 < value < 3600.0:
        raise ValueError(f"{field}={value} must be seconds in (0, 3600)")


def _choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = tables.nearest(value, choices) or ": use one of them"
        raise ValueError(f"{field}={value!r} is none of {', '.join(choices)}{hint}")
