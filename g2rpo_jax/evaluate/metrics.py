"""Response and truth -> score in [0, 1], by the published rules of the benchmarks.

Every metric is a pure function `(answer, question) -> float | str`: it gets the answer that
`extract.answer_of` took out of the response, is bounded in time, and never raises on any text. A
metric that gives a problem type instead of a number leaves the response to the reward of that type
(mathematical equality is decided in the Scorer's killable worker).
`METRICS` at the foot names them.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from g2rpo_jax.evaluate import extract
from g2rpo_jax.evaluate.extract import words
from g2rpo_jax.rewards import answers, boxes, math, parse
from g2rpo_jax.rewards.text import edit_distance

MAX_TRUTH_CHARS = 10_000
FORMULA = "Handwritten Mathematical Expression Recognition"  # OCRBench's category of this name


@dataclasses.dataclass(frozen=True)
class Question:
    """What a response is scored against.

    Attributes:
      truths: the right answers; any one will do.
      choices: option letter -> its text; empty unless the question offers options.
      category: the benchmark's own subdivision; OCRBench's rule depends on it.
      problem_type, data_type, text: for the training rewards; a judge is shown the text.
      region: where points must lie: an image file's bytes (a mask; above 127 is inside).
    """

    truths: tuple[str, ...]
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)
    category: str = ""
    problem_type: str = "open-ended"
    data_type: str = "image"
    text: str = ""
    region: bytes | None = None


Metric = Callable[[str, Question], float | str]


def multiple_choice(answer: str, question: Question) -> float:
    """1 if the answer names the right option (see `extract.choice`), else 0.

    The truth is an option's letter or its text. Without listed options (the picture holds them)
    letters A to J are read.
    """
    choices = question.choices or dict.fromkeys("ABCDEFGHIJ", "")
    said = extract.choice(answer, choices)
    return float(said is not None and said in {_letter(t, choices) for t in question.truths})


def _letter(truth: str, choices: Mapping[str, str]) -> str | None:
    truth = extract.bare(truth)
    if truth.upper() in choices:
        return truth.upper()
    same = [k for k, text in choices.items() if text and words(text) == words(truth)]
    return same[0] if len(same) == 1 else None


def exact(answer: str, question: Question) -> float:
    """1 if the answer is a truth, case, punctuation and white space aside, else 0."""
    said = words(extract.bare(answer))
    return float(any(said == words(extract.bare(truth)) for truth in question.truths))


def contains(answer: str, question: Question) -> float:
    """1 if a truth's words stand in the answer in their order and together, else 0."""
    said = f" {words(answer)} "
    return float(any(words(t) and f" {words(t)} " in said for t in question.truths))


def relaxed(answer: str, question: Question) -> float:
    """ChartQA's relaxed accuracy: numbers within 5% of the truth, texts equal but for case.

    A final % divides by 100. The 5% hold for every number, years too, and a truth of 0 or one that
    is no number must be met as a text. 1,000 with a comma is a text: so says the published code,
    with which the paper's figures were made.
    Source: Masry et al. 2022, section 5.1, after Methani et al. 2020; pix2struct's
    relaxed_correctness, which VLMEvalKit uses.
    """
    return float(any(_relaxed(answer.strip(), truth) for truth in question.truths))


def _relaxed(said: str, truth: str) -> bool:
    a, b = _chart_number(said), _chart_number(truth)
    if a is not None and b:
        return abs(a - b) / abs(b) <= 0.05
    return said.lower() == truth.lower()


def _chart_number(text: str) -> float | None:
    if len(text) > parse.MAX_NUMBER_CHARS:
        return None
    scale = 100.0 if text.endswith("%") else 1.0
    try:
        value = float(text.rstrip("%") if scale > 1 else text) / scale
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def anls(answer: str, question: Question) -> float:
    """Average normalised Levenshtein similarity of DocVQA and InfoVQA, for one question.

    1 - distance / length of the longer text, after lower case and single blanks; the best of the
    truths; below 0.5 it counts 0.
    Source: Biten et al. 2019; at exactly 0.5 the challenge's script and VLMEvalKit give 0.5 where
    the paper's formula gives 0, and so do we.
    """
    return max((_similarity(answer, truth) for truth in question.truths), default=0.0)


