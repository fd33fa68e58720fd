"""Temporal and spatial-temporal grounding, tracking: spans, and boxes by frame."""

import json

import hypothesis as hyp
import numpy as np
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import frames
from g2rpo_jax.rewards.boxes import iou
from g2rpo_jax.rewards.parse import Unscorable

LEFT, RIGHT, WIDE = [0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10]  # WIDE is both
TRACK = json.dumps({"boxes": {"1": LEFT, "2": RIGHT}})
BOTH = json.dumps({"time": [1, 3], "boxes": {"1": LEFT, "2": RIGHT}})

tick = st.integers(0, 20)
ticks = st.tuples(tick, tick)


def kind(function, *args):
    with pytest.raises(Unscorable) as caught:
        function(*args)
    return caught.value.kind


def covered(span):
    return (np.arange(20) >= span[0]) & (np.arange(20) < span[1])


@hyp.given(ticks, ticks)
def test_span_iou_is_the_share_of_covered_ticks(a, b):
    both, either = (covered(a) & covered(b)).sum(), (covered(a) | covered(b)).sum()
    said, right = (json.dumps({"time": x}) for x in (a, b))
    assert frames.temporal_grounding(said, right) == (both / either if both else 0.0)


second = st.floats(-1e6, 1e6)


@hyp.given(st.tuples(second, second), st.tuples(second, second))
def test_span_iou_is_symmetric_and_a_share(a, b):
    assert 0.0 <= frames.span_iou(a, b) <= 1.0
    assert frames.span_iou(a, b) == frames.span_iou(b, a)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[1, 3]", "no_json"),
        ("{}", "no_time"),
        ('{"time": 1}', "no_time"),
        ('{"time": [1]}', "no_time"),
        ('{"time": ["1", 3]}', "no_time"),
        ('{"time": [1, 3, 5]}', "no_time"),
        ('{"time": [0, 1e7]}', "no_time"),
        ('{"time": [NaN, 3]}', "not_finite"),
    ],
)
def test_what_is_no_span(said, expected):
    assert kind(frames.temporal_grounding, said, '{"time": [1, 3]}') == expected
    assert frames.span_structure(said, "") == 0.0


@pytest.mark.parametrize(
    ("boxes", "accuracy", "structure"),
    [
        ({"1": LEFT, "2": RIGHT}, 1.0, 0.5),
        ({"1": LEFT}, 0.5, 0.25 + 0.125),  # a missing frame counts 0
        ({"1": LEFT, "2": RIGHT, "3": WIDE}, 1.0, 0.5),  # a further one nothing
        ({"1": WIDE, "2": WIDE}, 0.5, 0.5),
        ({"1": LEFT, "2": None}, 0.5, 0.125),  # a value that is no box breaks the shape
        ({"1": LEFT, "2": [0, 0, 1]}, 0.5, 0.125),
        ({"01": LEFT, "2.0": RIGHT}, 0.0, 0.25),  # keys are compared as written
    ],
)
def test_tracking_is_the_mean_over_the_truths_frames(boxes, accuracy, structure):
    said = json.dumps({"boxes": boxes})
    assert frames.tracking(said, TRACK) == accuracy
    assert frames.tracking_structure(said, TRACK) == structure


@pytest.mark.parametrize("boxes", [None, {}, [], LEFT, "1"])
def test_no_frame_is_no_answer(boxes):
    said = json.dumps({"boxes": boxes})
    assert kind(frames.tracking, said, TRACK) == "no_boxes"
    assert frames.tracking_structure(said, TRACK) == 0.0


@pytest.mark.parametrize(
    ("value", "accuracy", "structure"),
    [
        ({"time": [1, 3], "boxes": {"1": LEFT, "2": RIGHT}}, 1.0, 0.5),
        ({"time": [1, 3], "boxes": {"1": LEFT}}, 0.75, 0.375),  # not 1.0, as in the release
        ({"time": [2, 4], "boxes": {"1": LEFT, "2": RIGHT}}, 0.5 / 3 + 0.5, 0.5),
        ({"time": [1, 3]}, 0.5, 0.0),
        ({"boxes": {"1": LEFT, "2": RIGHT}}, 0.5, 0.25),
        ({"time": [3, 1], "boxes": {"1": RIGHT, "2": LEFT}}, 0.0, 0.5),
    ],
)
def test_spatial_temporal_is_half_span_half_boxes(value, accuracy, structure):
    said = json.dumps(value)
    assert frames.spatial_temporal_grounding(said, BOTH) == pytest.approx(accuracy)
    assert frames.spatial_temporal_structure(said, BOTH) == structure


def test_neither_part_is_a_failure():
    assert kind(frames.spatial_temporal_grounding, '{"time": "now"}', BOTH) == "no_boxes"


@pytest.mark.parametrize(
    ("function", "truth"),
    [
        (frames.temporal_grounding, "{}"),
        (frames.tracking, '{"boxes": {"1": [0, 0, 1]}}'),
        (frames.tracking, '{"boxes": {}}'),
        (frames.spatial_temporal_grounding, TRACK),
    ],
)
def test_a_truth_without_a_part_is_the_rows_fault(function, truth):
    assert kind(function, BOTH, truth) == "bad_truth"


grid = st.integers(0, 12)
some_boxes = st.dictionaries(
    st.sampled_from("12345"), st.lists(grid, min_size=4, max_size=4), min_size=1
)


@hyp.given(some_boxes, some_boxes)
def test_tracking_is_the_formula(said, right):
    expected = sum(iou(said.get(k, [0, 0, 0, 0]), box) for k, box in right.items()) / len(right)
    found = frames.tracking(json.dumps({"boxes": said}), json.dumps({"boxes": right}))
    assert found == pytest.approx(expected)
