"""Rows of every shape that the public files have, and every way in which a row can be bad."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from g2rpo_jax.data import rows
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.data.skips import Skips

NAN = float("nan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a picture and a file that may pass for a video."""
    path = tmp_path_factory.mktemp("rows")
    (path / "deep").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path / "deep" / "good.png")
    (path / "clip.mp4").write_bytes(b"looked at when it is opened")
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
    return rows.to_example(raw(**changes), "f.json row 3", DataConfig(), str(folder))


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
        ({"task_type": None}, "task", "multiple_choice"),
        ({"task_type": NAN}, "task", "multiple_choice"),
        ({"data_type": None}, "data_type", "image"),
        ({"videos": NAN}, "data_type", "image"),
        ({"images": None, "image": "deep/good.png"}, "images", ("deep/good.png",)),
        ({"images": NAN, "image": {"bytes": b"x", "path": "a.png"}}, "images", (b"x",)),
        ({"images": [{"bytes": None, "path": "deep/good.png"}]}, "images", ("deep/good.png",)),
        ({"images": {"bytes": b"x", "path": None}}, "images", (b"x",)),
        (
            {"images": [b"x", {"path": "deep/good.png"}], "problem": "<image><image>"},
            "images",
            (b"x", "deep/good.png"),
        ),
        ({"images": "[]", "problem": "What?", "data_type": "text"}, "images", ()),
        (
            {"images": None, "videos": ["clip.mp4"], "problem": "<video> ?", "data_type": NAN},
            "data_type",
            "video",
        ),
        (
            {"videos": ["clip.mp4"], "problem": "<video> <image> ?", "data_type": "video"},
            "videos",
            ("clip.mp4",),
        ),
        (
            {
                "images": None,
                "video": {"bytes": b"v", "path": None},
                "problem": "<video> ?",
                "data_type": "video",
            },
            "videos",
            (b"v",),
        ),
        (
            {"images": None, "videos": [["deep/good.png"] * 2], "problem": "<video>"},
            "videos",
            (("deep/good.png",) * 2,),
        ),
        (
            {"images": None, "problem": "What does <video> mean?", "data_type": "text"},
            "problem",
            "What does <video> mean?",
        ),
        ({"extra": {"a": [1]}, "score": NAN}, "id", "310"),
        ({"thinking": "so"}, "thinking", "so"),
        ({"problem_id": NAN}, "id", "f.json row 3"),
        ({"images": None, "problem": "What?", "data_type": "text"}, "images", ()),
        ({"images": NAN, "problem": "What?", "data_type": None}, "data_type", "text"),
    ],
)
def test_the_shapes_of_public_files_are_all_read(folder, changes, field, value):
    if field in ("images", "videos"):
        value = tuple(_found(folder, v) for v in value)
    assert getattr(example(folder, **changes), field) == value


def _found(folder, value):
    if isinstance(value, tuple):  # the frames of a video
        return tuple(_found(folder, v) for v in value)
    return value if isinstance(value, bytes) else str(folder / value)


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"images": ["./deep/gone.png"]}, "missing_image", "deep/gone.png does not exist"),
        ({"images": ["../good.png"]}, "path_outside", "leads out of the folder"),
        ({"images": ["deep"]}, "not_a_file", "a folder or a device"),
        ({"images": []}, "image_count", "1 <image> markers for 0 images"),
        ({"images": ["./deep/good.png"] * 2}, "image_count", "1 <image> markers for 2 images"),
        ({"problem": "no marker"}, "image_count", "0 <image> markers for 1 images"),
        ({"images": None, "data_type": NAN}, "image_count", "1 <image> markers for 0 images"),
        ({"images": [7]}, "bad_images", "image 7 is neither a path nor"),
        ({"images": [None]}, "bad_images", "image None is neither"),
        ({"images": [{"bytes": None, "path": None}]}, "bad_images", "image None is neither"),
        ({"images": {"a": 1}}, "bad_images", "not a list"),
        ({"image": "deep/good.png"}, "bad_images", "both a field 'image' and a field 'images'"),
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
        ({"data_type": "audio"}, "unknown_data_type", "'audio' is not one of image, text, video"),
        ({"data_type": "video", "images": None, "problem": "?"}, "video_count", "no image or vid"),
        ({"images": NAN, "problem": "What?"}, "image_count", "data_type is 'image', but there is"),
        ({"videos": ["clip.mp4"]}, "video_count", "0 <video> markers for 1 videos"),
        ({"videos": ["a.mp4"]}, "missing_video", "video a.mp4 does not exist"),
        ({"videos": "[a.mp4"}, "bad_videos", "which is not a list"),
    ],
)
def test_a_bad_row_says_where_and_what_is_wrong(folder, changes, reason, message):
    with pytest.raises(rows.BadRow) as caught:
        example(folder, **changes)
    assert caught.value.reason == reason
    text = str(caught.value)
    assert text.startswith("f.json row 3: ") and message in text and "\n" not in text