def _similarity(said: str, truth: str) -> float:
    said, truth = (" ".join(text.strip().lower().split()) for text in (said, truth))
    longer = max(len(said), len(truth))
    # The distance is at least the difference of the lengths: long answers need no programme.
    if 2 * min(len(said), len(truth)) < longer or len(truth) > MAX_TRUTH_CHARS:
        return 0.0
    similarity = 1.0 - edit_distance(truth, said) / longer if longer else 1.0
    return similarity if similarity >= 0.5 else 0.0


def ocrbench(answer: str, question: Question) -> float:
    """1 if a truth is contained in the answer, else 0 (OCRBench's score is the sum of 1000 rows).

    Both in lower case, line breaks as blanks; for handwritten formulas case counts and all blanks
    go. Source: Liu et al. 2024, in VLMEvalKit's form.
    """

    def plain(text: str) -> str:
        text = text.strip().replace("\n", " ")
        return text.replace(" ", "") if question.category == FORMULA else text.lower()

    said = plain(answer)
    return float(any(plain(truth) in said for truth in question.truths if plain(truth)))


def iou_half(answer: str, question: Question) -> float:
    """1 if the answer's box overlaps the truth's with IoU >= 0.5, else 0 (RefCOCO's accuracy).

    Coordinates of both are thousandths of the image, as Qwen3-VL and OneThinker give them, or
    fractions where all four are at most 1. The TSV reader turns truths in pixels into thousandths.
    """
    said = _thousandths(answer)
    truths = map(_thousandths, question.truths)
    return float(any(said and right and boxes.iou(said, right) >= 0.5 for right in truths))


def _thousandths(text: str) -> list[float] | None:
    box = extract.box(text)
    if box and max(map(abs, box)) <= 1.0:
        return [1000.0 * v for v in box]
    return box


def points_inside(answer: str, question: Question) -> float:
    """Share of the answer's points that lie in the truth's region (RefSpatial-Bench).

    Points in thousandths, or in fractions where every coordinate is at most 1. Points outside the
    picture are outside the region. VLMEvalKit instead gives 1 where any one point is inside, which
    a grid of points over the whole picture meets.
    Source: Zhou et al. 2025 (RoboRefer): mean share of points inside the mask.
    """
    said = _fractions(extract.points(answer))
    inside = [_inside(point, question) for point in said]
    return float(np.mean(inside)) if inside else 0.0


def robospatial(answer: str, question: Question) -> float:
    """RoboSpatial-Home: yes or no; or the first point inside the truth's polygon.

    A yes/no answer counts by the word it begins with. The polygon is in fractions of the picture.
    Source: Song et al. 2025, in VLMEvalKit's form.
    """
    truth = question.truths[0].strip().lower() if question.truths else ""
    if truth in ("yes", "no"):
        return yes_no(answer, question)
    said = _fractions(extract.points(answer))
    return float(bool(said) and _inside(said[0], question))


def yes_no(answer: str, question: Question) -> float:
    """1 if the answer begins with the truth's yes or no as a word, else 0."""
    said = words(extract.bare(answer)).split(" ")[0].strip(".")
    truths = {words(truth) for truth in question.truths}
    return float(said in ("yes", "no") and said in truths)


def _fractions(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if any(max(abs(x), abs(y)) > 1.0 for x, y in found):
        return [(x / 1000.0, y / 1000.0) for x, y in found]
    return found


def _inside(point: tuple[float, float], question: Question) -> bool:
    x, y = point
    if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
        return False
    if question.region is not None:
        mask = _mask(question.region)
        if mask is None:
            return False
        rows, columns = mask.shape
        return bool(mask[min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)])
    return any(
        in_polygon(point, corners)
        for corners in map(extract.region, question.truths)
        if corners is not None
    )


def _mask(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("L")) > 127
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def in_polygon(point: tuple[float, float], corners: tuple[tuple[float, float], ...]) -> bool:
    """Whether a ray from the point to the right crosses the polygon's sides an odd number of times.

    Crossing number with half-open sides; what lies on a side may count either way.
    """
    x, y = point
    inside = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


