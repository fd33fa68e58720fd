"""Rows of every shape that the public files have, and every way in which a row can be bad."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from g2rpo_jax.data import rows

NAN = float("nan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one good, one truncated and one fake picture."""
    path = tmp_path_factory.mktemp("rows")
    (path / "deep").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path / "deep" / "good.png")
    data = (path / "deep" / "good.png").read_bytes()
    (path / "cut.png").write_bytes(data[: len(data) // 2])
    (path / "fake.png").write_text("this is no picture")
    return path


def raw(**changes):
    """A row as the training file has them, with changes; a change to None drops the field."""
    row = {
        "problem_id": 310,
        "problem": "<image> Is the first symbol the smallest ?",
        "problem_reserved_text": "Is the first symbol the smallest ?",
        "data_type": "image",
        "problem_type": "multiple choice",
        "task_type": "chart_figure_qa",
        "options": ["A. No", "B. Yes"],
        "answer": "<answer>B</answer>",
        "images": ["./deep/good.png"],
        "data_source": "MapQA",
        **changes,
    }
    return {key: value for key, value in row.items() if value is not None}


def example(folder, **changes):
    return rows.to_example(raw(**changes), str(folder), "f.json row 3")


def test_a_row_of_the_training_file_is_read(folder):
    found = example(folder)
    assert found == rows.Example(
        id="310",
        problem="<image> Is the first symbol the smallest ?",
        options=("A. No", "B. Yes"),
        answer="B",
        problem_type="multiple choice",
        task="chart_figure_qa",
        data_type="image",
        images=(str(folder / "deep" / "good.png"),),
        thinking="",
        where="f.json row 3",
    )
    (image,) = rows.open_images(found)
    assert image.mode == "RGB" and image.size == (30, 40)


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"options": "['A. No', 'B. \"Yes\"']"}, "options", ("A. No", 'B. "Yes"')),
        ({"options": '["A. No", "B. It\'s"]'}, "options", ("A. No", "B. It's")),
        ({"options": "A. No\nB. Yes"}, "options", ("A. No", "B. Yes")),
        ({"options": NAN}, "options", ()),
        ({"options": None}, "options", ()),
        ({"images": "./deep/good.png"}, "images", ("deep/good.png",)),
        ({"images": "['./deep/good.png']"}, "images", ("deep/good.png",)),
        ({"answer": "B"}, "answer", "B"),
        ({"answer": " <answer> B\n</answer> "}, "answer", "B"),
        ({"answer": 3, "problem_type": "numerical"}, "answer", "3"),
        ({"answer": 0, "problem_type": "numerical"}, "answer", "0"),
        (
            {"answer": {"boxes": [1, 2, 30, 40]}, "problem_type": "spatial grounding"},
            "answer",
            '{"boxes": [1, 2, 30, 40]}',
        ),
        ({"answer": "a < b and </x>", "problem_type": "OCR"}, "answer", "a < b and </x>"),
        ({"problem_type": "ocr"}, "problem_type", "OCR"),
        ({"task_type": None}, "task", "multiple choice"),
        ({"task_type": NAN}, "task", "multiple choice"),
        ({"data_type": None}, "data_type", "image"),
        ({"videos": NAN}, "data_type", "image"),
        ({"thinking": "so"}, "thinking", "so"),
        ({"problem_id": NAN}, "id", "f.json row 3"),
        ({"images": None, "problem": "What?", "data_type": "text"}, "images", ()),
        ({"images": NAN, "problem": "What?", "data_type": None}, "data_type", "text"),
    ],
)
def test_the_shapes_of_public_files_are_all_read(folder, changes, field, value):
    if field == "images":
        value = tuple(str(folder / path) for path in value)
    assert getattr(example(folder, **changes), field) == value


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"images": ["./deep/gone.png"]}, "missing_image", "deep/gone.png does not exist"),
        ({"images": []}, "image_count", "1 <image> markers for 0 images"),
        ({"images": ["./deep/good.png"] * 2}, "image_count", "1 <image> markers for 2 images"),
        ({"problem": "no marker"}, "image_count", "0 <image> markers for 1 images"),
        ({"images": [7]}, "bad_images", "an image is 7"),
        ({"images": {"a": 1}}, "bad_images", "not a list"),
        ({"options": "[A. No"}, "bad_options", "which is not a list"),
        ({"options": 5}, "bad_options", "field 'options' is 5"),
        ({"answer": None}, "missing_answer", "field 'answer' is None"),
        ({"answer": NAN}, "missing_answer", "field 'answer' is nan"),
        ({"answer": "<answer> </answer>"}, "missing_answer", "nothing to score"),
        ({"problem_type": "numerical"}, "bad_answer", "'B'"),
        ({"problem": " "}, "missing_problem", "field 'problem' is ' '"),
        ({"problem": NAN}, "missing_problem", "field 'problem' is nan"),
        ({"problem_type": "multiple choise"}, "unknown_problem_type", "mean 'multiple choice'"),
        ({"problem_type": None}, "unknown_problem_type", "unknown problem_type"),
        ({"task_type": "chart_figure"}, "unknown_task", "did you mean 'chart_figure_qa'"),
        ({"task_type": 4}, "unknown_task", "'4'"),
        ({"data_type": "audio"}, "unknown_data_type", "'audio' is not one of image, text, video"),
        ({"data_type": "video"}, "video", "video rows are not read"),
        ({"videos": ["a.mp4"]}, "video", "video rows are not read"),
        ({"problem": "<video> <image> What?"}, "video", "video rows are not read"),
    ],
)
def test_a_bad_row_says_where_and_what_is_wrong(folder, changes, reason, message):
    with pytest.raises(rows.BadRow) as caught:
        example(folder, **changes)
    assert caught.value.reason == reason
    text = str(caught.value)
    assert text.startswith("f.json row 3: ") and message in text and "\n" not in text


