"""Responses taken apart for people, and what an answer draws."""

import json
import math

import hypothesis as hyp
import hypothesis.strategies as st
import pytest

from g2rpo_jax.report import answers

PIECES = st.sampled_from(
    ["<thinking>", "</thinking>", "<think>", "< / answer >", "<answer>", "</answer>", "a < b", "\n"]
)
RESPONSES = st.lists(PIECES | st.text(max_size=6), max_size=120).map("".join)


@hyp.given(RESPONSES)
def test_the_segments_of_a_response_are_the_response(response):
    found = answers.segments(response)
    assert "".join(s.text for s in found) == response
    assert len(found) <= answers.MAX_SEGMENTS
    assert {s.kind for s in found} <= {"thinking", "answer", "tag", "text"}


def test_thinking_and_answer_are_told_apart():
    found = answers.segments("so <think>2+2</think>\n<answer>4</answer> ok")
    assert [(s.kind, s.text) for s in found if s.kind != "tag"] == [
        ("text", "so "),
        ("thinking", "2+2"),
        ("text", "\n"),
        ("answer", "4"),
        ("text", " ok"),
    ]


@pytest.mark.parametrize(
    "answer, drawn",
    [
        ({"boxes": [1, 2, 3, 4]}, {"box": [1, 2, 3, 4]}),
        (
            {"boxes": {"10": [1, 2, 3, 4], "9": [5, 6, 7, 8], "x": [0, 0, 0, 0], "1": "no"}},
            {"frames": [[9, 5, 6, 7, 8], [10, 1, 2, 3, 4]]},
        ),
        ({"time": [1.5, 4]}, {"span": [1.5, 4]}),
        (
            {
                "boxes": [1, 2, 3, 4],
                "time": 2.5,
                "positive_points": [[1, 2], [3], "x", [4, 5]],
                "negative_points": [[9, 9]],
            },
            {"box": [1, 2, 3, 4], "time": 2.5, "points": [[1, 2, 1], [4, 5, 1], [9, 9, -1]]},
        ),
        ({"boxes": [1e300, 0, 0, 0]}, None),
        ({"boxes": [1e5, -1e5, 3, 4]}, {"box": [2000, -2000, 3, 4]}),
        ({"boxes": [True, 2, 3, 4]}, None),
        ([1, 2, 3, 4], None),
    ],
)
def test_shapes_are_read_as_the_rewards_read_them(answer, drawn):
    text = json.dumps(answer)
    assert answers.shapes(text) == drawn
    assert answers.shapes(f"<thinking>x</thinking><answer>{text}</answer>") == drawn


@pytest.mark.parametrize(
    "text",
    ["", "42", "{", "[" * 100_000, '{"boxes": [NaN, 1, 2, 3]}', '{"time": 1e999}', "\ud83d", "{}"],
)
def test_what_draws_nothing_is_none(text):
    assert answers.shapes(text) is None and answers.times(text) == []


def test_a_long_track_is_cut_to_what_is_drawn():
    track = {"boxes": {str(t): [1, 2, 3, 4] for t in range(1000)}}
    assert len(answers.shapes(json.dumps(track))["frames"]) == answers.MAX_FRAMES


def test_the_times_that_an_answer_names():
    track = {"boxes": {"3": [1, 2, 3, 4], "1": [1, 2, 3, 4]}, "time": [0.5, 3]}
    assert answers.times(json.dumps(track)) == [0.5, 1, 3]
    assert answers.times('{"boxes": [1, 2, 3, 4], "time": 2.5}') == [2.5]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from("12"), inner, max_size=4)
    ),
    max_leaves=20,
)


@hyp.given(
    st.dictionaries(
        st.sampled_from(["boxes", "time", "positive_points", "negative_points"]), JSON
    ).map(json.dumps)
)
def test_whatever_is_drawn_is_finite_and_bounded(text):
    def numbers(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from numbers(item)
        else:
            yield value

    assert all(math.isfinite(v) and abs(v) <= 1e6 for v in numbers(answers.shapes(text) or {}))