# Axis -> relation -> its wordings. One relation of an axis excludes the others of that axis.
RELATIONS = {
    "side": {"left": ("left",), "right": ("right",)},
    "height": {
        "above": ("above", "over", "higher", "top", "on"),
        "below": ("below", "under", "beneath", "underneath", "lower", "bottom"),
    },
    "depth": {
        "front": ("front", "before"),
        "behind": ("behind", "back"),
    },
    "range": {
        "near": ("near", "nearer", "close", "closer", "closest", "nearest", "next", "beside"),
        "far": ("far", "farther", "further", "farthest", "furthest", "away"),
    },
    "inclusion": {"inside": ("inside", "in", "within"), "outside": ("outside", "out")},
}


def relation(answer: str, question: Question) -> float:
    """1 if the answer states the truth's spatial relation, else 0.

    With options it is a choice, with yes or no as truth a yes/no answer. Else the relations named
    in the answer (`RELATIONS`; "to the left of" is left) must be the truth's on every axis on which
    the truth names one, and no other of that axis: "left or right" is wrong.
    """
    if question.choices:
        return multiple_choice(answer, question)
    if any(words(truth) in ("yes", "no") for truth in question.truths):
        return yes_no(answer, question)
    said = _relations(answer)
    for truth in question.truths:
        right = _relations(truth)
        if right and all(said.get(axis) == names for axis, names in right.items()):
            return 1.0
    return exact(answer, question)


def _relations(text: str) -> dict[str, frozenset[str]]:
    spoken = re.sub(r"\bin (?=front\b)|\bon (?=(?:the|its) (?:left|right)\b)", "", words(text))
    tokens = set(spoken.split(" "))
    named = {
        axis: frozenset(name for name, forms in relations.items() if tokens & set(forms))
        for axis, relations in RELATIONS.items()
    }
    return {axis: names for axis, names in named.items() if names}


def short_answer(answer: str, question: Question) -> float:
    """Short open answers (MMMU's, CharXiv's): numbers equal to two decimals, or equal texts, or a
    truth of words contained in an answer of at most 20 words.

    The original protocols ask a language model to judge; this rule does not.
    """
    if exact(answer, question):
        return 1.0
    for truth in question.truths:
        right = _plain_number(truth)
        if right is not None:
            said = extract.number(answer)
            if said is not None and round(said, 2) == round(right, 2):
                return 1.0
        elif len(words(answer).split(" ")) <= 20 and contains(answer, question):
            return 1.0
    return 0.0


def _plain_number(text: str) -> float | None:
    try:
        return float(parse.number(extract.bare(text).rstrip("%")))
    except parse.Unscorable:
        return None


def mra(answer: str, question: Question) -> float:
    """Mean relative accuracy of a numeric answer (VSI-Bench); see rewards.answers.regression."""
    said = extract.number(answer)
    if said is None:
        return 0.0
    return max((_mra(said, truth) for truth in question.truths), default=0.0)


def _mra(said: float, truth: str) -> float:
    try:
        return answers.regression(repr(said), truth)
    except parse.Unscorable:
        return 0.0


def free_form_math(answer: str, question: Question) -> float | str:
    """Mathematical equality with the truth: plain comparison here, math-verify in the worker."""
    try:
        verdict = math.equal_if_plain(extract.boxed(answer) or answer, question.truths[0])
    except parse.Unscorable:
        return 0.0
    return "math" if verdict is None else verdict


def training_reward(answer: str, question: Question) -> str:
    """The accuracy reward of the row's problem type."""
    return question.problem_type


def choice_or(other: Metric) -> Metric:
    """Multiple choice where the question offers options, else `other`."""

    def metric(answer: str, question: Question) -> float | str:
        return (multiple_choice if question.choices else other)(answer, question)

    return metric


METRICS: dict[str, Metric] = {
    "multiple_choice": multiple_choice,
    "choice_or_math": choice_or(free_form_math),
    "choice_or_short": choice_or(short_answer),
    "exact": exact,
    "contains": contains,
    "short_answer": short_answer,
    "relaxed": relaxed,
    "anls": anls,
    "ocrbench": ocrbench,
    "iou_half": iou_half,
    "points_inside": points_inside,
    "robospatial": robospatial,
    "relation": relation,
    "yes_no": yes_no,
    "mra": mra,
    "math": free_form_math,
    "reward": training_reward,
}
