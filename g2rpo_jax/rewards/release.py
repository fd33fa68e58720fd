"""The authors' scores, where they can be fooled too: `RewardConfig.mode = "release"`.

Every function scores as OneThinker's and OpenVLThinkerV2's reward code does, exploits included,
with four departures, all of them safe: the score is finite and in [0, 1] (a NaN is 0), time is
linear where theirs is not, texts past the limits of `rouge` and `math` score 0, and answers are
not evaluated as Python (their multiple choice and a fallback of their math hand them to sympy's
parser). docs/rewards.md has an example of each difference from the sound mode.
"""

import itertools
import json
import math
import re
import struct
from typing import Any

from g2rpo_jax.rewards import answers, parse, rouge, text
from g2rpo_jax.rewards.parse import Parts, Unscorable
from g2rpo_jax.rewards.stem import stem

_DELIMITER = re.compile("([<>/])")
_WORD = re.compile("[a-z0-9]++")
_COMMAND = re.compile(r"\\(?:text|boxed|mathrm|textbf|mathbf)\{(.*)\}", re.DOTALL)


def response(whole: str, think_tag: str = "thinking") -> Parts:
    """Takes a response apart as the release does.

    White space around every `<`, `>` and `/` goes first, in the answer too (`a < b` becomes
    `a<b`); the tags of a well-formed response may occur again inside; an empty answer is replaced
    by the whole response.
    """
    pieces = _DELIMITER.split(whole)
    # Odd pieces are delimiters; what lies between two of them loses both ends.
    clean = "".join(
        piece if i % 2 else _trimmed(piece, i > 0, i + 1 < len(pieces))
        for i, piece in enumerate(pieces)
    ).strip()
    opened = clean.find("<answer>")
    closed = clean.find("</answer>", opened + len("<answer>")) if opened >= 0 else -1
    answer = clean[opened + len("<answer>") : closed].strip() if closed >= 0 else ""
    # The first place where thinking ends and an answer begins leaves the most room for the rest.
    turn = f"</{think_tag}><answer>"
    middle = clean.find(turn, len(think_tag) + 2) if clean.startswith(f"<{think_tag}>") else -1
    well_formed = (
        middle >= 0
        and clean.endswith("</answer>")
        and middle + len(turn) <= len(clean) - len("</answer>")
    )
    return Parts(answer or clean, closed >= 0, well_formed)


def _trimmed(piece: str, left: bool, right: bool) -> str:
    piece = piece.lstrip() if left else piece
    return piece.rstrip() if right else piece


