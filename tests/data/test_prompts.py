"""Examples to messages: pictures where their markers stand, options, tags, answer shapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from g2rpo_jax import rewards
from g2rpo_jax.data import prompts
from g2rpo_jax.data.example import BadRow, Example

ONE, TWO = Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))


def example(problem="<image> Which?", options=("A. 3", "B. 5"), images=(ONE,), **fields):
    return Example(
        id="1",
        problem=problem,
        options=options,
        answer="B",
        problem_type=fields.pop("problem_type", "multiple choice"),
        task="ocr",
        data_type=fields.pop("data_type", "image"),
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


def test_media_of_both_kinds_stand_where_their_markers_stood():
    row = example("<video> like <image> or <video>?", (), (ONE,), videos=("a", "b"))
    (message,) = prompts.messages(row, videos=["first", "second"])
    assert message["content"] == [
        {"type": "video", "video": "first"},
        {"type": "text", "text": " like "},
        {"type": "image", "image": ONE},
        {"type": "text", "text": " or "},
        {"type": "video", "video": "second"},
        {"type": "text", "text": "?"},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (example(images=(ONE, TWO)), "f.json row 1: 'problem' has 1 <image> markers for 2 images"),
        (example("Which?"), "0 <image> markers for 1 images"),
        (example("<image><image> Which?"), "2 <image> markers for 1 images"),
        (example(images=()), "1 <image> markers for 0 images"),
        (example("<image>", videos=("a",)), "0 <video> markers for 1 videos"),
        (example("<video>", (), (), data_type="video"), "1 <video> markers for 0 videos"),
    ],
)
def test_markers_and_media_that_differ_in_number_are_bad_rows(row, message):
    with pytest.raises(BadRow, match=message) as caught:
        prompts.messages(row)
    assert caught.value.reason in ("image_count", "video_count")


def test_what_only_looks_like_a_marker_is_text():
    row = example("<image> What does <video> mean in HTML, <Image> or <image1>?", ("A. <image>",))
    (message,) = prompts.messages(row)
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    text = message["content"][1]["text"]
    assert text == " What does <video> mean in HTML, <Image> or <image1>?\nA. <image>"
    (message,) = prompts.messages(example("Is <image> a tag?", (), (), data_type="text"))
    assert message["content"] == [{"type": "text", "text": "Is <image> a tag?"}]


@given(st.lists(st.sampled_from(["<image>", "<video>", "\0image0\0", "\0", "a", "\n", "}}"])))
def test_media_and_text_keep_their_order_whatever_stands_between(pieces):
    problem = "".join(pieces)
    count = {kind: problem.replace("\0", "").count(f"<{kind}>") for kind in ("image", "video")}
    media = {kind: [f"{kind} {i}" for i in range(n)] for kind, n in count.items()}
    row = example(problem, (), tuple(media["image"]), videos=tuple(media["video"]))
    (message,) = prompts.messages(row)
    found = message["content"]
    for kind in media:
        assert [part[kind] for part in found if part["type"] == kind] == media[kind]
    shown = "".join(part.get("text", f"<{part['type']}>") for part in found)
    assert shown == problem.replace("\0", "")


def test_unknown_templates_are_errors():
    with pytest.raises(ValueError, match="prompt template 'relaese'; did you mean 'release'"):
        prompts.messages(example(), "relaese")


@pytest.fixture
def written(tmp_path):
    """Writes a template file and gives its path."""

    def write(text: str) -> str:
        path = tmp_path / "mine.jinja"
        path.write_text(text)
        return str(path)

    yield write
    prompts.load.cache_clear()


def test_a_users_own_template_is_given_the_row(written):
    path = written(
        "[{{ task }}/{{ data_type }}/{{ problem_type }}]\n"
        "{% for option in options %}\n- {{ option }}\n{% endfor %}\n"
        "{{ problem }}\n{{ answer_shape }}"
    )
    (message,) = prompts.messages(example("See <image>."), path)
    before, picture, after = message["content"]
    assert before["text"] == "[ocr/image/multiple choice]\n- A. 3\n- B. 5\nSee "
    assert picture["image"] is ONE
    assert after["text"].startswith(".\nThe answer is the letter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ problem }}\n{{ problen }}", "mine.jinja line 2: UndefinedError: 'problen' is undef"),
        ("{{ problem }}\n\n{% if %}", "mine.jinja line 3: Expected an expression"),
        ("{{ problem }}\n{{ 1 / 0 }}", "mine.jinja line 2: ZeroDivisionError"),
        ("{{ problem }}{{ problem.__class__ }}", "mine.jinja line 1: SecurityError"),
        ("no question", "shows 0 of the row's 1 pictures and clips"),
        ("{{ problem }}{{ problem }}", "shows 2 of the row's 1"),
        ("{{ problem | upper }}", "shows 0 of the row's 1"),
    ],
)
def test_a_wrong_template_names_its_file_and_line_before_any_row(written, text, message):
    with pytest.raises(ValueError, match=message):
        prompts.load(written(text))


def test_a_template_file_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'none.jinja': no such file; .* plain, release"):
        prompts.load("none.jinja")


def test_the_answers_shape_of_a_segmentation_depends_on_the_media():
    still = example(problem_type="segmentation")
    clip = example("<video>", (), (), videos=("a",), data_type="video", problem_type="segmentation")
    assert '"time"' not in prompts.answer_shape(still) and '"time"' in prompts.answer_shape(clip)


def test_a_taught_response_has_its_thinking_or_leaves_it_empty():
    row = example(thinking="3 + 2")
    assert prompts.response(row) == "<thinking>3 + 2</thinking><answer>B</answer>"
    assert prompts.response(row, think=False) == "<thinking></thinking><answer>B</answer>"
    assert prompts.response(row, tag="think").startswith("<think>3 + 2</think>")
