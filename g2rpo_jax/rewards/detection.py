"""Accuracy of lists of boxes: detection."""

from collections.abc import Sequence

from g2rpo_jax.rewards import parse
from g2rpo_jax.rewards.boxes import iou
from g2rpo_jax.rewards.parse import Unscorable

MAX_BOXES = 100  # of an answer and of a truth: 10,000 overlaps take 10 ms
MATCH = 0.5

Scored = list[tuple[float, list[float]]]  # (confidence, box)


def detection(answer: str, truth: str, data_type: str = "image") -> float:
    """Boxes matched to the truth's in order of confidence; those too many and too few both cost.

        R = 0.5 sum of matched IoU / max(boxes said, boxes right)
          + 0.5 mean over boxes said of (c if matched, else 1 - c)

    `{"boxes": [[x1, y1, x2, y2], ..], "scores": [c, ..]}`; without scores every c is 1. A box is
    matched to the free box of the truth with the largest IoU, if that is above 0.5.
    Raises:
      Unscorable: no_detections; too_long: more than MAX_BOXES; bad_truth.
    Source: Visual-RFT, "Visual Reinforcement Fine-Tuning" (2025), its second version of the IoU
    reward and its confidence reward, here with equal weights on [0, 1].
    """
    return _detection(answer, truth, by_both=True)


def detection_precision(answer: str, truth: str, data_type: str = "image") -> float:
    """As `detection`, with the mean IoU of the boxes that are named: one easy box can earn all.

        R = 0.5 sum of matched IoU / boxes said
          + 0.5 mean over boxes said of (c if matched, else 1 - c)

    Raises:
      Unscorable: as `detection`.
    Source: Visual-RFT, "Visual Reinforcement Fine-Tuning" (2025), its first version.
    """
    return _detection(answer, truth, by_both=False)


def _detection(answer: str, truth: str, by_both: bool) -> float:
    right = [box for _, box in parse.of_the_row(boxes, truth)]
    said = boxes(answer)
    overlaps = match(said, right)
    divisor = max(len(said), len(right)) if by_both else len(said)
    agreement = sum(c if o else 1.0 - c for (c, _), o in zip(said, overlaps, strict=True))
    return min(1.0, 0.5 * sum(overlaps) / divisor + 0.5 * agreement / len(said))


def detection_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer is a list of boxes, with a confidence for each or with none, else 0."""
    return parse.shaped(lambda: boxes(answer))


def boxes(text: str) -> Scored:
    """Boxes with their confidences, the surest first.

    Raises:
      Unscorable: no_json; no_detections; too_long.
    """
    value = parse.json_object(text)
    found, scores = value.get("boxes"), value.get("scores")
    if not isinstance(found, list) or not found:
        raise Unscorable("no_detections")
    if len(found) > MAX_BOXES:
        raise Unscorable("too_long")
    places = [parse.numbers(one, 4, "no_detections") for one in found]
    scores = [1.0] * len(found) if scores is None else scores
    scores = parse.numbers(scores, len(found), "no_detections")
    if not all(0.0 <= c <= 1.0 for c in scores):
        raise Unscorable("no_detections")
    return sorted(zip(scores, places, strict=True), key=lambda one: -one[0])


def match(said: Scored, right: Sequence[Sequence[float]]) -> list[float]:
    """IoU of each box said with the box of the truth that it is matched to, 0 if to none."""
    free = list(range(len(right)))
    overlaps = []
    for _, box in said:
        best, which = max(((iou(box, right[i]), -i) for i in free), default=(0.0, 0))
        if best > MATCH:
            free.remove(-which)
        overlaps.append(best if best > MATCH else 0.0)
    return overlaps