def multiple_choice(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if both are the same letter or text after the release's normalisation, else 0.

    Followed is mathruler's: `\\text{}` and `\\boxed{}`, braces, `$`, `%`, white space and one pair
    of brackets are dropped, case is ignored. Its symbolic comparison (`2B - B` is `B`) is not.
    Raises:
      Unscorable: too_long.
    """
    if len(answer) > answers.MAX_CHOICE_CHARS:
        raise Unscorable("too_long")
    return float(_choice(answer) == _choice(truth))


def _choice(written: str) -> str:
    written = "".join(written.split()).replace("\\(", "").replace("\\)", "")
    while (match := _COMMAND.fullmatch(written)) is not None:
        written = match[1]
    written = re.sub("[${}%]", "", written).lower()
    while len(written) > 2 and written[0] in "([" and written[-1] in ")]":
        inner = written[1:-1]
        # A single element in brackets is that element; a list in them, or a word, is not.
        if "," in inner or len(set(filter(str.isalpha, inner))) > 2:
            break
        written = inner
    return written


def numerical(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if both are equal after rounding to two decimals; infinity equals infinity.

    Raises:
      Unscorable: no_number, bad_truth.
    """
    right = parse.of_the_row(_number, truth)
    return float(round(_number(answer), 2) == round(right, 2))


def regression(answer: str, truth: str, data_type: str = "image") -> float:
    """Mean relative accuracy in float32, with |y| + 1e-8 as the scale.

    Raises:
      Unscorable: no_number, bad_truth.
    """
    right = _single(parse.of_the_row(_number, truth))
    said = _single(_number(answer))
    # Each operation in double and then rounded is the float32 operation, correctly rounded.
    error = _single(abs(_single(said - right)) / _single(abs(right) + _single(1e-8)))
    return sum(error < _single(1.0 - _single(0.5 + 0.05 * i)) for i in range(10)) / 10


def _number(written: str) -> float:
    try:
        return float(written.replace(",", ""))
    except ValueError:
        raise Unscorable("no_number") from None


def _single(value: float) -> float:
    """The nearest float32; an infinity beyond its range."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def open_ended(answer: str, truth: str, data_type: str = "image") -> float:
    """Mean of the F-measures of ROUGE-1, -2 and -L; words are a-z and 0-9, stemmed.

    Raises:
      Unscorable: too_long; no_words; bad_truth (no words, or too many).
    """
    if len(answer) > rouge.MAX_CHARS:
        raise Unscorable("too_long")
    right, said = _words(truth), _words(answer)
    if not 0 < len(right) <= rouge.MAX_TRUTH_WORDS:
        raise Unscorable("bad_truth")
    if not said:
        raise Unscorable("no_words")
    return rouge.mean_f(said, right)


def _words(written: str) -> list[str]:
    return [stem(word) if len(word) > 3 else word for word in _WORD.findall(written.lower())]


def temporal_grounding(answer: str, truth: str, data_type: str = "video") -> float:
    """IoU of the two spans; anything that Python's float() takes is a number."""
    said, right = _both(answer, truth)
    return _span_iou(said.get("time"), right.get("time"))


def spatial_grounding(answer: str, truth: str, data_type: str = "image") -> float:
    """IoU of the two boxes; anything that Python's float() takes is a number."""
    said, right = _both(answer, truth)
    return _box_iou(said.get("boxes"), right.get("boxes"))


def spatial_temporal_grounding(answer: str, truth: str, data_type: str = "video") -> float:
    """0.5 IoU of the spans + 0.5 mean box IoU over the frames that the answer chose to name."""
    said, right = _both(answer, truth)
    when = _span_iou(said.get("time"), right.get("time"))
    a, b = said.get("boxes"), right.get("boxes")
    where = 0.0
    if isinstance(a, dict) and isinstance(b, dict):
        common = [key for key in a if key in b]
        where = sum(_box_iou(a[key], b[key]) for key in common) / max(1, len(common))
    return 0.5 * when + 0.5 * where


def tracking(answer: str, truth: str, data_type: str = "video") -> float:
    """Mean box IoU over the truth's frames, 0 for a missing one."""
    said, right = _both(answer, truth)
    a, b = said.get("boxes"), right.get("boxes")
    if not isinstance(a, dict):
        raise Unscorable("no_boxes")
    if not isinstance(b, dict) or not b:
        raise Unscorable("bad_truth")
    return sum(_box_iou(a.get(key), box) for key, box in b.items()) / len(b)


def segmentation(answer: str, truth: str, data_type: str = "image") -> float:
    """image: 0.5 box + 0.25 + 0.25 points; video: 0.3 box + 0.3 time + 0.2 + 0.2 points."""
    said, right = _both(answer, truth)
    similar = []
    for field in ("positive_points", "negative_points"):
        a, b = said.get(field), right.get(field)
        if not _points(a):
            raise Unscorable("no_points")
        if not _points(b):
            raise Unscorable("bad_truth")
        similar.append(_points_similarity(a, b))
    overlap = _box_iou(said.get("boxes"), right.get("boxes"))
    if data_type == "image":
        return _finite(0.5 * overlap + 0.25 * similar[0] + 0.25 * similar[1])
    if data_type != "video":
        raise Unscorable("bad_truth")
    if not isinstance(said.get("time"), int | float):
        raise Unscorable("no_time")
    if not isinstance(right.get("time"), int | float):
        raise Unscorable("bad_truth")
    when = math.exp(-abs(_float(said["time"]) - _float(right["time"])) / 2.0)
    return _finite(0.3 * overlap + 0.3 * when + 0.2 * similar[0] + 0.2 * similar[1])


def structure(shape):
    """The structure reward of one shape: 0.5 if `shape(value, data_type)` holds, else 0."""

    def reward(answer: str, truth: str, data_type: str = "image") -> float:
        value = parse.attempt(lambda: _object(answer))
        return 0.5 * (value is not None and shape(value, data_type))

    return reward


def frames_structure(shape):
    """0.25 if `shape(value)` holds, and 0.25 x the share of the truth's frames that are keys of the
    answer's boxes, whatever stands under them."""

    def reward(answer: str, truth: str, data_type: str = "video") -> float:
        value, right = (parse.attempt(lambda t=t: _object(t)) for t in (answer, truth))
        if value is None:
            return 0.0
        share, a, b = 0.0, value.get("boxes", {}), (right or {}).get("boxes", {})
        if isinstance(a, dict) and isinstance(b, dict) and b:
            share = len(a.keys() & b.keys()) / len(b)
        return 0.25 * shape(value) + 0.25 * share

    return reward


def has_span(value: dict[str, Any], data_type: str = "video") -> bool:
    """Whether two numbers stand under `time`."""
    return _numbers(value.get("time"), 2)


def has_box(value: dict[str, Any], data_type: str = "image") -> bool:
    """Whether four numbers stand under `boxes`."""
    return _numbers(value.get("boxes"), 4)


def has_target(value: dict[str, Any], data_type: str = "image") -> bool:
    """Whether the parts of a segmentation answer are there."""
    points = _points(value.get("positive_points")) and _points(value.get("negative_points"))
    timed = data_type == "image" or isinstance(value.get("time"), int | float)
    return data_type in ("image", "video") and points and timed and has_box(value)


def has_frames(value: dict[str, Any]) -> bool:
    """Whether every value under `boxes` is a box; none at all will do."""
    found = value.get("boxes")
    return isinstance(found, dict) and all(_numbers(box, 4) for box in found.values())


def has_span_and_frames(value: dict[str, Any]) -> bool:
    """As `has_frames`, with any list of two under `time`."""
    when = value.get("time")
    return isinstance(when, list) and len(when) == 2 and has_frames(value)


def _both(answer: str, truth: str) -> tuple[dict[str, Any], dict[str, Any]]:
    right = parse.of_the_row(_object, truth)
    return _object(answer), right


def _object(written: str) -> dict[str, Any]:
    """A JSON object as Python reads it: NaN and Infinity are numbers."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        raise Unscorable("no_json") from None
    if not isinstance(value, dict):
        raise Unscorable("no_json")
    return value


def _float(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise Unscorable("not_finite") from None


def _numbers(value: Any, count: int) -> bool:
    """A list of `count` things that float() takes: texts and booleans too."""
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(parse.attempt(lambda v=v: _float(v)) is not None for v in value)


def _points(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_numbers(p, 2) for p in value)


def _span_iou(a: Any, b: Any) -> float:
    if not _numbers(a, 2) or not _numbers(b, 2):
        return 0.0
    (s, e), (start, end) = map(float, a), map(float, b)
    both = max(0.0, min(e, end) - max(s, start))
    either = max(e, end) - min(s, start)
    return _finite(both / either) if either > 1e-12 else 0.0


def _box_iou(a: Any, b: Any) -> float:
    if not _numbers(a, 4) or not _numbers(b, 4):
        return 0.0
    (x1, y1, x2, y2), (left, top, right, bottom) = map(float, a), map(float, b)
    width = max(0.0, min(x2, right) - max(x1, left))
    height = max(0.0, min(y2, bottom) - max(y1, top))
    areas = max(0.0, x2 - x1) * max(0.0, y2 - y1), max(0.0, right - left) * max(0.0, bottom - top)
    either = sum(areas) - width * height
    return _finite(width * height / either) if either > 1e-12 else 0.0


def _points_similarity(a: Any, b: Any) -> float:
    sums = []
    for order in itertools.permutations(range(3)):
        pairs = [(a[order[i]], b[i]) for i in range(3)]
        legs = [math.hypot(float(p[0]) - float(q[0]), float(p[1]) - float(q[1])) for p, q in pairs]
        if not any(map(math.isinf, legs)):
            sums.append(sum(legs))
    # A NaN in any point is in every sum.
    best = min(sums, default=math.inf)
    if not math.isfinite(best):
        return 0.0
    try:
        return math.exp(-((best / 3.0) ** 2) / 5000.0)
    except OverflowError:
        raise Unscorable("not_finite") from None


def _finite(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


# Equal in both modes, on what `response` makes of the text.
ocr = text.ocr
