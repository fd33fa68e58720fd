"""Accuracy and structure of spans and of boxes by frame: temporal and spatial-temporal grounding,
tracking."""

from collections.abc import Sequence
from typing import Any

from g2rpo_jax.rewards import parse
from g2rpo_jax.rewards.boxes import iou
from g2rpo_jax.rewards.parse import Unscorable

Boxes = dict[str, list[float] | None]  # by frame key; None where the value is no box


def temporal_grounding(answer: str, truth: str, data_type: str = "video") -> float:
    """Intersection over union of the two spans `{"time": [start, end]}`, seconds.

        R = max(0, min end - max start) / (max end - min start)

    Raises:
      Unscorable: the answer has no span of finite numbers, or (bad_truth) the truth has none.
    Source: the reward of OneThinker's temporal grounding rows (2025); Temporal-R1 and VideoChat-R1
    (2025) have the same.
    """
    right = parse.of_the_row(lambda text: span(parse.json_object(text)), truth)
    return span_iou(span(parse.json_object(answer)), right)


def span_structure(answer: str, truth: str, data_type: str = "video") -> float:
    """0.5 if the answer is a JSON object with two numbers under `time`, else 0."""
    return parse.shaped(lambda: span(parse.json_object(answer)))


def tracking(answer: str, truth: str, data_type: str = "video") -> float:
    """Mean box IoU over the truth's frames `{"boxes": {"1": [x1, y1, x2, y2], ...}}`.

        R = mean over the truth's frames of IoU

    A frame that the answer lacks, or whose value is no box, counts 0; further frames count nothing.
    Raises:
      Unscorable: the answer has no boxes by frame, or (bad_truth) the truth has none or a broken
        one.
    Source: the reward of OneThinker's tracking rows (2025).
    """
    right = parse.of_the_row(lambda text: whole_boxes(parse.json_object(text)), truth)
    return mean_iou(boxes(parse.json_object(answer)), right)


def tracking_structure(answer: str, truth: str, data_type: str = "video") -> float:
    """0.25 for the shape (at least one frame, every value a box) + 0.25 x the share of the truth's
    frames for which the answer has a box."""
    return _frames_structure(answer, truth, whole_boxes)


def spatial_temporal_grounding(answer: str, truth: str, data_type: str = "video") -> float:
    """IoU of the spans and mean box IoU over the truth's frames, one half each.

        R = 0.5 IoU(spans) + 0.5 mean over the truth's frames of IoU(boxes)

    A frame that the answer lacks counts 0. (The release takes the mean over the frames that both
    have, so that one easy frame can stand for all: see `release`.) An answer without boxes or
    without a span keeps the other half.
    Raises:
      Unscorable: the answer is no JSON object, or (bad_truth) the truth lacks a part.
    Source: the reward of OneThinker's spatial-temporal grounding rows (2025), with another mean.
    """
    right_span, right_boxes = parse.of_the_row(_span_and_boxes, truth)
    value = parse.json_object(answer)
    time_iou = parse.attempt(lambda: span_iou(span(value), right_span))
    box_iou = parse.attempt(lambda: mean_iou(boxes(value), right_boxes))
    if time_iou is None and box_iou is None:
        raise Unscorable("no_boxes")
    return 0.5 * (time_iou or 0.0) + 0.5 * (box_iou or 0.0)


def spatial_temporal_structure(answer: str, truth: str, data_type: str = "video") -> float:
    """0.25 for the shape (a span, and boxes as in tracking) + 0.25 x the share of the truth's
    frames for which the answer has a box."""
    return _frames_structure(answer, truth, lambda value: (span(value), whole_boxes(value)))


def _span_and_boxes(text: str) -> tuple[list[float], Boxes]:
    value = parse.json_object(text)
    return span(value), whole_boxes(value)


def _frames_structure(answer: str, truth: str, shape) -> float:
    value = parse.attempt(lambda: parse.json_object(answer))
    if value is None:
        return 0.0
    share = parse.attempt(lambda: _key_share(boxes(value), boxes(parse.json_object(truth))))
    whole = parse.attempt(lambda: shape(value)) is not None
    return 0.25 * whole + 0.25 * (share or 0.0)


def _key_share(said: Boxes, right: Boxes) -> float:
    return sum(said.get(key) is not None for key in right) / len(right)


def span(value: dict[str, Any]) -> list[float]:
    """The two seconds under `time`.

    Raises:
      Unscorable: no_time.
    """
    return parse.numbers(value.get("time"), 2, "no_time")


def boxes(value: dict[str, Any]) -> Boxes:
    """The boxes under `boxes`, by frame key as written; None for a value that is no box.

    Raises:
      Unscorable: no_boxes, unless there is at least one key.
    """
    found = value.get("boxes")
    if not isinstance(found, dict) or not found:
        raise Unscorable("no_boxes")
    return {
        key: parse.attempt(lambda some=some: parse.numbers(some, 4)) for key, some in found.items()
    }


def whole_boxes(value: dict[str, Any]) -> Boxes:
    """As `boxes`, every value a box.

    Raises:
      Unscorable: no_boxes; no_box.
    """
    found = boxes(value)
    if None in found.values():
        raise Unscorable("no_box")
    return found


def span_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Length of the intersection over length of the union; 0 if either span has no length."""
    both = min(a[1], b[1]) - max(a[0], b[0])
    if min(both, a[1] - a[0], b[1] - b[0]) <= 0.0:
        return 0.0
    # They overlap, so their union is one span.
    return min(1.0, both / (max(a[1], b[1]) - min(a[0], b[0])))


def mean_iou(said: Boxes, right: Boxes) -> float:
    """Mean over the frames of `right` of the IoU with `said`'s box, 0 where there is none."""
    total = 0.0
    for key, box in right.items():
        answer = said.get(key)
        total += iou(answer, box) if answer is not None else 0.0
    return total / len(right)
