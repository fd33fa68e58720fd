"""Taking an option, a number, a box or points out of what a model wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.evaluate import extract

ANIMALS = {"A": "a cat", "B": "a dog", "C": "a horse", "D": "a wild horse"}

NAMED = {
    "B": "B",
    "b": "B",
    "(b)": "B",
    "B.": "B",
    "**B**": "B",
    "$B$": "B",
    "\\boxed{B}": "B",
    "\\boxed{\\text{(B)}}": "B",
    "B. a dog": "B",
    "(B) A dog.": "B",
    "a dog": "B",
    "A dog": "B",
    "It is a dog.": "B",
    "The answer is (B)": "B",
    "The answer is B, since it barks.": "B",
    "the correct option is: **B**": "B",
    "Answer: B": "B",
    "ANSWER: B": "B",
    "Final answer:\n\nB": "B",
    "I first thought the answer is A. No: the answer is C.": "C",
    "The answer is A": "A",
    "The answer is A.": "A",
    "The answer is A a cat": "A",
    "So $\\boxed{D}$ it is": "D",
    "B. a dog\n\nIt has floppy ears.": "B",
    "It must be (C) because of the hooves": "C",
    "a wild horse": "D",  # holds C's text as well
    "Looking at the hooves, C": "C",
    "A": "A",
    " A. ": "A",
}
NOT_NAMED = (
    "",
    "A furry animal is in the picture",
    "A",  # with choices that have no A, below
    "The answer is a question of taste",
    "The answer is A matter of taste",
    "I think this is hard to say",
    "I see no animal at all",
    "A or B",
    "(A) or (B)",
    "either a cat or a dog",
    "E",
    "answer answer answer",
)


@pytest.mark.parametrize("text", NAMED)
def test_an_answer_that_names_an_option(text):
    assert extract.choice(text, ANIMALS) == NAMED[text]


@pytest.mark.parametrize("text", NOT_NAMED)
def test_an_answer_that_names_none_or_several(text):
    choices = {k: v for k, v in ANIMALS.items() if k != "A"} if text == "A" else ANIMALS
    assert extract.choice(text, choices) is None


def test_options_without_texts_are_letters_alone():
    letters = dict.fromkeys("ABCDEFGHI", "")
    assert extract.choice("The answer is G", letters) == "G"
    assert extract.choice("A triangle is shown", letters) is None
    assert extract.choice("I", letters) == "I"


def test_options_that_are_letters_or_numbers_themselves():
    assert extract.choice("3", {"A": "1", "B": "3", "C": "13"}) == "B"
    assert extract.choice("The number is 13", {"A": "1", "B": "3", "C": "13"}) == "C"
    assert extract.choice("3.5", {"A": "3", "B": "3.5"}) == "B"
    assert extract.choice("-2", {"A": "2", "B": "-2"}) == "B"


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<thinking>A or B</thinking><answer>B</answer>", "B"),
        ("<think>A or B</think>\n\nB", "B"),
        ("<think>a</think> no, <think>b</think> C ", "C"),
        ("only this", "only this"),
        ("<answer>1</answer> and <answer>2</answer>", "1"),
        ("<think> never closed", "<think> never closed"),
    ],
)
def test_the_answer_of_a_response(text, answer):
    assert extract.answer_of(text) == answer


def test_a_long_answer_is_read_at_its_end():
    assert extract.choice(extract.answer_of("x" * 10**6 + " The answer is B"), ANIMALS) == "B"


@pytest.mark.parametrize(
    "text, number",
    [
        ("42", 42.0),
        ("about 1,234.5 metres", 1234.5),
        ("between 3 and 7", 7.0),
        ("\\boxed{0.25} of 4", 0.25),
        ("17%", 17.0),
        ("-3e2", -300.0),
        ("none", None),
        ("NaN", None),
        ("1e999", None),
    ],
)
def test_numbers(text, number):
    assert extract.number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        '{"boxes": [10, 20, 30.5, 40]}',
        '{"bbox_2d": [10, 20, 30.5, 40], "label": "cat"}',
        '[{"bbox_2d": [10, 20, 30.5, 40], "label": "cat"}]',
        '```json\n[{"bbox_2d": [10, 20, 30.5, 40]}]\n```',
        "[10, 20, 30.5, 40]",
        "The box is [10, 20, 30.5, 40].",
        "(10,20),(30.5,40)",
        "<|box_start|>(10, 20), (30.5, 40)<|box_end|>",
        "[[10, 20], [30.5, 40]]",
    ],
)
def test_boxes_in_every_usual_form(text):
    assert extract.box(text) == [10, 20, 30.5, 40]


@pytest.mark.parametrize(
    "text", ["", "none", "[1, 2, 3]", "{}", "[]", '{"boxes": null}', "[true, true, true, true]"]
)
def test_no_box(text):
    assert extract.box(text) is None


@pytest.mark.parametrize(
    "text, points",
    [
        ('[{"point_2d": [10, 20], "label": "a"}, {"point_2d": [3, 4]}]', [(10, 20), (3, 4)]),
        ('{"point_2d": [10, 20]}', [(10, 20)]),
        ("[(0.5, 0.25), (0.1, 0.2)]", [(0.5, 0.25), (0.1, 0.2)]),
        ("[[500, 250]]", [(500, 250)]),
        ("It is at (500, 250).", [(500, 250)]),
        ('<point x="50" y="25" alt="cup">cup</point>', [(0.5, 0.25)]),
        ('<points x1="50" y1="25" x2="10" y2="20">', [(0.5, 0.25), (0.1, 0.2)]),
        ("no point", []),
    ],
)
def test_points_in_every_usual_form(text, points):
    assert extract.points(text) == points


hostile = st.one_of(
    st.text(),
    st.text(alphabet="AB().*:{}[],0123456789 \\\"'<>answeris\n", max_size=300),
    st.builds(lambda part, n: part * n, st.text(min_size=1, max_size=8), st.integers(1, 5000)),
)


@given(hostile)
def test_nothing_raises_on_any_text(text):
    assert extract.choice(text, ANIMALS) in (None, *ANIMALS)
    assert extract.choice(text, dict.fromkeys("ABC", "")) in (None, *"ABC")
    extract.number(text)
    box = extract.box(text)
    assert box is None or len(box) == 4
    assert all(len(point) == 2 for point in extract.points(text))
    extract.answer_of(text)
    extract.region(text)


PREFIX = st.sampled_from(["", "Answer: ", "The answer is ", "the best choice is: "])
WRAP = st.sampled_from(["{}", "({})", "**{}**", "\\boxed{{{}}}", "{}."])


@given(st.sampled_from("ABCD"), PREFIX, WRAP)
def test_a_named_letter_is_found_whatever_is_wrapped_around(letter, prefix, wrap):
    assert extract.choice(prefix + wrap.format(letter), ANIMALS) == letter