@pytest.mark.parametrize("value", [None, 3, "row", [raw()]])
def test_what_is_no_object_is_no_row(folder, value):
    with pytest.raises(rows.BadRow, match="f.json row 3: a JSON object is expected"):
        rows.to_example(value, str(folder), "f.json row 3")


@pytest.mark.parametrize(
    ("name", "says"), [("cut.png", "cannot be read"), ("fake.png", "no image")]
)
def test_a_damaged_picture_is_found_when_opened(folder, name, says):
    found = example(folder, images=[name])
    with pytest.raises(rows.BadRow, match=says) as caught:
        rows.open_images(found)
    assert caught.value.reason == "broken_image" and name in str(caught.value)


def test_a_picture_that_vanished_after_reading_is_a_bad_row(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    found = example(tmp_path, images=["a.png"])
    (tmp_path / "a.png").unlink()
    with pytest.raises(rows.BadRow, match="does not exist"):
        rows.open_images(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(raw())), JSON))
def test_whatever_a_field_holds_the_row_is_good_or_bad_but_never_a_crash(folder, changes):
    try:
        found = rows.to_example({**raw(), **changes}, str(folder), "here")
    except rows.BadRow as bad:
        assert str(bad).startswith("here: ")
    else:
        assert isinstance(found.answer, str) and found.problem.count("<image>") == len(found.images)


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_bad_rows_are_skipped_counted_and_named(folder):
    bad = [raw(answer=None), raw(images=["gone.png"]), raw(answer=NAN)]
    path = write(folder, "mixed.json", json.dumps([raw()] * 17 + bad))
    found = rows.read(path, max_bad_share=0.2)
    assert len(found.examples) == 17
    assert found.skipped == {"missing_answer": 2, "missing_image": 1}
    assert [message.split(":")[0] for message in found.messages] == [
        "mixed.json row 17",
        "mixed.json row 18",
        "mixed.json row 19",
    ]
    with pytest.raises(ValueError, match="3 of 20 rows cannot be used") as caught:
        rows.read(path)
    assert "mixed.json row 19" in str(caught.value) and "max_bad_share" in str(caught.value)


def test_of_many_complaints_the_first_ten_are_shown(folder):
    path = write(folder, "bad.json", json.dumps([raw(answer=None)] * 30))
    with pytest.raises(ValueError, match="30 of 30 rows") as caught:
        rows.read(path, max_bad_share=1.0)  # none good is an error at any limit
    assert "bad.json row 9:" in str(caught.value) and "bad.json row 10:" not in str(caught.value)


def test_lines_are_rows_and_a_broken_line_costs_itself_alone(folder):
    lines = [json.dumps(raw()), "", json.dumps(raw())[:-9], json.dumps(raw(options=["A. \u2028"]))]
    path = write(folder, "rows.jsonl", "\n".join(lines))
    found = rows.read(path, max_bad_share=0.5)
    assert len(found.examples) == 2 and found.skipped == {"wrong_json": 1}
    assert found.messages[0].startswith("rows.jsonl line 3: not JSON")


def test_images_are_looked_for_beside_the_file_or_where_told(folder, tmp_path):
    text = json.dumps([raw()])
    assert rows.read(write(folder, "beside.json", text)).examples
    elsewhere = write(tmp_path, "away.json", text)
    assert rows.read(elsewhere, image_dir=str(folder)).examples
    with pytest.raises(ValueError, match="image_dir"):
        rows.read(elsewhere)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "there is no such file"),
        ("cut.json", b'[{"problem": "x"', "is not JSON"),
        ("object.json", b'{"problem": "x"}', "holds a dict, but a list of rows"),
        ("empty.json", b"[]", "0 of 0 rows"),
        ("latin.json", b'["\xe9"]', "is not UTF-8"),
        ("rows.csv", b"a,b", "a .json or .jsonl file"),
        ("deep.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_an_unusable_file_is_named_with_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        rows.read(str(path))
    assert name in str(caught.value)
