"""Accuracy of actions: on a screen (GUI), and calls of tools."""

import collections
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from g2rpo_jax.rewards import parse, rouge
from g2rpo_jax.rewards.parse import Unscorable

NEAR = 140.0  # thousandths of the screen
MIN_F1 = 0.5
MAX_CALLS = 32
MAX_PARAMETERS = 64  # of one call


class Action(NamedTuple):
    """What an answer does: `place` is a point (of a box, its centre), `box` the box, `text` what is
    typed or searched for; None where it names none."""

    name: str
    place: list[float] | None
    box: list[float] | None
    text: str | None


def gui_action(answer: str, truth: str, data_type: str = "image") -> float:
    """One half for the right kind of action, one half for doing it in the right place.

        R = 0.5 [same action] + 0.5 [same action, in the truth's box, with the truth's text]

    `{"action": "click", "point": [x, y]}`, `{"action": "type", "text": ".."}`; the truth has a box
    under `boxes`, or a point: then within 140 thousandths of it is right. Texts agree if their
    words have F1 >= 0.5. Names of actions are compared without case.
    Raises:
      Unscorable: no_action; bad_truth.
    Source: UI-R1, "Enhancing Action Prediction of GUI Agents" (2025); place and text by GUI-R1
    (2025), which counts 140 pixels.
    """
    kind, argument = _agreement(answer, truth)
    return 0.5 * kind + 0.5 * (kind and argument)


def strict_gui_action(answer: str, truth: str, data_type: str = "image") -> float:
    """1 if the action is right in kind, place and text, else 0.

        R = [same action, in the truth's box or within 140 of its point, text F1 >= 0.5]

    Raises:
      Unscorable: no_action; bad_truth.
    Source: GUI-R1, "A Generalist R1-Style Vision-Language Action Model" (2025), its accuracy; it
    counts 140 pixels, here thousandths of the screen.
    """
    kind, argument = _agreement(answer, truth)
    return float(kind and argument)


def gui_structure(answer: str, truth: str, data_type: str = "image") -> float:
    """0.5 if the answer is a JSON object that names an action, else 0."""
    return parse.shaped(lambda: action(answer))


def action(text: str) -> Action:
    """The action that a JSON object names.

    Raises:
      Unscorable: no_json; no_action: no name, or a place or text of the wrong kind.
    """
    value = parse.json_object(text)
    name, typed = value.get("action"), value.get("text")
    if not isinstance(name, str) or not name.strip() or not isinstance(typed, str | None):
        raise Unscorable("no_action")
    place, box = value.get("point"), value.get("boxes")
    if box is not None:
        box = parse.numbers(box, 4, "no_action")
        centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    place = parse.numbers(place, 2, "no_action") if place is not None else box and centre
    return Action(name.strip().casefold(), place, box, typed)


def _agreement(answer: str, truth: str) -> tuple[bool, bool]:
    """Whether the actions are of one kind, and whether place and text are right."""
    right = parse.of_the_row(action, truth)
    said = action(answer)
    return said.name == right.name, _placed(said, right) and _worded(said, right)


def _placed(said: Action, right: Action) -> bool:
    if right.place is None:
        return True
    if said.place is None:
        return False
    if right.box:
        (x, y), (x1, y1, x2, y2) = said.place, right.box
        return x1 <= x <= x2 and y1 <= y <= y2
    return math.dist(said.place, right.place) <= NEAR


def _worded(said: Action, right: Action) -> bool:
    if right.text is None:
        return True
    if said.text is None:
        return False
    a, b = said.text.casefold().split(), right.text.casefold().split()
    shared = (collections.Counter(a) & collections.Counter(b)).total()
    return a == b or rouge.f_measure(shared, len(a), len(b)) >= MIN_F1


Call = tuple[str, dict[str, str]]  # name, parameters as text that is equal where they are


def tool_calls(answer: str, truth: str, data_type: str = "text") -> float:
    """Calls of tools, graded by names, names of parameters and values.

        R = (names + sum over the truth's calls of (keys + values)) / (1 + n + sum of parameters)
        names = multiset Jaccard of the names of all calls
        keys = Jaccard of the parameters' names,  values = number of parameters that are equal

    `{"calls": [{"name": "search", "parameters": {"city": "Rome"}}, ..]}`; n calls in the truth. In
    the truth's order each takes the free call of its name that earns most; without one it earns 0.
    The paper rescales R to [-3, 3].
    Raises:
      Unscorable: no_calls; too_long: more than MAX_CALLS calls or MAX_PARAMETERS parameters;
        bad_truth.
    Source: ToolRL, "Reward is All Tool Learning Needs" (2025).
    """
    right = parse.of_the_row(calls, truth)
    said = calls(answer)
    names = _jaccard(*(collections.Counter(name for name, _ in some) for some in (said, right)))
    earned, free = names, list(said)
    for name, wanted in right:
        found = [
            (_worth(given, wanted), -i) for i, (other, given) in enumerate(free) if other == name
        ]
        if found:
            best, place = max(found)
            earned += best
            del free[-place]
    return min(1.0, earned / (1 + len(right) + sum(len(wanted) for _, wanted in right)))


def tool_structure(answer: str, truth: str, data_type: str = "text") -> float:
    """0.5 if the answer is a JSON object with calls, each with a name, under `calls`, else 0."""
    return parse.shaped(lambda: calls(answer))


def calls(text: str) -> list[Call]:
    """The calls under `calls`; one without parameters may leave them out.

    Raises:
      Unscorable: no_json; no_calls; too_long.
    """
    found = parse.json_object(text).get("calls")
    if not isinstance(found, list) or not found:
        raise Unscorable("no_calls")
    if len(found) > MAX_CALLS:
        raise Unscorable("too_long")
    return [_call(one) for one in found]


def _call(value: Any) -> Call:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise Unscorable("no_calls")
    given = value.get("parameters", {})
    if not isinstance(given, dict):
        raise Unscorable("no_calls")
    if len(given) > MAX_PARAMETERS:
        raise Unscorable("too_long")
    try:
        return value["name"], {key: _as_text(one) for key, one in given.items()}
    except RecursionError:
        raise Unscorable("no_calls") from None


def _as_text(value: Any) -> str:
    # 1 and 1.0 are one number, true is none.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _worth(given: Mapping[str, str], wanted: Mapping[str, str]) -> float:
    either = len(given.keys() | wanted.keys())
    keys = len(given.keys() & wanted.keys()) / either if either else 1.0
    return keys + sum(given.get(key) == value for key, value in wanted.items())


def _jaccard(a: collections.Counter, b: collections.Counter) -> float:
    return (a & b).total() / (a | b).total()
