"""Accuracy and structure of boxes and points: spatial grounding, segmentation."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from g2rpo_jax.rewards import parse
from g2rpo_jax.rewards.parse import Unscorable

POINT_SIGMA = 50.0  # thousandths of the image
TIME_SCALE_S = 2.0


class Target(NamedTuple):
    """What a segmentation answer names: a box, 3 + 3 points, and in a video the frame's time."""

    box: list[float]
    positive: list[list[float]]
    negative: list[list[float]]
    time_s: float | None


def spatial_grounding(answer: str, truth: str, data_type: str = "image") -> float:
    """Intersection over union of the two boxes `{"boxes": [x1, y1, x2, y2]}`, in 0..1000.

        R = area(A and B) / area(A or B)

    Raises:
      Unscorable: the answer has no box of finite numbers, or (bad_truth) the truth has none.
    Source: the reward of OneThinker's grounding rows (2025).
    """
    right = parse.of_the_row(box, truth)
    return iou(box(answer), right)


def generalised_grounding(answer: str, truth: str, data_type: str = "image") -> float:
    """Generalised IoU of two boxes on [0, 1]: apart, they still earn more the nearer they are.

        R = (GIoU + 1) / 2,  GIoU = IoU - (area of the hull - area(A or B)) / area of the hull

    1 for the same box, at most 1/2 for boxes that do not meet. 0 if a box has no area. As no box
    earns exactly 0, `filter` drops no row for being wholly wrong.
    Raises:
      Unscorable: the answer has no box of finite numbers, or (bad_truth) the truth has none.
    Source: VLA-R1, "Enhancing Reasoning in Vision-Language-Action Models" (2025).
    """
    right = parse.of_the_row(box, truth)
    return generalised_iou(box(answer), right)


def box_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer is a JSON object with four coordinates under `boxes`, else 0."""
    return parse.shaped(lambda: box(answer))


def segmentation(answer: str, truth: str, data_type: str = "image") -> float:
    """Box and points on and beside an object; in a video also the time of the frame.

        image: 0.5 IoU + 0.25 sim(positive points) + 0.25 sim(negative points)
        video: 0.3 IoU + 0.3 exp(-|t - t'| / 2 s) + 0.2 sim(positive) + 0.2 sim(negative)

    Raises:
      Unscorable: a part is missing in the answer, or (bad_truth) in the truth; bad_truth too for
        a data type other than image and video.
    Source: the reward of OneThinker's segmentation rows (2025).
    """
    right = parse.of_the_row(lambda text: target(text, data_type), truth)
    said = target(answer, data_type)
    overlap = iou(said.box, right.box)
    on = points_similarity(said.positive, right.positive)
    beside = points_similarity(said.negative, right.negative)
    if data_type == "image":
        return 0.5 * overlap + 0.25 * on + 0.25 * beside
    when = math.exp(-abs(said.time_s - right.time_s) / TIME_SCALE_S)
    return min(1.0, 0.3 * overlap + 0.3 * when + 0.2 * on + 0.2 * beside)


def segmentation_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer has every part that `segmentation` scores, else 0."""
    return parse.shaped(lambda: target(answer, data_type))


def box(text: str) -> list[float]:
    """The four coordinates under `boxes`.

    Raises:
      Unscorable: no_json, no_box, not_finite, too_long.
    """
    return parse.numbers(parse.json_object(text).get("boxes"), 4)


def target(text: str, data_type: str) -> Target:
    """The parts of a segmentation answer.

    Raises:
      Unscorable: no_json, no_box, no_points, no_time, not_finite, too_long; bad_truth for a data
        type other than image and video: the row asks for no shape.
    """
    if data_type not in ("image", "video"):
        raise Unscorable("bad_truth")
    value = parse.json_object(text)
    where = parse.numbers(value.get("boxes"), 4)
    positive, negative = _points(value, "positive_points"), _points(value, "negative_points")
    when = parse.numbers([value.get("time")], 1, "no_time")[0] if data_type == "video" else None
    return Target(where, positive, negative, when)


def _points(value: dict[str, Any], field: str) -> list[list[float]]:
    points = value.get(field)
    if not isinstance(points, list) or len(points) != 3:
        raise Unscorable("no_points")
    return [parse.numbers(point, 2, "no_points") for point in points]


def points_similarity(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """exp(-d^2 / (2 * 50^2)), d the mean distance of the best matching of 3 points to 3 points."""
    distance = min(sum(map(math.dist, order, b)) for order in itertools.permutations(a)) / 3.0
    return math.exp(-(distance**2) / (2.0 * POINT_SIGMA**2))


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Area of the intersection over area of the union, in [0, 1].

    0 if either box has no area (x2 <= x1 or y2 <= y1): coordinates are not put in order.
    """
    area_a = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    area_b = max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if min(area_a, area_b, width, height) <= 0.0:
        return 0.0
    both = width * height
    # Rounding of the sum could put the quotient an ulp above 1.
    return min(1.0, both / (area_a + area_b - both))


def generalised_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """(GIoU + 1) / 2 of two boxes, in [0, 1]; 0 if either has no area."""
    area_a = max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])
    area_b = max(0.0, b[2] - b[0]) * max(0.0, b[3] - b[1])
    if min(area_a, area_b) <= 0.0:
        return 0.0
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    either = area_a + area_b - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    # The union lies inside the hull, up to rounding.
    return min(1.0, 0.5 * (iou(a, b) + min(1.0, either / hull)))
