"""Text in, score out: how right a response is, and how well formed.

    total = (1 - w) accuracy + w format + structure,  w = 0.1

`REWARDS` at the foot says what each problem type is scored by; a new one is one entry there. Any
text gets finite scores in bounded time; what could not be read is counted by kind (`parse.KINDS`).
No JAX here, and nothing slow to import: math-verify is loaded by a child process alone.
"""

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from g2rpo_jax import tables
from g2rpo_jax.rewards import answers, boxes, math, parse, text


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """How responses are scored.

    Attributes:
      format_weight: w, the weight of the format reward, taken from the accuracy's.
      structure: whether the structure reward is added to the total (it is reported either way).
      think_tag: `thinking` (OpenVLThinkerV2's release) or `think` (OneThinker).
      untagged_answers: a response without answer tags is scored as if all of it were the answer
        (both releases do); False gives it accuracy 0.
      math_timeout_s: wall-clock limit of one symbolic comparison.
      math_memory_mb: address space of the process that makes it.
    """

    format_weight: float = 0.1
    structure: bool = True
    think_tag: str = "thinking"
    untagged_answers: bool = True
    math_timeout_s: float = 5.0
    math_memory_mb: int = 1024

    def __post_init__(self):
        if not 0.0 <= self.format_weight <= 1.0:
            raise ValueError(f"reward.format_weight={self.format_weight} must lie in [0, 1]")
        if not self.think_tag.isidentifier() or self.think_tag == "answer":
            raise ValueError(
                f"reward.think_tag={self.think_tag!r} must be a bare tag name other than 'answer', "
                "such as 'thinking' or 'think'"
            )
        if not 0.0 < self.math_timeout_s < 3600.0:
            raise ValueError(
                f"reward.math_timeout_s={self.math_timeout_s} must be seconds in (0, 3600)"
            )
        if self.math_memory_mb < 512:
            raise ValueError(
                f"reward.math_memory_mb={self.math_memory_mb} must be at least 512: importing "
                "math-verify takes half of that"
            )


class Item(NamedTuple):
    """One response and the row it answers; `answer` is the row's, with or without tags."""

    response: str
    answer: str
    problem_type: str
    data_type: str = "image"


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """The scores of one response.

    Attributes:
      accuracy: in [0, 1].
      format: 1 if the response is well formed, else 0.
      structure: in [0, 0.5]; 0 where format is 0.
      total: in [0, 1.5]: (1 - w) accuracy + w format + structure.
      failure: a key of `parse.KINDS` if something could not be read, else None.
    """

    accuracy: float
    format: float
    structure: float
    total: float
    failure: str | None = None


class Reward(NamedTuple):
    """What scores one problem type.

    Attributes:
      accuracy: (answer, truth, data_type) -> in [0, 1], or None to let the math worker decide.
        Raises parse.Unscorable for what it cannot read. Must be bounded in time for any text.
      structure: (answer, truth, data_type) -> in [0, 0.5].
    """

    accuracy: Callable[[str, str, str], float | None]
    structure: Callable[[str, str, str], float]


