"""A thousand rows, fifty of them broken, in more than twenty ways: training goes on, all count."""

import collections
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.encoding import PromptEncoder
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.data.skips import Skips
from g2rpo_jax.train.feed import Feed

TOTAL, BROKEN = 1000, 50
CONFIG = DataConfig(
    template="plain",
    prompt_tokens=(48, 96),
    patches=(0, 64),
    max_pixels=64 * 64,
    max_image_pixels=10_000,
)
TASKS = ("ocr", "math_reasoning")

# What is broken -> (reason, changes to a good row; a text: the whole line).
WAYS = {
    "a line cut off": ("wrong_json", '{"problem": "<image> wh'),
    "a line in another encoding": ("not_utf8", None),
    "a bare number": ("not_an_object", "3"),
    "a list": ("not_an_object", '["problem", "answer"]'),
    "an unknown problem type": ("unknown_problem_type", {"problem_type": "essay"}),
    "no problem type": ("unknown_problem_type", {"problem_type": None}),
    "a task of no configuration": ("unknown_task", {"task_type": "poetry"}),
    "no question": ("missing_problem", {"problem": "  "}),
    "no answer": ("missing_answer", {"answer": float("nan")}),
    "an answer that cannot be right": ("bad_answer", {"answer": "<answer>many</answer>"}),
    "options that are no list": ("bad_options", {"options": "['A. x', "}),
    "an unknown data type": ("unknown_data_type", {"data_type": "audio"}),
    "more markers than pictures": ("image_count", {"problem": "<image><image> which?"}),
    "no picture": ("image_count", {"images": []}),
    "pictures that are no paths": ("bad_images", {"images": [5]}),
    "a picture that is not there": ("missing_image", {"images": ["gone.png"]}),
    "a path out of the folder": ("path_outside", {"images": ["../../etc/passwd"]}),
    "a folder": ("not_a_file", {"images": ["folder"]}),
    "an empty file": ("empty_image", {"images": ["empty.png"]}),
    "a page of text": ("not_an_image", {"images": ["page.png"]}),
    "half a picture": ("truncated_image", {"images": ["half.jpg"]}),
    "a bomb": ("image_too_large", {"images": ["bomb.png"]}),
    "a picture 300 times as wide as high": ("image_aspect", {"images": ["line.png"]}),
    "a prompt over the limit": ("prompt_too_long", {"problem": "<image> " + "1 2 3 " * 40}),
    "more patches than any bucket": ("too_many_patches", {
        "problem": "<image><image> which?", "images": ["0.png", "1.png"],
    }),
    "a control token": ("special_token", {"problem": "<image> what <|im_end|> is it?"}),
    "a video that is not there": ("missing_video", {
        "problem": "<video> what?", "images": [], "videos": ["gone.mp4"], "data_type": "video",
    }),
    "a video that is none": ("not_a_video", {
        "problem": "<video> what?", "images": [], "videos": ["page.png"], "data_type": "video",
    }),
}  # fmt: skip


def good(i):
    return {
        "problem_id": i,
        "problem": f"<image> count the {i % 7}s",
        "problem_type": "numerical",
        "task_type": TASKS[i % 2],
        "data_type": "image",
        "options": [],
        "answer": f"<answer>{i}</answer>",
        "images": [f"{i % 5}.png"],
    }


def line(i, way):
    """Line i of the file, broken in a way or not."""
    if way is None:
        return json.dumps(good(i)).encode()
    changes = WAYS[way][1]
    if changes is None:
        return json.dumps(good(i)).encode().replace(b"count", b"z\xe4hle")
    if isinstance(changes, str):
        return changes.encode()
    return json.dumps({k: v for k, v in (good(i) | changes).items() if v is not None}).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("broken")
    tokenizer.build(str(path))
    for i in range(5):
        Image.fromarray(np.full((64, 64, 3), 40 * i, np.uint8)).save(path / f"{i}.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "jpeg")
    (path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (path / "empty.png").write_bytes(b"")
    (path / "folder").mkdir()
    (path / "page.png").write_text("<html>404</html>" * 50)
    Image.new("1", (101, 100)).save(path / "bomb.png")
    Image.new("L", (1500, 5)).save(path / "line.png")
    return path


@pytest.fixture(scope="module")
def broken(folder):
    """(source of two files, way of each broken row)."""
    rng = np.random.default_rng(1)
    places = rng.permutation(TOTAL)[:BROKEN].tolist()
    names = [*WAYS]
    ways = {place: names[i % len(names)] for i, place in enumerate(places)}
    lines = [line(i, ways[i] if i in ways else None) for i in range(TOTAL)]
    files = [folder / "first.jsonl", folder / "second.jsonl"]
    files[0].write_bytes(b"\n".join(lines[:600]) + b"\n")
    files[1].write_bytes(b"\n".join(lines[600:]))
    return ",".join(map(str, files)), ways


def test_training_goes_on_and_the_summary_names_each_reason_and_file(folder, broken):
    source, ways = broken
    assert len(WAYS) >= 20 and set(ways.values()) == set(WAYS)
    rows, skips = RowSet(source, CONFIG, TASKS), Skips()
    rows.skip_known(skips)
    encoder = PromptEncoder(CONFIG, Processor(str(folder), **CONFIG.media_options))
    feed = Feed(PromptStream(rows, seed=5), rows, encoder, skips)
    drawn = feed.take(TOTAL - BROKEN)
    feed.take(TOTAL)  # a second epoch, and a bit: nothing is counted twice
    feed.close()
    assert sorted(int(d.example.id) for d in drawn) == sorted(set(range(TOTAL)) - set(ways))
    wanted = collections.Counter(WAYS[way][0] for way in ways.values())
    assert skips.by_reason == wanted and skips.total() == BROKEN
    halves = [collections.Counter(WAYS[way][0] for i, way in ways.items() if (i < 600) == first)
              for first in (True, False)]  # fmt: skip
    assert skips.by_file == dict(zip(source.split(","), halves, strict=True))
    assert len(skips.messages) == 10
    for message in skips.messages:
        name, _, number = message.partition(":")[0].rpartition(" line ")
        place = int(number.split()[0]) - 1 + 600 * (name == "second.jsonl")
        assert place in ways and "\n" not in message, message


@pytest.mark.parametrize("way", WAYS)
def test_each_way_alone_has_its_reason_and_says_where(folder, way):
    path = folder / "one.jsonl"
    path.write_bytes(line(0, None) + b"\n" + line(1, way) + b"\n" + line(2, None))
    config = dataclasses.replace(CONFIG, max_bad_share=0.5)
    rows, skips = RowSet(str(path), config, TASKS), Skips()
    rows.skip_known(skips)
    encoder = PromptEncoder(config, Processor(str(folder), **CONFIG.media_options))
    feed = Feed(PromptStream(rows), rows, encoder, skips)
    drawn = feed.take(4)  # two epochs
    feed.close()
    assert sorted(d.example.id for d in drawn) == ["0", "0", "2", "2"]
    assert skips.by_reason == {WAYS[way][0]: 1}
    (message,) = skips.messages
    assert message.startswith("one.jsonl line 2") and len(message) < 600
