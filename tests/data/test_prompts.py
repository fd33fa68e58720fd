"""Examples to messages: pictures where their markers stand, options, tags, answer shapes."""

import pytest
from PIL import Image

from g2rpo_jax import rewards
from g2rpo_jax.data import prompts, rows

ONE, TWO = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))


def example(problem="<image> Which?", options=("A. 3", "B. 5"), images=(ONE,), **fields):
    return rows.Example(
        id="1",
        problem=problem,
        options=options,
        answer="B",
        problem_type=fields.pop("problem_type", "multiple choice"),
        task="ocr",
        data_type="image",
        images=images,
        where="f.json row 1",
        **fields,
    )


def test_pictures_stand_where_their_markers_stood():
    (message,) = prompts.messages(example("Is <image> like <image>?", (), (ONE, TWO)))
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "text", "text": "Is "},
        {"type": "image", "image": ONE},
        {"type": "text", "text": " like "},
        {"type": "image", "image": TWO},
        {"type": "text", "text": "?"},
    ]


def test_a_plain_prompt_is_the_question_and_its_options():
    (message,) = prompts.messages(example())
    assert message["content"][1] == {"type": "text", "text": " Which?\nA. 3\nB. 5"}
    (message,) = prompts.messages(example("What?", (), ()))
    assert message["content"] == [{"type": "text", "text": "What?"}]


@pytest.mark.parametrize(("template", "tag"), [("release", "thinking"), ("onethinker", "think")])
@pytest.mark.parametrize("problem_type", rewards.REWARDS)
def test_instructed_prompts_name_the_tags_and_show_an_answer_that_scores(
    template, tag, problem_type
):
    text = prompts.TEMPLATES[template](example(problem_type=problem_type))
    assert text.startswith("<image> Which?\nOptions:\nA. 3\nB. 5\n")
    assert f"<{tag}> and </{tag}> tags" in text and "<answer> and </answer> tags" in text
    shown = text.rpartition("<answer>")[2].removesuffix("</answer>")
    response = f"<{tag}>so</{tag}><answer>{shown}</answer>"
    # The example answer has the shape that the problem type is scored by.
    assert rewards.score(response, shown, problem_type)["accuracy"] == 1.0


def test_opened_pictures_take_the_place_of_paths():
    (message,) = prompts.messages(example(images=("a.png",)), images=[TWO])
    assert message["content"][0]["image"] is TWO


def test_markers_and_pictures_that_differ_and_unknown_templates_are_errors():
    with pytest.raises(ValueError, match="f.json row 1: 1 <image> markers for 2 images"):
        prompts.messages(example(), images=[ONE, TWO])
    with pytest.raises(ValueError, match="prompt template 'relaese'; did you mean 'release'"):
        prompts.messages(example(), "relaese")


def test_a_taught_response_has_its_thinking_or_leaves_it_empty():
    row = example(thinking="3 + 2")
    assert prompts.response(row) == "<thinking>3 + 2</thinking><answer>B</answer>"
    assert prompts.response(row, think=False) == "<thinking></thinking><answer>B</answer>"
    assert prompts.response(row, tag="think").startswith("<think>3 + 2</think>")
