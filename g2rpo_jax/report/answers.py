"""Untrusted answers -> what a page can show: the parts of a response, and the shapes it drew."""

import dataclasses
import re
from collections.abc import Iterator

from g2rpo_jax.rewards import parse

MAX_SEGMENTS = 40
MAX_FRAMES = 240  # boxes of a tracking answer that are drawn
MAX_POINTS = 24
# Coordinates are thousandths of the picture. Farther outside nothing would be visible.
MARGIN = 2000.0

_TAGS = re.compile(r"<\s*+(/?)\s*+(thinking|think|answer)\s*+>")


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a response. kind: "thinking", "answer" (what stands between the tags), "tag",
    or "text" (everything outside)."""

    kind: str
    text: str


def segments(response: str) -> list[Segment]:
    """The response cut at its thinking and answer tags; joined, the texts are the response.

    At most MAX_SEGMENTS: a response that repeats its tags ends in one long "text".
    """
    out, at, kind = [], 0, "text"
    for match in _TAGS.finditer(response):
        if len(out) >= MAX_SEGMENTS - 3:
            kind = "text"
            break
        if match.start() > at:
            out.append(Segment(kind, response[at : match.start()]))
        out.append(Segment("tag", match[0]))
        closing, name = match[1], match[2]
        kind = "text" if closing else "answer" if name == "answer" else "thinking"
        at = match.end()
    if at < len(response):
        out.append(Segment(kind, response[at:]))
    return out


def shapes(text: str) -> dict | None:
    """What an answer draws on its picture; read as the rewards read it.

    Args:
      text: a response, or a row's answer with or without tags.
    Returns:
      None where the answer is no JSON object or holds nothing to draw; else some of
      "box": [x1, y1, x2, y2] in thousandths of the picture;
      "points": [[x, y, 1 or -1], ..] for points on the object and beside it;
      "frames": [[seconds, x1, y1, x2, y2], ..], rising;
      "span": [start, end] seconds; "time": seconds of the frame meant.
    """
    try:
        answer = parse.json_object(parse.response(text).answer)
    except parse.Unscorable:
        return None
    out = {}
    boxes = answer.get("boxes")
    if isinstance(boxes, dict):
        frames = sorted(_frames(boxes))[:MAX_FRAMES]
        if frames:
            out["frames"] = frames
    elif (box := _numbers(boxes, 4)) is not None:
        out["box"] = [_shown(v) for v in box]
    points = [*_points(answer, "positive_points", 1), *_points(answer, "negative_points", -1)]
    if points:
        out["points"] = points
    time = answer.get("time")
    if (span := _numbers(time, 2)) is not None:
        out["span"] = span
    elif (moment := _numbers([time], 1)) is not None:
        out["time"] = moment[0]
    return out or None


def times(answer: str) -> list[float]:
    """The seconds that an answer names, rising: keys of its boxes, its moment, ends of its span."""
    drawn = shapes(answer) or {}
    found = [frame[0] for frame in drawn.get("frames", [])] + list(drawn.get("span", []))
    return sorted({*found, *([drawn["time"]] if "time" in drawn else [])})


def _numbers(value: object, count: int) -> list[float] | None:
    try:
        return [round(v, 3) for v in parse.numbers(value, count)]
    except parse.Unscorable:
        return None


def _shown(value: float) -> float:
    return min(max(value, -MARGIN), MARGIN)


def _frames(boxes: dict) -> Iterator[list[float]]:
    for key, value in boxes.items():
        box = _numbers(value, 4)
        try:
            seconds = float(parse.number(key))
        except parse.Unscorable:
            continue
        if box is not None and abs(seconds) <= parse.MAX_COORDINATE:
            yield [seconds, *(_shown(v) for v in box)]


def _points(answer: dict, name: str, sign: int) -> list[list[float]]:
    listed = answer.get(name)
    read = [_numbers(p, 2) for p in listed[:MAX_POINTS]] if isinstance(listed, list) else []
    return [[_shown(p[0]), _shown(p[1]), sign] for p in read if p is not None]