def no_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 for anything: the problem type asks for no JSON shape."""
    return 0.5


class Scorer:
    """Scores responses; owns the process that compares mathematical expressions.

    Attributes:
      failures: how many answers could not be read, by kind (`parse.KINDS`), since construction.

    Safe to share between threads. `close()` ends the process at once; else it ends with the
    Scorer.
    """

    def __init__(self, config: RewardConfig | None = None):
        self.config = config or RewardConfig()
        self.failures: collections.Counter[str] = collections.Counter()
        self._worker = math.MathWorker(self.config.math_timeout_s, self.config.math_memory_mb)
        self._verdicts: dict[tuple[str, str], float | str] = {}
        self._lock = threading.Lock()

    def score_batch(self, items: Iterable[Item | tuple[str, ...]]) -> list[Score]:
        """Scores of every item, in order.

        Raises:
          ValueError: an unknown problem type.
          RuntimeError: the math worker is needed and cannot be started.
        """
        return [self.score(*item) for item in items]

    def score(
        self, response: str, answer: str, problem_type: str, data_type: str = "image"
    ) -> Score:
        """The scores of one response; raises as `score_batch` does."""
        reward = REWARDS[canonical(problem_type)]
        parts = parse.response(response, self.config.think_tag)
        truth = parse.truth(answer)
        accuracy, structure, failure = 0.0, 0.0, None
        if parts.tagged or self.config.untagged_answers:
            accuracy, failure = self._accuracy(reward, parts.answer, truth, data_type)
        if not parts.tagged and failure not in NOT_THE_ANSWER:
            failure = "no_answer_tags"  # the root of whatever else could not be read
        if parts.well_formed:
            try:
                structure = reward.structure(parts.answer, truth, data_type)
            except Exception:
                failure = "internal_error"
        if failure:
            with self._lock:
                self.failures[failure] += 1
        form, weight = float(parts.well_formed), self.config.format_weight
        total = (1.0 - weight) * accuracy + weight * form
        return Score(accuracy, form, structure, total + structure * self.config.structure, failure)

    def close(self) -> None:
        """Ends the math worker; a later question starts another."""
        self._worker.close()

    def _accuracy(
        self, reward: Reward, answer: str, truth: str, data_type: str
    ) -> tuple[float, str | None]:
        try:
            accuracy = reward.accuracy(answer, truth, data_type)
            if accuracy is None:
                accuracy = self._symbolic(truth, answer)
        except parse.Unscorable as problem:
            return 0.0, problem.kind
        except RuntimeError as problem:
            # RecursionError is one: text did that. Others: no worker, which no text can cause.
            if isinstance(problem, RecursionError):
                return 0.0, "internal_error"
            raise
        except Exception:
            return 0.0, "internal_error"
        return accuracy, None

    def _symbolic(self, truth: str, answer: str) -> float:
        # The responses of a prompt often agree, and so do their overruns: ask once.
        key = truth, answer
        verdict = self._verdicts.get(key)
        if verdict is None:
            try:
                verdict = self._worker.equal(truth, answer)
            except parse.Unscorable as problem:
                verdict = problem.kind
            with self._lock:
                if len(self._verdicts) >= MAX_VERDICTS:
                    self._verdicts.clear()
                self._verdicts[key] = verdict
        if isinstance(verdict, str):
            raise parse.Unscorable(verdict)
        return verdict


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
    Source: OpenVLThinkerV2's release. We differ where it can be fooled; see each function.
    """
    result = dataclasses.asdict(
        _shared(config or RewardConfig()).score(response, answer, problem_type, data_type)
    )
    del result["failure"]
    return result


@functools.cache
def _shared(config: RewardConfig) -> Scorer:
    return Scorer(config)


def truth_problem(answer: str, problem_type: str, data_type: str = "image") -> str | None:
    """Why a row's answer cannot be scored against (None: it can); in-process checks only.

    An answer that does not get accuracy 1 against itself cannot be reached by any response.
    Raises:
      ValueError: an unknown problem type.
    """
    name = canonical(problem_type)
    truth = parse.truth(answer)
    try:
        itself = REWARDS[name].accuracy(truth, truth, data_type)
    except parse.Unscorable as problem:
        return f"answer {truth[:80]!r} of a row of problem type {name!r}: {problem}"
    if itself not in (None, 1.0):
        return f"answer {truth[:80]!r} of a row of problem type {name!r} scores {itself} on itself"
    return None


def canonical(problem_type: str) -> str:
    """The key of REWARDS that equals `problem_type`, case and outer white space aside.

    Raises:
      ValueError: there is none.
    """
    name = str(problem_type).strip()
    if name in REWARDS:
        return name
    known = {key.lower(): key for key in REWARDS}
    if name.lower() in known:
        return known[name.lower()]
    tables.lookup(REWARDS, name, kind="problem_type")
    raise AssertionError


def task_of(task_type: str | None, problem_type: str, data_type: str = "image") -> str:
    """The task of a row, for advantages, shaping and metrics.

    Its `task_type`, one of TASKS, where it has one; else (OneThinker's own files) its problem type,
    segmentation split by data type ("segmentation image").
    Raises:
      ValueError: an unknown task type; without one, an unknown problem type.
    """
    if isinstance(task_type, str) and task_type.strip():
        name = task_type.strip().lower()
        if name in TASKS:
            return name
        tables.lookup(dict.fromkeys(TASKS), name, kind="task_type")
    name = canonical(problem_type)
    return f"{name} {data_type}" if name == "segmentation" else name


MAX_VERDICTS = 20_000
# Failures that say nothing about what the model wrote.
NOT_THE_ANSWER = frozenset(
    {"bad_truth", "math_deadline", "math_memory", "math_crash", "math_error", "internal_error"}
)
TASKS = (
    "spatial_grounding",
    "spatial_reasoning",
    "general_vqa_science_stem",
    "math_reasoning",
    "chart_figure_qa",
    "ocr",
)
# problem_type -> what scores it
REWARDS: dict[str, Reward] = {
    "multiple choice": Reward(answers.multiple_choice, no_structure),
    "numerical": Reward(answers.numerical, no_structure),
    "regression": Reward(answers.regression, no_structure),
    "math": Reward(math.equal_if_plain, no_structure),
    "OCR": Reward(text.ocr, no_structure),
    "spatial grounding": Reward(boxes.spatial_grounding, boxes.box_structure),
}
