"""Prompts prepared ahead: alike in threads and processes and after a stop; bounded; all ended."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading

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
from g2rpo_jax.train import feed
from g2rpo_jax.train.feed import Feed

COUNT = 40
BROKEN = (7, 8)  # rows whose pictures are cut off
CONFIG = DataConfig(template="plain", prompt_tokens=(64,), patches=(64,), max_bad_share=0.2)


def row(i):
    return {
        "problem_id": i,
        "problem": f"<image> digit {i % 10}",
        "problem_type": "numerical",
        "task_type": ["ocr", "math_reasoning"][i % 2],
        "data_type": "image",
        "answer": str(i),
        "images": [f"{i}.png"],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory and rows with small pictures of their own; two of them broken."""
    path = tmp_path_factory.mktemp("feed")
    tokenizer.build(str(path))
    for i in range(COUNT):
        Image.fromarray(np.full((16 + i % 3 * 8, 16, 3), 5 * i, np.uint8)).save(path / f"{i}.png")
    for i in BROKEN:
        (path / f"{i}.png").write_bytes((path / f"{i}.png").read_bytes()[:60])
    (path / "rows.json").write_text(json.dumps([row(i) for i in range(COUNT)]))
    return path


@pytest.fixture
def make(folder):
    """Makes feeds, with their skips; closes them all."""
    made = []

    def one(workers=0, prefetch=8, source="rows.json", config=CONFIG, **options):
        rows, skips = RowSet(str(folder / source), config), Skips()
        encoder = PromptEncoder(config, Processor(str(folder)))
        made.append(Feed(PromptStream(rows, **options), rows, encoder, skips, workers, prefetch))
        return made[-1], skips

    before = running()
    yield one
    for each in made:
        each.close()
    assert running() <= before


def running():
    """Threads and child processes, not all of them ours."""
    return {*threading.enumerate(), *multiprocessing.active_children()}


def told(drawn):
    """What must be equal: place, row, tokens and pixels."""
    return [
        (d.prompt_id, d.example.id, d.prompt.input_ids.tolist(), d.prompt.pixel_values.sum())
        for d in drawn
    ]


@pytest.fixture(scope="module")
def direct(folder):
    """The usable draws of two epochs, each encoded by itself."""
    stream = PromptStream(RowSet(str(folder / "rows.json"), CONFIG))
    draw = feed.Draw(stream, PromptEncoder(CONFIG, Processor(str(folder))))
    found = [draw(i)[1] for i in range(2 * COUNT)]
    return told([d for d in found if isinstance(d, feed.Drawn)])


@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_draws_are_the_streams_whatever_the_prefetch_and_the_stops(make, direct, prefetch):
    ahead, skips = make(prefetch=prefetch)
    taken = told(ahead.take(5) + ahead.take(0) + ahead.take(11))
    position = ahead.position
    assert taken == direct[:16] and position == direct[15][0] + 1
    resumed, later = make(prefetch=prefetch)
    later.restore(json.loads(json.dumps(skips.to_json())))
    resumed.take(2)
    resumed.seek(position)
    assert told(resumed.take(40)) == direct[16:56]
    ahead.take(40)
    assert later.by_file == skips.by_file and ahead.position == resumed.position


def test_broken_rows_are_skipped_in_their_turn_and_counted_once(make, direct, folder):
    ahead, skips = make()
    turns = [i for i in range(COUNT) if PromptStream.row(ahead._stream, i) in BROKEN]
    ahead.take(turns[0])
    assert skips.total() == 0  # though it was found, ahead of its turn
    ahead.take(2 * (COUNT - 2) - turns[0])
    assert skips.by_file == {str(folder / "rows.json"): {"truncated_image": 2}}
    assert len(skips.messages) == 2 and "7.png" in "".join(skips.messages)


def test_processes_give_what_threads_give_and_leave_nothing(make, direct):
    others = set(multiprocessing.active_children())
    ahead, skips = make(workers=2)
    assert told(ahead.take(COUNT)) == direct[:COUNT]
    assert skips.by_reason == {"truncated_image": 2}
    children = set(multiprocessing.active_children()) - others
    assert len(children) == 2
    ahead.seek(direct[3][0])
    assert not any(child.is_alive() for child in children)
    assert told(ahead.take(2)) == direct[3:5]
    # One dies, as when the machine runs out of memory.
    os.kill((set(multiprocessing.active_children()) - others).pop().pid, 9)
    with pytest.raises(RuntimeError, match="died.*lower data.workers or data.prefetch"):
        ahead.take(3 * COUNT)


