"""Untrusted text -> parts: tags, numbers, JSON."""

import json
import math
import re
import time

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import parse

PIECES = [
    "<thinking>",
    "</thinking>",
    "<answer>",
    "</answer>",
    " ",
    "\n",
    "a",
    "< answer >",
    "<",
    "/",
]
tagged_text = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


def unscorable(function, *args) -> str:
    with pytest.raises(parse.Unscorable) as caught:
        function(*args)
    return caught.value.kind


@hyp.given(tagged_text)
def test_well_formed_is_the_releases_pattern_with_every_tag_once(text):
    tags = re.findall(r"<\s*/?\s*(?:thinking|answer)\s*>", text)
    clean = re.sub(r"<\s*(/?)\s*(thinking|answer)\s*>", r"<\1\2>", text)
    # the release's pattern: peers' code, transcribed
    pattern = r"\A\s*<thinking>.*?</thinking>\s*<answer>.*?</answer>\s*\Z"
    expected = bool(re.fullmatch(pattern, clean, re.DOTALL)) and len(tags) == 4
    assert parse.response(text).well_formed == expected


@hyp.given(tagged_text)
def test_the_answer_is_the_first_tagged_one_or_all(text):
    found = re.search(r"<\s*answer\s*>(.*?)<\s*/\s*answer\s*>", text, re.DOTALL)
    parts = parse.response(text)
    assert parts.tagged == bool(found)
    assert parts.answer == (found[1] if found else text).strip()


def test_only_tags_lose_their_white_space():
    parts = parse.response("<thinking> 1 / 2 < 3 </thinking>\n< answer >a < b / c</ answer >")
    assert parts == parse.Parts("a < b / c", True, True)


def test_the_thinking_tag_is_a_choice():
    text = "<think>a</think><answer>b</answer>"
    assert parse.response(text, "think").well_formed
    assert not parse.response(text, "thinking").well_formed
    assert parse.response(text, "thinking").answer == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "<answer>B</answer>",
        "<thinking>a</thinking>",
        "<thinking>a</thinking><answer>B",
        "x<thinking>a</thinking><answer>B</answer>",
        "<thinking>a</thinking>x<answer>B</answer>",
        "<thinking>a</thinking><answer>B</answer>x",
        "<answer>B</answer><thinking>a</thinking>",
        "<thinking>a</thinking><answer>B</answer><answer>C</answer>",
        "<thinking>a<answer>B</answer></thinking><answer>C</answer>",
        "<Thinking>a</Thinking><answer>B</answer>",
    ],
)
def test_malformed(text):
    assert not parse.response(text).well_formed


@pytest.mark.parametrize(
    "text",
    [
        "<" + " " * 10**6,
        "< " * 500_000,
        "<answer" + "\t" * 10**6 + "<",
        "<answer>" * 125_000,
        "<answer></answer>" * 60_000,
        "<" * 10**6,
        "</" * 500_000 + "answer>",
    ],
    ids=["gap", "gaps", "tail", "opened", "pairs", "open", "slash"],
)
def test_a_megabyte_is_read_in_linear_time(text):
    start = time.process_time()
    parse.response(text)
    # A scan that looks back would take 10**12 steps, which is hours.
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("<answer>3</answer>", "3"), ("3", "3"), (" <answer> a b </answer>\n", "a b"), ("", "")],
)
def test_a_rows_answer_comes_with_or_without_tags(answer, truth):
    assert parse.truth(answer) == truth


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3.0),
        (" -2.50 ", -2.5),
        ("1,234,567.5", 1234567.5),
        ("1e3", 1000.0),
        ("9" * 100, float("9" * 100)),
        ("1e-999999", 0.0),
        ("\uff13", 3.0),  # a full-width digit
        ("\u0664\u0662", 42.0),  # Arabic-Indic digits
    ],
)
def test_numbers(text, value):
    assert float(parse.number(text)) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no_number"),
        ("three", "no_number"),
        ("3 m", "no_number"),
        ("1 or 2", "no_number"),
        ("\ud800", "no_number"),
        ("NaN", "not_finite"),
        ("-Infinity", "not_finite"),
        ("1e400", "not_finite"),
        ("9" * 399, "not_finite"),
        ("9" * 10**6, "too_long"),
    ],
)
def test_what_is_no_finite_number(text, kind):
    assert unscorable(parse.number, text) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no_json"),
        ("[1]", "no_json"),
        ('"boxes"', "no_json"),
        ("{'boxes': 1}", "no_json"),
        ('{"a": 1} x', "no_json"),
        ('{"a":' * 4000 + "1" + "}" * 4000, "no_json"),
        ("[" * 40_000, "no_json"),
        ('{"a": NaN}', "not_finite"),
        ('{"a": -Infinity}', "not_finite"),
        ('{"a": 1e400}', "not_finite"),
        ('{"a": ' + "9" * 399 + "}", "not_finite"),
        ('{"a": ' + "9" * 5000 + "}", "too_long"),
        ('{"a": "' + "x" * 10**6 + '"}', "too_long"),
    ],
)
def test_what_is_no_json_object(text, kind):
    assert unscorable(parse.json_object, text) == kind


def test_every_number_of_a_json_object_is_a_finite_float():
    assert parse.json_object('{"a": [1, 2.5, 1e2]}') == {"a": [1.0, 2.5, 100.0]}


integer = st.integers(-(10**320), 10**320).map(str)
literal = st.one_of(
    integer, st.floats().map(json.dumps), st.builds("{}e{}".format, integer, integer)
)


@hyp.given(st.lists(literal, max_size=3))
def test_every_number_of_a_json_object_is_finite_or_the_object_is_refused(literals):
    text = f'{{"a": [{",".join(literals)}]}}'
    try:
        found = parse.json_object(text)["a"]
    except parse.Unscorable as problem:
        assert problem.kind in ("not_finite", "too_long")
        assert any(len(x) > 300 or not math.isfinite(float(x)) for x in literals)
    else:
        assert all(math.isfinite(float(v)) for v in found)


@hyp.given(st.text(st.characters()))
def test_any_text_is_read_or_refused_by_a_known_kind(text):
    for function in (parse.number, parse.json_object):
        try:
            function(text)
        except parse.Unscorable as problem:
            assert problem.kind in parse.KINDS
