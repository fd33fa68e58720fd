"""Benchmark files: VLMEvalKit's table in all its forms, and the training formats."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from g2rpo_jax.data import prompts
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.evaluate.benchmarks import Source
from g2rpo_jax.evaluate.readers import Rows, truths
from tests.evaluate import files

DATA = DataConfig()


def picture(shade: int) -> bytes:
    # Noise does not compress: a picture's base64 is longer than any index.
    noise = np.random.default_rng(shade).integers(0, 256, (12, 12, 3), np.uint8)
    return files.png(Image.fromarray(noise))


def base(shade: int) -> str:
    return base64.b64encode(picture(shade)).decode()


def table(tmp_path, rows, name="chartqa", data=DATA):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = files.write_tsv(tmp_path / "table.tsv", rows, columns)
    return Rows(Source(name, (str(path),)), data)


def test_a_plain_row(tmp_path):
    rows = table(
        tmp_path,
        [{"index": 7, "image": base(1), "question": 'How\tmany\n"lines"?', "answer": "12%"}],
    )
    assert len(rows) == 1
    row = rows.row(0)
    example, question = row.example, row.question
    assert example.problem.startswith('<image> How\tmany\n"lines"?\nAnswer the question')
    assert example.images == (picture(1),) and example.id == "7" and example.options == ()
    assert question.truths == ("12%",) and question.choices == {}


def test_options_become_lines_and_choices(tmp_path):
    rows = table(
        tmp_path,
        [
            {"index": 0, "image": base(1), "question": "Q?", "answer": "B", "A": "x", "B": "y"}
            | {"C": "", "D": "z", "hint": "Look."}
        ],
        "mmstar",
    )
    row = rows.row(0)
    assert row.example.options == ("A. x", "B. y", "D. z")
    assert row.question.choices == {"A": "x", "B": "y", "D": "z"}
    assert row.example.problem == "<image> Hint: Look.\nQ?"
    assert row.example.problem_type == "multiple choice"


def test_choices_that_the_question_lists_are_not_shown_twice(tmp_path):
    listed = "['left side', 'right side']"
    first = {"index": 0, "image": base(1), "answer": "right side", "choices": listed}
    rows = table(
        tmp_path,
        [
            first | {"question": "Q?\n(A) left side\n(B) right side", "answer_option": "B"},
            first | {"question": "Q?", "answer_option": "", "index": 1},
        ],
        "mathvista",
    )
    for i, shown in ((0, ()), (1, ("A. left side", "B. right side"))):
        row = rows.row(i)
        assert row.example.options == shown
        assert row.question.choices == {"A": "left side", "B": "right side"}
    assert rows.row(0).question.truths == ("B",)
    assert rows.row(1).question.truths == ("right side",)


def test_an_image_cell_may_name_another_row_or_list_several(tmp_path):
    row = {"question": "Q?", "answer": "1"}
    rows = table(
        tmp_path,
        [
            row | {"index": 10, "image": base(1)},
            row | {"index": 11, "image": "10"},
            row | {"index": 12, "image": str([base(2), base(3)])},
            row | {"index": 13, "image": "99"},
            row | {"index": 14, "image": "data:image/png;base64," + base(4)},
            row | {"index": 15, "image": "*" * 100},
            row | {"index": 16, "image": ""},
        ],
    )
    assert rows.row(1).example.images == (picture(1),)
    several = rows.row(2).example
    assert several.images == (picture(2), picture(3))
    assert several.problem.startswith("<image> <image> Q?")
    assert rows.row(4).example.images == (picture(4),)
    assert rows.row(6).example.data_type == "text"
    for i, reason in ((3, "missing_image"), (5, "broken_image")):
        with pytest.raises(BadRow, match=f"table.tsv row {i}") as error:
            rows.row(i)
        assert error.value.reason == reason


def test_numbered_markers_place_pictures(tmp_path):
    row = {"index": 0, "image": str([base(1), base(2)]), "answer": "A", "B": "<image 1>"}
    rows = table(
        tmp_path,
        [
            row | {"question": "See <image 2>, then?", "A": "none"},
            row | {"question": "See <image 3>?", "A": "none"},
        ],
        "mmmu",
    )
    example = rows.row(0).example
    assert example.problem == "See <image>, then?"
    assert example.options == ("A. none", "B. <image>")
    assert example.images == (picture(2), picture(1))
    with pytest.raises(BadRow, match="names <image 3>, but there are 2"):
        rows.row(1)


def test_image_paths_stay_in_their_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(1))
    (tmp_path / "secret.png").write_bytes(picture(2))
    row = {"index": 0, "question": "Q?", "answer": "1"}
    data = DataConfig(image_dir=str(tmp_path / "pictures"))
    rows = table(
        tmp_path,
        [
            row | {"image_path": "a.png"},
            row | {"image_path": "['a.png', 'a.png']"},
            row | {"image_path": "../secret.png"},
            row | {"image_path": "b.png"},
        ],
        data=data,
    )
    assert rows.row(0).example.images == (str(tmp_path / "pictures" / "a.png"),)
    assert len(rows.row(1).example.images) == 2
    for i, reason in ((2, "path_outside"), (3, "missing_image")):
        with pytest.raises(BadRow) as error:
            rows.row(i)
        assert error.value.reason == reason


def test_rows_are_found_again_in_any_order(tmp_path):
    many = [
        {"index": i, "image": base(i), "question": f'Zeile {i}\nü€😀 "q"', "answer": str(i)}
        for i in range(40)
    ]
    rows = table(tmp_path, many)
    for i in np.random.default_rng(0).permutation(40):
        row = rows.row(int(i))
        assert row.question.truths == (str(i),) and row.example.images == (picture(int(i)),)
        assert f'Zeile {i}\nü€😀 "q"' in row.example.problem


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("\ufeffindex\tquestion\tanswer\r\n1\tQ?\t5\r\n2\tP?\t6\r\n".encode())
    rows = Rows(Source("rows", (str(path),)), DATA)
    assert [rows.row(i).question.truths[0] for i in range(2)] == ["5", "6"]


def test_empty_cells_are_named(tmp_path):
    good = {"index": 0, "question": "Q?", "answer": "1"}
    rows = table(tmp_path, [good | {"question": " "}, good | {"answer": ""}])
    for i, reason in enumerate(("missing_problem", "missing_answer")):
        with pytest.raises(BadRow) as error:
            rows.row(i)
        assert error.value.reason == reason


def test_files_that_are_no_table(tmp_path):
    path = tmp_path / "t.tsv"
    for text, said in (
        ("a,b\n1,2\n", "no column 'question' and 'answer'"),
        ("", "no column"),
        ("question\tanswer\n", "has no rows"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            Rows(Source("rows", (str(path),)), DATA)
    path.write_bytes(b"question\tanswer\nQ\t\xff\n")
    with pytest.raises(ValueError, match="UTF-8"):
        Rows(Source("rows", (str(path),)), DATA)


def test_a_row_with_another_number_of_columns_is_bad(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("question\tanswer\nQ\t1\textra\nP\t2\n")
    rows = Rows(Source("rows", (str(path),)), DATA)
    with pytest.raises(BadRow, match="3 columns"):
        rows.row(0)
    assert rows.row(1).question.truths == ("2",)


def test_pixel_boxes_and_masks(tmp_path):
    mask = files.png(Image.fromarray(np.full((8, 8), 255, np.uint8)))
    box = dict(zip(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), (64, 48, 320, 240), strict=True))
    row = {"index": 0, "question": "Where?", "answer": "", "width": 640, "height": 480}
    rows = table(tmp_path, [row | box, row | {"mask": base64.b64encode(mask).decode()}], "refcoco")
    assert rows.row(0).question.truths == ("[100.0, 100.0, 500.0, 500.0]",)
    region = rows.row(1).question.region
    assert Image.open(io.BytesIO(region)).size == (8, 8)


def test_lists_of_answers():
    assert truths("['a', \"b's\"]") == ("a", "b's")
    assert truths("[(0.1, 0.2), (0.3, 0.4)]") == ("[(0.1, 0.2), (0.3, 0.4)]",)
    assert truths("[not a list") == ("[not a list",)
    assert truths("plain") == ("plain",)


def test_several_files_are_numbered_through_and_name_the_category(tmp_path):
    paths = []
    for name in ("eval_refcoco_val", "eval_refcoco_testA"):
        path = tmp_path / f"{name}.tsv"
        files.write_tsv(
            path, [{"question": name, "answer": "[1, 2, 3, 4]"}] * 2, ["question", "answer"]
        )
        paths.append(str(path))
    rows = Rows(Source("refcoco", tuple(paths)), DATA)
    assert len(rows) == 4
    assert [rows.row(i).question.category for i in (0, 1, 2, 3)] == ["eval_refcoco_val"] * 2 + [
        "eval_refcoco_testA"
    ] * 2
    with pytest.raises(IndexError):
        rows.row(4)


def test_the_three_formats_give_the_same_prompts(tmp_path):
    count = 60
    sources = {
        "embedded": f"embedded:test?rows={count}",
        "tsv": str(files.embedded_tsv(tmp_path / "rows.tsv", count)),
        "json": str(files.embedded_json(tmp_path, count)),
    }
    read = {name: Rows(Source("rows", (path,)), DATA) for name, path in sources.items()}
    assert {len(rows) for rows in read.values()} == {count}
    for i in range(count):
        rows = {name: each.row(i) for name, each in read.items()}
        expected = rows["embedded"]
        for row in rows.values():
            assert prompts.plain(row.example) == prompts.plain(expected.example)
            assert row.question == expected.question
