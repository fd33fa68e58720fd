"""Spatial grounding and segmentation: overlap, points, and the shape of the answer."""

import json
import math

import hypothesis as hyp
import numpy as np
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards.boxes import (
    box_structure,
    generalised_grounding,
    generalised_iou,
    iou,
    points_similarity,
    segmentation,
    segmentation_structure,
    spatial_grounding,
)
from g2rpo_jax.rewards.parse import Unscorable

grid = st.integers(0, 12)
grid_box = st.tuples(grid, grid, grid, grid)


def answer(*box):
    return json.dumps({"boxes": list(box)})


def cells(box):
    """The unit cells of a 12 x 12 board that a box covers."""
    covered = np.zeros((12, 12), bool)
    covered[box[1] : box[3], box[0] : box[2]] = True
    return covered


@hyp.given(grid_box, grid_box)
def test_iou_is_the_share_of_covered_cells(a, b):
    both, either = (cells(a) & cells(b)).sum(), (cells(a) | cells(b)).sum()
    assert spatial_grounding(answer(*a), answer(*b)) == (both / either if both else 0.0)


coordinate = st.floats(-1e6, 1e6)
any_box = st.lists(coordinate, min_size=4, max_size=4)


@hyp.given(any_box, any_box)
def test_iou_is_symmetric_and_a_share(a, b):
    assert 0.0 <= iou(a, b) <= 1.0
    assert iou(a, b) == iou(b, a)


side = st.floats(1e-3, 1e3)


@hyp.given(coordinate, coordinate, side, side)
def test_a_box_with_an_area_equals_itself(x, y, width, height):
    box = [x, y, x + width, y + height]
    assert iou(box, box) == 1.0


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ((0, 0, 100, 100), 1.0),
        ((0, 0, 100, 50), 0.5),
        ((50, 50, 150, 150), 2500 / 17500),
        ((100, 0, 200, 100), 0.0),  # touches
        ((100, 100, 0, 0), 0.0),  # corners swapped
        ((0, 0, 0, 0), 0.0),
        ((-1e6, -1e6, 1e6, 1e6), 1e4 / 4e12),
    ],
)
def test_iou_worked_by_hand(said, right):
    assert spatial_grounding(answer(*said), answer(0, 0, 100, 100)) == pytest.approx(right)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ((0, 0, 100, 100), 1.0),
        ((0, 0, 100, 50), 0.75),  # inside: the hull is the union
        ((100, 0, 200, 100), 0.5),  # touches: IoU 0, hull = union
        ((200, 0, 300, 100), (0 - 1 / 3 + 1) / 2),  # a gap of a third of the hull
        # a corner of a quarter: union 17500, hull 22500
        ((50, 50, 150, 150), (2500 / 17500 - 5000 / 22500 + 1) / 2),
        ((100, 100, 0, 0), 0.0),  # corners swapped: no area
        ((5, 5, 5, 5), 0.0),
    ],
)
def test_generalised_iou_worked_by_hand(said, right):
    found = generalised_grounding(answer(*said), answer(0, 0, 100, 100))
    assert found == pytest.approx(right)


@hyp.given(any_box, any_box)
def test_generalised_iou_is_symmetric_and_bounded_by_iou(a, b):
    assert 0.0 <= generalised_iou(a, b) <= 1.0
    assert generalised_iou(a, b) == generalised_iou(b, a)
    # GIoU <= IoU
    assert generalised_iou(a, b) <= 0.5 * (1 + iou(a, b)) + 1e-12


