"""Accuracy and structure of boxes: spatial grounding."""

from g2rpo_jax.rewards import parse
from g2rpo_jax.rewards.parse import Unscorable


def spatial_grounding(answer: str, truth: str, data_type: str = "image") -> float:
    """Intersection over union of the two boxes `{"boxes": [x1, y1, x2, y2]}`, in 0..1000.

    Raises:
      Unscorable: the answer has no box of finite numbers, or (bad_truth) the truth has none.
    """
    try:
        right = box(truth)
    except Unscorable:
        raise Unscorable("bad_truth") from None
    return iou(box(answer), right)


def box_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer is a JSON object with four coordinates under `boxes`, else 0."""
    return parse.shaped(lambda: box(answer))


def box(text: str) -> list[float]:
    """The four coordinates under `boxes`.

    Raises:
      Unscorable: no_json, no_box, not_finite, too_long.
    """
    return parse.numbers(parse.json_object(text).get("boxes"), 4)


def iou(a: list[float], b: list[float]) -> float:
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
