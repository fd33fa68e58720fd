"""Untrusted text -> parts. Every scan is linear in the text, and every part is bounded and finite.

A response comes from a sampled model: it may be a megabyte long, hold lone surrogates, NaN or a
thousand brackets. What cannot be read raises `Unscorable` with one of the kinds in `KINDS`, which
`Scorer` counts; nothing here raises anything else.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")

# Longer ones are refused rather than scored: no honest answer comes near them, and the cost of
# reading a number or a JSON text is not linear in CPython.
MAX_NUMBER_CHARS = 400
MAX_JSON_CHARS = 50_000
# Image coordinates are 0..1000. Far outside, products of coordinates would lose every digit.
MAX_COORDINATE = 1e6


class Unscorable(Exception):
    """An answer that gets accuracy 0 because of `kind`, a key of `KINDS`."""

    def __init__(self, kind: str):
        super().__init__(KINDS[kind])
        self.kind = kind


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """A response, taken apart.

    Attributes:
      answer: what stands between the first `<answer>` and the next `</answer>`, stripped; the
        whole response, stripped, where there is no such pair.
      tagged: whether there is such a pair.
      well_formed: the response is `<thinking>..</thinking><answer>..</answer>`: each tag once, in
        this order, nothing but white space outside.
    """

    answer: str
    tagged: bool
    well_formed: bool


@functools.lru_cache(maxsize=16)
def _tags(think_tag: str) -> re.Pattern[str]:
    # Possessive quantifiers: white space is never given back, so a run of it costs its length once.
    return re.compile(rf"<\s*+(/?)\s*+({re.escape(think_tag)}|answer)\s*+>")


def response(text: str, think_tag: str = "thinking") -> Parts:
    """Takes a response apart at its tags; white space inside a tag (`< answer >`) is allowed.

    Only tags are read so; `a < b` and `1 / 2` keep their spaces (the release drops them). The
    release's pattern also lets a well-formed response repeat its tags; here each occurs once.
    """
    order = []
    first_open = start = end = None
    first_close = last_end = None
    gap = True
    for match in _tags(think_tag).finditer(text):
        tag = match[1] + match[2]
        if len(order) == 0:
            first_open = match.start()
        if len(order) == 1:
            first_close = match.end()
        if len(order) == 2:
            gap = not text[first_close : match.start()].strip()
        last_end = match.end()
        if tag == "answer" and start is None:
            start = match.end()
        elif tag == "/answer" and start is not None and end is None:
            end = match.start()
        if len(order) < 5:
            order.append(tag)
        elif end is not None:
            break  # four tags make a well-formed response: nothing further can matter
    well_formed = (
        order == [think_tag, f"/{think_tag}", "answer", "/answer"]
        and gap
        and not text[:first_open].strip()
        and not text[last_end:].strip()
    )
    if end is None:
        return Parts(text.strip(), False, False)
    return Parts(text[start:end].strip(), True, well_formed)


def truth(answer: str) -> str:
    """A row's answer without its `<answer>` tags, if it has any."""
    return response(answer).answer


def number(text: str) -> Decimal:
    """A finite number; thousands separators are ignored. Its float is finite too.

    Raises:
      Unscorable: no_number; not_finite (NaN, Infinity, 1e400); too_long.
    """
    text = text.strip().replace(",", "")
    if len(text) > MAX_NUMBER_CHARS:
        raise Unscorable("too_long")
    try:
        value = float(text)
    except ValueError:
        raise Unscorable("no_number") from None
    if not math.isfinite(value):
        raise Unscorable("not_finite")
    # An underflow (1e-999999) is 0 in both forms.
    return Decimal(text) if value else Decimal(0)


def json_object(text: str) -> dict[str, Any]:
    """A JSON object (RFC 8259: no NaN, no Infinity); all of its numbers are finite as floats.

    Raises:
      Unscorable: no_json (also nested too deeply); not_finite; too_long.
    """
    if len(text) > MAX_JSON_CHARS:
        raise Unscorable("too_long")
    return _json_object(text)


