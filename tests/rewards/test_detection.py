"""Detection: matching worked by hand, and laws."""

import json

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import detection
from g2rpo_jax.rewards.boxes import iou
from g2rpo_jax.rewards.parse import Unscorable

A, B = [0, 0, 100, 100], [500, 500, 600, 600]
NEAR_A = [0, 0, 100, 80]  # IoU 0.8 with A
HALF_A = [0, 0, 100, 50]  # IoU 0.5: not above it


def text(boxes, scores=None):
    return json.dumps({"boxes": boxes} | ({} if scores is None else {"scores": scores}))


@pytest.mark.parametrize(
    ("said", "scores", "both", "precision"),
    [
        ([A, B], None, 1.0, 1.0),
        ([B, A], None, 1.0, 1.0),
        ([A], None, 0.5 * 1 / 2 + 0.5, 1.0),  # one of two: precision does not see it
        ([NEAR_A], None, 0.5 * 0.8 / 2 + 0.5, 0.5 * 0.8 + 0.5),
        ([HALF_A], None, 0.0, 0.0),
        ([HALF_A], [0.0], 0.5, 0.5),  # rightly unsure
        ([A, B, HALF_A], [1, 1, 0], 0.5 * 2 / 3 + 0.5, 0.5 * 2 / 3 + 0.5),
        # The surer one takes A, the other finds it taken.
        ([A, NEAR_A], [0.6, 0.9], 0.5 * 0.8 / 2 + 0.5 * (0.9 + 0.4) / 2)
        + (0.5 * 0.8 / 2 + 0.5 * (0.9 + 0.4) / 2,),
    ],
)
def test_detection_worked_by_hand(said, scores, both, precision):
    right = text([A, B])
    assert detection.detection(text(said, scores), right) == pytest.approx(both)
    assert detection.detection_precision(text(said, scores), right) == pytest.approx(precision)
    assert detection.detection_structure(text(said, scores), right) == 0.5


corner, side = st.integers(0, 60), st.integers(1, 40)
box = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], corner, corner, side, side)
boxes = st.lists(box, min_size=1, max_size=6)


@hyp.given(boxes, boxes, st.data())
def test_detection_is_bounded_and_matches_nothing_twice(said, right, data):
    scores = data.draw(st.lists(st.floats(0, 1), min_size=len(said), max_size=len(said)))
    for function in (detection.detection, detection.detection_precision):
        assert 0.0 <= function(text(said, scores), text(right)) <= 1.0
        assert function(text(right), text(right)) == pytest.approx(1.0)
    overlaps = detection.match(detection.boxes(text(said, scores)), right)
    assert sum(o > 0 for o in overlaps) <= min(len(said), len(right))
    assert all(o == 0 or o > 0.5 for o in overlaps)
    assert sum(overlaps) <= sum(max(iou(a, b) for b in right) for a in said) + 1e-9


@pytest.mark.parametrize(
    "answer",
    [text([]), text(A), text([A], [0.5, 0.5]), text([A], [1.5]), text([A], [-0.1]), text([A], 1)]
    + [text([A], [True]), text([[1, 2, 3]]), text([A, None]), "{}"],
)
def test_what_is_no_list_of_boxes(answer):
    with pytest.raises(Unscorable) as caught:
        detection.detection(answer, text([A]))
    assert caught.value.kind == "no_detections"
    with pytest.raises(Unscorable) as caught:
        detection.detection(text([A]), answer)
    assert caught.value.kind == "bad_truth"
    assert detection.detection_structure(answer, "") == 0.0


def test_very_many_boxes_are_refused():
    with pytest.raises(Unscorable, match="longer"):
        detection.detection(text([A] * 101), text([A]))