@hyp.given(st.integers(1, 50), st.integers(0, 400))
def test_the_further_apart_the_less(side, gap):
    here = [0, 0, side, side]
    near, far = ([x, 0, x + side, side] for x in (side + gap, side + gap + 1))
    assert 0.0 < generalised_iou(here, far) < generalised_iou(here, near) <= 0.5


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[0, 0, 1, 1]", "no_json"),
        ("the box is 0 0 1 1", "no_json"),
        ("{}", "no_box"),
        ('{"boxes": null}', "no_box"),
        ('{"boxes": [0, 0, 1]}', "no_box"),
        ('{"boxes": [[0, 0, 1, 1]]}', "no_box"),
        ('{"boxes": [0, 0, 1, true]}', "no_box"),
        ('{"boxes": ["0", 0, 1, 1]}', "no_box"),
        ('{"boxes": [0, 0, 1e300, 1e300]}', "no_box"),
        ('{"boxes": [0, 0, NaN, 1]}', "not_finite"),
        ('{"boxes": [0, 0, 1, Infinity]}', "not_finite"),
        ('{"boxes": [0, 0, 1, 1e400]}', "not_finite"),
        ('{"boxes": [0, 0, 1, ' + "9" * 5000 + "]}", "too_long"),
        ("[" * 10**5, "too_long"),
    ],
)
def test_what_is_no_box_has_no_accuracy_and_no_structure(said, kind):
    with pytest.raises(Unscorable) as caught:
        spatial_grounding(said, answer(0, 0, 1, 1))
    assert caught.value.kind == kind
    assert box_structure(said, answer(0, 0, 1, 1)) == 0.0


def test_structure_is_the_shape_alone():
    assert box_structure(answer(9, 9, 0, 0), answer(0, 0, 1, 1)) == 0.5


def test_a_truth_without_a_box_is_the_rows_fault():
    with pytest.raises(Unscorable) as caught:
        spatial_grounding(answer(0, 0, 1, 1), "{}")
    assert caught.value.kind == "bad_truth"


THREE = [[100, 100], [200, 200], [300, 300]]
TARGET = {"boxes": [0, 0, 10, 10], "positive_points": THREE, "negative_points": THREE}


def segment(data_type="image", **changes):
    timed = {"time": 4.0} if data_type == "video" else {}
    said = json.dumps(TARGET | timed | changes)
    return segmentation(said, json.dumps(TARGET | timed), data_type)


def test_segmentation_worked_by_hand():
    near = [[100, 150], [200, 250], [350, 300]]  # each 50 off: exp(-1/2)
    assert segment() == segment("video") == 1.0
    assert segment(boxes=[0, 0, 10, 5]) == 0.75
    assert segment(positive_points=near) == pytest.approx(0.75 + 0.25 * math.exp(-0.5))
    assert segment(positive_points=THREE[::-1]) == 1.0  # any order
    assert segment("video", boxes=[0, 0, 10, 5]) == pytest.approx(0.85)
    assert segment("video", negative_points=near) == pytest.approx(0.8 + 0.2 * math.exp(-0.5))
    assert segment("video", time=1.0) == pytest.approx(0.7 + 0.3 * math.exp(-1.5))


point = st.tuples(st.integers(0, 100), st.integers(0, 100))


@hyp.given(st.lists(point, min_size=3, max_size=3), st.lists(point, min_size=3, max_size=3))
def test_the_matching_is_the_assignment_problems(a, b):
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(a, b)
    mean = cost[linear_sum_assignment(cost)].sum() / 3
    assert points_similarity(a, b) == pytest.approx(math.exp(-(mean**2) / 5000))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"boxes": None}, "no_box"),
        ({"positive_points": THREE[:2]}, "no_points"),
        ({"negative_points": [*THREE, [1, 1]]}, "no_points"),
        ({"negative_points": [[1, 1], [2, 2], [3]]}, "no_points"),
        ({"negative_points": [[1, 1], [2, 2], [3, "3"]]}, "no_points"),
        ({"time": None}, "no_time"),
        ({"time": True}, "no_time"),
        ({"time": [4.0]}, "no_time"),
        ({"time": float("nan")}, "not_finite"),
    ],
)
def test_a_segmentation_without_a_part_has_no_accuracy_and_no_structure(changes, kind):
    with pytest.raises(Unscorable) as caught:
        segment("video", **changes)
    assert caught.value.kind == kind
    said = json.dumps(TARGET | {"time": 4.0} | changes)
    assert segmentation_structure(said, "", "video") == 0.0


def test_structure_of_a_segmentation_differs_by_data_type():
    assert segmentation_structure(json.dumps(TARGET), "", "image") == 0.5
    assert segmentation_structure(json.dumps(TARGET), "", "video") == 0.0
    assert segmentation_structure(json.dumps(TARGET), "", "text") == 0.0
    with pytest.raises(Unscorable) as caught:
        segment("text")
    assert caught.value.kind == "bad_truth"