# Accuracy and structure read the same answer, the responses of a group the same truth. Nobody
# changes what is returned.
@functools.lru_cache(maxsize=64)
def _json_object(text: str) -> dict[str, Any]:
    # Only these can be beyond float64; a function call for each number is what parsing costs.
    careful = _WILD.search(text) is not None
    read = _json_number if careful else None
    try:
        value = json.loads(text, parse_int=read, parse_float=read, parse_constant=_not_finite)
    except (ValueError, RecursionError):
        raise Unscorable("no_json") from None
    if not isinstance(value, dict):
        raise Unscorable("no_json")
    return value


_WILD = re.compile("[0-9][eE]|[0-9]{300}")


def _json_number(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARS:
        raise Unscorable("too_long")
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> float:
    raise Unscorable("not_finite")


def numbers(value: Any, count: int, kind: str = "no_box") -> list[float]:
    """A JSON value that must be a list of `count` coordinates or seconds.

    Raises:
      Unscorable: `kind`, unless it is one with every |number| <= MAX_COORDINATE.
    """
    if not isinstance(value, list) or len(value) != count:
        raise Unscorable(kind)
    for number in value:
        # bool is an int in Python, and `true` is no coordinate.
        if type(number) not in (float, int) or not -MAX_COORDINATE <= number <= MAX_COORDINATE:
            raise Unscorable(kind)
    return value


def of_the_row(read: Callable[[str], T], truth: str) -> T:
    """`read(truth)`; what it cannot read is the row's fault.

    Raises:
      Unscorable: bad_truth.
    """
    try:
        return read(truth)
    except Unscorable as problem:
        raise Unscorable("bad_truth") from problem


def attempt(read: Callable[[], T]) -> T | None:
    """`read()`, or None if that is Unscorable."""
    try:
        return read()
    except Unscorable:
        return None


def shaped(check: Callable[[], Any]) -> float:
    """The structure reward of one shape: 0.5 if `check` can read it, else 0."""
    return 0.0 if attempt(check) is None else 0.5


# Why an answer was not simply right or wrong. The first part is the model's doing: accuracy 0.
KINDS = {
    "no_answer_tags": "no <answer>..</answer> in the response; the whole of it was read instead",
    "no_number": "the answer is not a number",
    "not_finite": "the answer holds NaN, an infinity or a number beyond float64",
    "no_json": "the answer is not a JSON object",
    "no_box": "the answer has no list of four coordinates under 'boxes'",
    "no_boxes": "the answer has no object of boxes by frame under 'boxes'",
    "no_time": "the answer has no time in seconds under 'time'",
    "no_points": "the answer has no three positive and three negative points",
    "no_path": "the answer has no list of points under 'points'",
    "no_detections": "the answer has no list of boxes under 'boxes', or no confidence for each",
    "no_labels": "the answer names no labels",
    "no_action": "the answer has no text under 'action', or no place or text that it needs",
    "no_calls": "the answer has no list of calls, each with a name and parameters, under 'calls'",
    "no_words": "the answer has no words to compare",
    "too_long": "the answer is longer than its problem type can have",
    "no_expression": "math-verify found no expression in the answer",
    "not_compared": "math-verify raised an exception",
    # The row's doing.
    "bad_truth": "the row's own answer cannot be read",
    # The scoring's: the answer may have been right; every part of its score is 0 (see OURS).
    "deadline": "scoring took longer than reward.deadline_s",
    "memory": "scoring took more than reward.memory_mb",
    "crash": "the process that scored it died",
    "raised": "the custom reward raised an exception",
    "bad_value": "the custom reward returned something else than numbers in [0, 1]",
    "internal_error": "a reward function raised an exception: a bug to report",
    # The judge's: the stated fallback decided (reward.judge_fallback).
    "judge_deadline": "the judge took longer than reward.judge_deadline_s, every time",
    "judge_error": "the judge could not be reached or answered with an HTTP error, every time",
    "judge_unreadable": "the judge's reply was no number in [0, 1]",
    "judge_down": "the judge had failed many times running: it was not asked",
}
# The scoring itself failed: nothing can be said about the response, and all of its score is 0.
OURS = frozenset({"deadline", "memory", "crash", "raised", "bad_value", "internal_error"})
