"""Actions on a screen and calls of tools: worked by hand, and laws."""

import json

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import actions
from g2rpo_jax.rewards.parse import Unscorable

BUTTON = {"action": "click", "boxes": [100, 100, 200, 140]}
TYPED = {"action": "type", "text": "cheap flights to Rome"}


def gui(said, right):
    said, right = json.dumps(said), json.dumps(right)
    return actions.gui_action(said, right), actions.strict_gui_action(said, right)


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ({"action": "click", "point": [150, 120]}, BUTTON, (1.0, 1.0)),
        ({"action": " CLICK ", "point": [100, 140]}, BUTTON, (1.0, 1.0)),  # the edge is inside
        ({"action": "click", "point": [201, 120]}, BUTTON, (0.5, 0.0)),
        ({"action": "click"}, BUTTON, (0.5, 0.0)),
        ({"action": "type", "point": [150, 120]}, BUTTON, (0.0, 0.0)),
        (BUTTON, BUTTON, (1.0, 1.0)),  # a box stands for its centre
        # 140 away along a 3-4-5 triangle: 84, 112
        ({"action": "click", "point": [84, 112]}, {"action": "click", "point": [0, 0]}, (1.0, 1.0)),
        ({"action": "click", "point": [85, 112]}, {"action": "click", "point": [0, 0]}, (0.5, 0.0)),
        # 2 shared words of 2 and 4: F1 = 2 * 2 / 6
        ({"action": "type", "text": "flights Cheap"}, TYPED, (1.0, 1.0)),
        # 1 of 1 and 4: 2 / 5 < 1/2
        ({"action": "type", "text": "Rome"}, TYPED, (0.5, 0.0)),
        ({"action": "type"}, TYPED, (0.5, 0.0)),
        ({"action": "back"}, {"action": "back"}, (1.0, 1.0)),
        ({"action": "type", "text": ""}, {"action": "type", "text": ""}, (1.0, 1.0)),
    ],
)
def test_gui_actions_worked_by_hand(said, right, expected):
    assert gui(said, right) == expected


@pytest.mark.parametrize(
    "said",
    [{}, {"action": None}, {"action": " "}, {"action": 3}, {"action": "click", "point": [1]}]
    + [{"action": "click", "point": [True, 1]}, {"action": "click", "boxes": [1, 2, 3]}]
    + [{"action": "type", "text": 3}, {"action": "click", "point": "here"}],
)
def test_what_names_no_action(said):
    with pytest.raises(Unscorable) as caught:
        gui(said, BUTTON)
    assert caught.value.kind == "no_action"
    assert actions.gui_structure(json.dumps(said), "") == 0.0
    with pytest.raises(Unscorable) as caught:
        gui(BUTTON, said)
    assert caught.value.kind == "bad_truth"


WEATHER = {"name": "weather", "parameters": {"city": "Rome", "days": 3}}
CLOCK = {"name": "clock"}


def tools(said, right):
    return actions.tool_calls(json.dumps({"calls": said}), json.dumps({"calls": right}))


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ([WEATHER], [WEATHER], 1.0),
        # names 1, keys 1, values 1 of 2: (1 + 1 + 1) / (1 + 1 + 2)
        ([WEATHER | {"parameters": {"city": "Rome", "days": 4}}], [WEATHER], 3 / 4),
        # names 1, keys 1/2, values 1
        ([WEATHER | {"parameters": {"city": "Rome"}}], [WEATHER], 2.5 / 4),
        # keys 2/3: a third parameter that was not asked for
        ([{"name": "weather", "parameters": {"city": "Rome", "days": 3, "x": 1}}], [WEATHER])
        + ((1 + 2 / 3 + 2) / 4,),
        # names 1/2, then all of the one call
        ([WEATHER, CLOCK], [WEATHER], (0.5 + 1 + 2) / 4),
        # two calls, one missing: names 1/2, keys 1, values 2; S_max = 1 + 2 + 2
        ([WEATHER], [WEATHER, CLOCK], 3.5 / 5),
        ([CLOCK], [CLOCK], 1.0),
        ([CLOCK], [WEATHER], 0.0),
        # the wrong city first: the better of two is taken, whatever the order
        ([WEATHER | {"parameters": {"city": "Oslo"}}, WEATHER], [WEATHER], (0.5 + 1 + 2) / 4),
        # 3 and 3.0 are one number, true and 1 are not
        ([WEATHER | {"parameters": {"city": "Rome", "days": 3.0}}], [WEATHER], 1.0),
        (
            [{"name": "f", "parameters": {"x": True}}],
            [{"name": "f", "parameters": {"x": 1}}],
            2 / 3,
        ),
        ([{"name": "f", "parameters": {"x": {"b": 1, "a": [2]}}}],)
        + ([{"name": "f", "parameters": {"x": {"a": [2], "b": 1}}}], 1.0),
    ],
)
def test_tool_calls_worked_by_hand(said, right, expected):
    assert tools(said, right) == pytest.approx(expected)


json_value = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner),
    max_leaves=4,
)
call = st.builds(
    lambda name, parameters: {"name": name, "parameters": parameters},
    st.sampled_from("fg"),
    st.dictionaries(st.sampled_from("abc"), json_value),
)
some_calls = st.lists(call, min_size=1, max_size=4)


@hyp.given(some_calls, some_calls)
def test_tool_calls_are_bounded_and_right_in_any_order(said, right):
    assert 0.0 <= tools(said, right) <= 1.0
    assert tools(right[::-1], right) == 1.0


@pytest.mark.parametrize(
    "calls",
    [None, [], {}, ["f"], [{}], [{"name": 3}], [{"name": "f", "parameters": []}], [[WEATHER]]],
)
def test_what_is_no_list_of_calls(calls):
    with pytest.raises(Unscorable) as caught:
        tools(calls, [WEATHER])
    assert caught.value.kind == "no_calls"
    with pytest.raises(Unscorable) as caught:
        tools([WEATHER], calls)
    assert caught.value.kind == "bad_truth"


def test_very_many_calls_are_refused():
    for calls in ([CLOCK] * 33, [{"name": "f", "parameters": dict.fromkeys(map(str, range(65)))}]):
        with pytest.raises(Unscorable, match="longer"):
            tools(calls, [CLOCK])
