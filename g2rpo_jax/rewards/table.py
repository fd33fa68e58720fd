"""What scores which problem type, and the score of one response as far as it needs no child.

`REWARDS` at the foot has one entry per problem type; a new one is one entry there (and in
`RELEASE` if the release scores it otherwise). `ALTERNATIVES` are further rewards that a task may
name, and `ENSEMBLES` put several together.
"""

import collections
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from g2rpo_jax import tables
from g2rpo_jax.rewards import (
    actions,
    answers,
    bleu,
    boxes,
    detection,
    ensembles,
    frames,
    math,
    parse,
    release,
    rouge,
    text,
    trajectory,
)

Symbolic = Callable[[str, str], float]  # (answer, truth) -> in [0, 1]


class Reward(NamedTuple):
    """What scores one problem type.

    Attributes:
      accuracy: (answer, truth, data_type) -> in [0, 1], or None to let symbolic comparison decide.
        Raises parse.Unscorable for what it cannot read. Must be bounded in time for any text:
        short texts are scored in the training process (`scorer`).
      structure: (answer, truth, data_type) -> in [0, 0.5].
      symbolic: whether `accuracy` may return None.
    """

    accuracy: Callable[[str, str, str], float | None]
    structure: Callable[[str, str, str], float]
    symbolic: bool = False


class Mode(NamedTuple):
    """How texts are read and which table scores them."""

    response: Callable[[str, str], parse.Parts]
    rewards: Mapping[str, Reward]


class Graded(NamedTuple):
    """The parts of a score; `pending` is (answer, truth) where symbolic comparison must decide."""

    accuracy: float
    format: float
    structure: float
    failure: str | None = None
    pending: tuple[str, str] | None = None


def grade(
    response: str,
    answer: str,
    problem_type: str,
    data_type: str,
    *,
    mode: str,
    think_tag: str,
    untagged: bool,
    skip_accuracy: bool = False,
) -> Graded:
    """Scores one response, symbolic comparison left pending.

    Args:
      problem_type: a key of REWARDS, as `canonical` gives it, or what `named` takes.
      untagged: a response without answer tags is scored as if all of it were the answer.
      skip_accuracy: leave accuracy 0: somebody else decides it.
    """
    how = MODES[mode]
    reward = how.rewards.get(problem_type) or named(problem_type, mode)
    accuracy, structure, failure, pending = 0.0, 0.0, None, None
    try:
        parts = how.response(response, think_tag)
        truth = parse.truth(answer)
        if (parts.tagged or untagged) and not skip_accuracy:
            try:
                found = reward.accuracy(parts.answer, truth, data_type)
                if found is None:
                    pending = parts.answer, truth
                else:
                    accuracy = found
            except parse.Unscorable as problem:
                failure = problem.kind
        if not parts.tagged and failure != "bad_truth":
            failure = "no_answer_tags"  # the root of whatever else could not be read
        if parts.well_formed:
            structure = reward.structure(parts.answer, truth, data_type)
    except MemoryError:
        raise
    except Exception:
        return failed("internal_error")
    return Graded(accuracy, float(parts.well_formed), structure, failure, pending)


def resolved(graded: Graded, verdict: float | str) -> Graded:
    """`graded` with what symbolic comparison said: an accuracy, or a key of parse.KINDS."""
    if verdict in parse.OURS:
        return failed(verdict)
    if isinstance(verdict, str):
        untagged = graded.failure == "no_answer_tags" and verdict != "bad_truth"
        return graded._replace(failure=graded.failure if untagged else verdict, pending=None)
    return graded._replace(accuracy=verdict, pending=None)


def failed(kind: str) -> Graded:
    """The score where the scoring failed: all 0."""
    return Graded(0.0, 0.0, 0.0, kind)


@functools.lru_cache
def named(name: str, mode: str = "sound") -> Reward:
    """The reward that a task names: a key of REWARDS or ALTERNATIVES, or an ensemble of such.

    Raises:
      ValueError: an unknown name, or an ensemble that cannot be put together.
    """
    known = MODES[mode].rewards
    ensemble = ensembles.members(name, known)
    if ensemble is None:
        return tables.lookup(known, name, kind="reward")
    combine, parts = ensemble
    rewards = [known[part] for part in parts]
    symbolic = [part for part, reward in zip(parts, rewards, strict=True) if reward.symbolic]
    if symbolic:
        raise ValueError(
            f"{name!r}: {symbolic[0]!r} is compared in a child process, one answer at a time, and"
            " cannot be part of an ensemble: leave it out, or write a reward of your own"
        )
    accuracies = [reward.accuracy for reward in rewards]
    return Reward(
        functools.partial(ensembles.accuracy, combine, accuracies),
        lambda *row: min(reward.structure(*row) for reward in rewards),
    )