@pytest.mark.parametrize("value", [None, 3, "row", [raw()]])
def test_what_is_no_object_is_no_row(value):
    with pytest.raises(rows.BadRow, match="f.json row 3: a JSON object is expected"):
        rows.to_example(value, "f.json row 3", DataConfig())


def test_a_row_with_a_video_of_no_marker_is_bad_only_if_it_is_a_video_row(folder):
    with pytest.raises(rows.BadRow, match="1 <video> markers for 0 videos"):
        example(folder, images=None, problem="<video> ?", data_type="video")
    with pytest.raises(rows.BadRow, match="1 <video> markers for 0 videos"):
        example(folder, images=None, problem="<video> ?", data_type=None)


def test_bad_rows_travel_between_processes(folder):
    with pytest.raises(rows.BadRow) as caught:
        example(folder, answer=None)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (sent.reason, str(sent)) == (caught.value.reason, str(caught.value))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from(sorted(raw()) + ["videos", "image"]), JSON))
def test_whatever_a_field_holds_the_row_is_good_or_bad_but_never_a_crash(folder, changes):
    row = {**raw(), **changes}
    try:
        found = rows.to_example(row, "here", DataConfig(), str(folder))
    except rows.BadRow as bad:
        assert str(bad).startswith("here: ")
        assert set(bad.reason) <= set("abcdefghijklmnopqrstuvwxyz_")
    else:
        assert isinstance(found.answer, str) and found.problem.count("<image>") == len(found.images)


@given(
    changes=st.dictionaries(
        st.sampled_from(["problem_type", "task_type", "data_type", "problem", "images", "videos"]),
        JSON | st.sampled_from(["segmentation", "OCR", " math ", "video", "text", "<video> ?"]),
    )
)
def test_the_index_takes_whatever_a_row_holds_and_agrees_with_its_check(folder, changes):
    kinds, row = rows._Kinds(None), {**raw(), **changes}
    code = kinds(row)
    assert kinds(row) == code < len(kinds.names)
    try:
        found = rows.to_example(row, "here", DataConfig(), str(folder))
    except rows.BadRow as bad:
        assert code >= 0 or code == rows.BAD_CODES["unknown_problem_type"]
        assert bad.reason != "unknown_problem_type" or code < 0
    else:
        assert kinds.names[code] == found.task


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return str(folder / name)


def counted(source, **settings):
    """(row set, skips) after the index's own bad rows were counted."""
    found, skips = rows.RowSet(source, DataConfig(**settings), ("chart_figure_qa",)), Skips()
    found.skip_known(skips)
    return found, skips


def draw(found, skips, order):
    """Draws rows as a feed does; returns the good ones."""
    good = []
    for drawn, row in enumerate(order, 1):
        try:
            good.append(found[row])
        except rows.BadRow as bad:
            if found.skip(skips, row, bad):
                found.check_share(skips, drawn)
    return good


def test_what_the_index_knows_is_counted_at_once_and_never_drawn(folder):
    lines = [
        raw(),
        raw(problem_type="x"),
        raw(task_type="ocr"),
        3,
        raw(task_type="Chart_Figure_QA"),
    ]
    path = folder / "known.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), '{"a', "", json.dumps(raw())]))
    found, skips = counted(str(path), max_bad_share=0.7)
    assert len(found) == 7 and found.usable.tolist() == [0, 4, 6]
    assert skips.by_reason == {
        "not_an_object": 1, "unknown_problem_type": 1, "unknown_task": 1, "wrong_json": 1
    }  # fmt: skip
    assert skips.by_file == {str(path): skips.by_reason}
    assert [m.partition(":")[0] for m in skips.messages] == [
        f"known.jsonl line {i}" for i in (2, 3, 4, 6)
    ]
    assert "did you mean" not in skips.messages[1] and "'ocr' is not in" in skips.messages[1]
    assert found.groups().keys() == {"chart_figure_qa"} and found.task(4) == "chart_figure_qa"
    assert found[6].where == "known.jsonl line 8"
    with pytest.raises(ValueError, match="4 of 7 rows cannot be used") as caught:
        counted(str(path))
    assert "known.jsonl line 6: not JSON" in str(caught.value)
    assert "data.max_bad_share" in str(caught.value)