def test_a_worker_process_starts_without_jax():
    code = "import sys, g2rpo_jax.train.feed as f; print({'jax', 'grain'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


def test_hosts_take_disjoint_parts(make, direct):
    parts = [make(host=host, hosts=2)[0].take(15) for host in range(2)]
    ids = [[d.prompt_id for d in part] for part in parts]
    assert all(i % 2 == host for host in range(2) for i in ids[host])
    both = sorted(told(parts[0] + parts[1]))
    least = min(ids[0][-1], ids[1][-1])
    assert [d for d in both if d[0] <= least] == [d for d in direct if d[0] <= least]


def test_a_bounded_number_of_prompts_is_ahead(make, monkeypatch):
    started, lock, seen = [], threading.Semaphore(0), 0
    draw = feed.Draw.__call__

    def noted(self, prompt_id):
        started.append(prompt_id)
        lock.release()
        return draw(self, prompt_id)

    monkeypatch.setattr(feed.Draw, "__call__", noted)
    ahead, _ = make(prefetch=6)
    for count in (3, 3, 20):
        ahead.take(count)
        for _ in range(ahead.position + 6 - seen):  # so many begin without being asked for
            assert lock.acquire(timeout=20)
        seen = ahead.position + 6
        assert sorted(started) == list(range(seen))  # and no more


def test_an_error_of_ours_is_not_a_bad_row(make, monkeypatch):
    def fail(self, example):
        raise KeyError("a bug")

    monkeypatch.setattr(PromptEncoder, "encode", fail)
    ahead, _ = make()
    with pytest.raises(KeyError, match="a bug"):
        ahead.take(1)


def test_too_many_bad_rows_end_the_run(make, folder):
    rows = [row(i) | ({"answer": ""} if i % 3 == 0 else {}) for i in range(COUNT)]
    (folder / "bad.json").write_text(json.dumps(rows))
    ahead, _ = make(source="bad.json")
    with pytest.raises(ValueError, match="rows cannot be used") as caught:
        ahead.take(3 * COUNT)
    listed = re.findall(r"\n  bad.json row (\d+): field 'answer'", str(caught.value))
    assert 5 <= len(listed) <= 10


def test_rows_that_were_all_found_bad_before_end_the_run(make, folder):
    rows = [row(i) | {"answer": "" if i % 2 else "1"} for i in range(10)]
    (folder / "half.json").write_text(json.dumps(rows))
    config = DataConfig(template="plain", prompt_tokens=(64,), patches=(64,), max_bad_share=1.0)
    ahead, _ = make(source="half.json", config=config, shares={"ocr": 0.0})
    with pytest.raises(ValueError, match="half.json: a whole epoch without a usable row"):
        ahead.take(1)


def test_a_sample_and_a_draw_made_again_move_and_count_nothing(make, direct, folder):
    ahead, skips = make()
    assert told([ahead.sample()]) == direct[:1] and ahead.position == 0
    assert told([ahead.again(direct[9][0])]) == direct[9:10]
    stream = ahead._stream
    broken = next(i for i in range(COUNT) if stream.row(i) in BROKEN)
    with pytest.raises(ValueError, match="png cannot be decoded"):
        ahead.again(broken)
    assert skips.total() == 0 and told(ahead.take(3)) == direct[:3]
    (folder / "none.json").write_text(json.dumps([row(i) | {"answer": ""} for i in range(3)]))
    ahead, _ = make(source="none.json")
    with pytest.raises(ValueError, match="none of the first 3 rows drawn can be used"):
        ahead.sample()


def test_the_held_out_rows_are_the_first_usable_ones_of_every_task(folder):
    rows, skips = RowSet(str(folder / "rows.json"), CONFIG), Skips()
    encoder = PromptEncoder(CONFIG, Processor(str(folder)))
    ids = [example.id for example, _ in feed.held_out(rows, encoder, skips, limit=5)]
    assert [i for i in map(int, ids) if i % 2 == 0] == [0, 2, 4, 6, 10]
    assert [i for i in map(int, ids) if i % 2 == 1] == [1, 3, 5, 9, 11]
    assert ids == sorted(ids, key=int) and skips.by_reason == {"truncated_image": 2}
    assert len(feed.held_out(rows, encoder, Skips())) == COUNT - 2