def no_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 for anything: the problem type asks for no JSON shape."""
    return 0.5


def truth_problem(answer: Any, problem_type: str, data_type: str = "image") -> str | None:
    """Why a row's answer cannot be scored against (None: it can); in-process checks only.

    An answer that does not get accuracy 1 against itself cannot be reached by any response.
    Raises:
      ValueError: an unknown problem type.
    """
    name = canonical(problem_type)
    truth = parse.truth(answer)
    where = f"answer {truth[:80]!r} of a row of problem type {name!r}"
    try:
        itself = REWARDS[name].accuracy(truth, truth, data_type)
    except parse.Unscorable as problem:
        return f"{where}: {problem.__cause__ or problem}"
    return None if itself in (None, 1.0) else f"{where} scores {itself} on itself"


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

    Its `task_type` where it has one; else (OneThinker's own files) its problem type in lower case
    with underscores, segmentation split by data type ("segmentation_image").
    Raises:
      ValueError: without a task type, an unknown problem type.
    """
    if isinstance(task_type, str) and task_type.strip():
        return task_type.strip().lower()
    name = canonical(problem_type).lower().replace(" ", "_").replace("-", "_")
    if name != "segmentation":
        return name
    return "segmentation_video" if data_type == "video" else "segmentation_image"


# The task types of OpenVLThinkerV2's rows, and the tasks that rows without one get besides.
TASKS = (
    "spatial_grounding",
    "spatial_reasoning",
    "general_vqa_science_stem",
    "math_reasoning",
    "chart_figure_qa",
    "ocr",
)
TYPE_TASKS = (
    "multiple_choice",
    "numerical",
    "regression",
    "math",
    "open_ended",
    "temporal_grounding",
    "spatial_temporal_grounding",
    "tracking",
    "segmentation_image",
    "segmentation_video",
    "counting",
    "detection",
    "trajectory",
    "label_set",
    "gui_action",
    "tool_calls",
)
# problem_type -> what scores it
REWARDS: dict[str, Reward] = {
    "multiple choice": Reward(answers.multiple_choice, no_structure),
    "numerical": Reward(answers.numerical, no_structure),
    "regression": Reward(answers.regression, no_structure),
    "math": Reward(math.equal_if_plain, no_structure, symbolic=True),
    "OCR": Reward(text.ocr, no_structure),
    "open-ended": Reward(rouge.open_ended, no_structure),
    "spatial grounding": Reward(boxes.spatial_grounding, boxes.box_structure),
    "temporal grounding": Reward(frames.temporal_grounding, frames.span_structure),
    "spatial-temporal grounding": Reward(
        frames.spatial_temporal_grounding, frames.spatial_temporal_structure
    ),
    "tracking": Reward(frames.tracking, frames.tracking_structure),
    "segmentation": Reward(boxes.segmentation, boxes.segmentation_structure),
    "counting": Reward(answers.counting, no_structure),
    "detection": Reward(detection.detection, detection.detection_structure),
    "trajectory": Reward(trajectory.trajectory, trajectory.trajectory_structure),
    "label set": Reward(answers.label_set, no_structure),
    "GUI action": Reward(actions.gui_action, actions.gui_structure),
    "tool calls": Reward(actions.tool_calls, actions.tool_structure),
}
# name -> a reward that a task may name for its rows in place of their problem type's
ALTERNATIVES: dict[str, Reward] = {
    "choice subset": Reward(answers.choice_subset, no_structure),
    "giou": Reward(boxes.generalised_grounding, boxes.box_structure),
    "detection precision": Reward(detection.detection_precision, detection.detection_structure),
    "bleu": Reward(bleu.bleu, no_structure),
    "bleu and rouge": Reward(bleu.bleu_and_rouge, no_structure),
    "strict GUI action": Reward(actions.strict_gui_action, actions.gui_structure),
}
ENSEMBLES = ensembles.ENSEMBLES
# Problem types that the authors' code scores otherwise.
RELEASE: dict[str, Reward] = {
    "multiple choice": Reward(release.multiple_choice, no_structure),
    "numerical": Reward(release.numerical, no_structure),
    "regression": Reward(release.regression, no_structure),
    "math": Reward(math.equal_if_plain, no_structure, symbolic=True),
    "OCR": Reward(release.ocr, no_structure),
    "open-ended": Reward(release.open_ended, no_structure),
    "spatial grounding": Reward(release.spatial_grounding, release.structure(release.has_box)),
    "temporal grounding": Reward(release.temporal_grounding, release.structure(release.has_span)),
    "spatial-temporal grounding": Reward(
        release.spatial_temporal_grounding, release.frames_structure(release.has_span_and_frames)
    ),
    "tracking": Reward(release.tracking, release.frames_structure(release.has_frames)),
    "segmentation": Reward(release.segmentation, release.structure(release.has_target)),
}
MODES = {
    "sound": Mode(parse.response, collections.ChainMap(REWARDS, ALTERNATIVES)),
    "release": Mode(release.response, collections.ChainMap(RELEASE, REWARDS, ALTERNATIVES)),
}