def test_rows_found_bad_when_drawn_are_counted_once(folder):
    bad = [raw(answer=None), raw(images=["gone.png"]), raw(answer=NAN)]
    path = write(folder, "mixed.json", [raw()] * 17 + bad)
    found, skips = counted(path, max_bad_share=0.2)
    for _ in range(2):
        assert len(draw(found, skips, range(20))) == 17
    assert skips.by_reason == {"missing_answer": 2, "missing_image": 1}
    assert [message.split(":")[0] for message in skips.messages] == [
        f"mixed.json row {i}" for i in (17, 18, 19)
    ]
    later = Skips()
    later.restore(json.loads(json.dumps(skips.to_json())))
    draw(found, later, range(20))
    assert later.by_file == skips.by_file and later.messages == skips.messages


def test_too_many_bad_rows_are_an_error_after_ten_or_at_the_end_of_a_small_file(folder):
    small = write(folder, "small.json", [raw(answer=None)] * 3 + [raw()] * 17)
    found, skips = counted(small)  # 10% allowed
    assert len(draw(found, skips, range(19))) == 16  # a small file is judged when all was seen
    found, skips = counted(small)
    with pytest.raises(ValueError, match="3 of 20 rows cannot be used"):
        draw(found, skips, [*range(3, 20), 0, 1, 2])
    with pytest.raises(ValueError, match="1 of 4 rows cannot be used"):
        draw(*counted(small, max_bad_share=0.0), [5, 6, 7, 0])
    large = write(folder, "large.json", [raw(answer=None)] * 30 + [raw()] * 270)
    found, skips = counted(large, max_bad_share=0.11)  # there are 10%
    with pytest.raises(ValueError, match="10 of 10 rows cannot be used") as caught:
        draw(found, skips, range(300))
    message = str(caught.value)
    assert "large.json row 9:" in message and "large.json row 10:" not in message
    found, skips = counted(large, max_bad_share=0.11)
    for seed in range(20):  # among few rows there may be more of them, by chance
        order = np.random.default_rng(seed).permutation(300).tolist()
        assert len(draw(found, Skips(), order)) == 270


def test_a_file_without_a_good_row_is_an_error_at_any_limit(folder):
    path = write(folder, "bad.json", [raw(answer=None)] * 12)
    found, skips = counted(path, max_bad_share=1.0)
    with pytest.raises(ValueError, match="12 of 12 rows"):
        draw(found, skips, range(12))
    with pytest.raises(ValueError, match="3 of 3 rows"):
        counted(write(folder, "none.json", [1, 2, 3]), max_bad_share=1.0)
    with pytest.raises(ValueError, match="0 of 0 rows"):
        counted(write(folder, "empty.json", []))


def test_media_are_looked_for_beside_the_file_or_where_told(folder, tmp_path):
    assert counted(write(folder, "beside.json", [raw()]))[0][0].images
    elsewhere = write(tmp_path, "away.json", [raw()])
    assert counted(elsewhere, image_dir=str(folder))[0][0].images
    with pytest.raises(rows.BadRow, match="data.image_dir"):
        counted(elsewhere)[0][0]


def test_a_task_type_of_each_row_its_own_is_an_error(folder):
    path = write(folder, "tasks.json", [raw(task_type=f"task {i}") for i in range(1001)])
    with pytest.raises(ValueError, match="more than 1,000 tasks, the last 'task 1000'"):
        rows.RowSet(path, DataConfig())
    # With the tasks of a configuration they are rows like others, of unknown tasks.
    with pytest.raises(ValueError, match="1001 of 1001 rows"):
        counted(path)


def test_the_index_and_the_row_agree_on_the_task(folder):
    changes = [
        {"task_type": None, "problem_type": "segmentation"},
        {"task_type": NAN, "problem_type": "segmentation", "data_type": None},
        {"task_type": "", "problem_type": "segmentation", "data_type": None, "images": None,
         "videos": ["clip.mp4"], "problem": "<video> Where?"},
        {"task_type": " OCR "},
        {"task_type": None, "problem_type": "ocr "},
    ]  # fmt: skip
    box = {"boxes": [1, 2, 3, 4], "positive_points": [[1, 1]] * 3, "negative_points": [[9, 9]] * 3}
    answers = [box, box, {**box, "time": 1.0}, "B", "B"]
    path = write(folder, "tasks.json", [
        raw(**change, answer=answer) for change, answer in zip(changes, answers, strict=True)
    ])  # fmt: skip
    found = rows.RowSet(path, DataConfig())
    tasks = ["segmentation_image", "segmentation_image", "segmentation_video", "ocr", "ocr"]
    assert [found.task(row) for row in range(5)] == tasks
    assert [found[row].task for row in range(5)] == tasks
