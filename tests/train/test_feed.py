"""Prompts prepared ahead: alike in threads and processes and after a stop; bounded; all ended."""

import collections
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
from tests.parallel.together import together

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

    def one(
        workers=0,
        prefetch=8,
        source="rows.json",
        config=CONFIG,
        group=None,
        passes_over=lambda prompt_id: False,
        **options,
    ):
        rows, skips = RowSet(str(folder / source), config), Skips()
        encoder = PromptEncoder(config, Processor(str(folder)))
        stream = PromptStream(rows, **options)
        feed = Feed(stream, rows, encoder, skips, workers, prefetch, group, passes_over)
        made.append(feed)
        return feed, skips

    before = running()
    yield one
    for each in made:
        each.close()
    for left in running() - before:
        left.join(20)  # a thread that had got nothing to do yet ends by itself
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


@pytest.mark.parametrize(("processes", "prefetch"), [(2, 1), (2, 8), (4, 8)])
def test_processes_of_a_run_take_together_what_one_takes(make, direct, processes, prefetch):
    alone, skips = make()
    expected = [place(alone.take(8)) for _ in range(8)]

    def job(group):
        ahead, own_skips = make(prefetch=prefetch, group=group)
        taken = []
        for step in range(8):
            if step == 5:  # as after a restart
                position = ahead.position
                ahead.seek(position)
            drawn = ahead.take(8)
            own = [d for d in drawn if d.prompt is not None]
            assert {d.home for d in own} == {group.index} and len(own) == 8 // group.count
            assert all(not d.example.images for d in drawn if d.prompt is None)
            assert told(own) == [each for each in direct if each[0] in {d.prompt_id for d in own}]
            taken.append(place(drawn))
        return taken, ahead.position, own_skips.to_json()

    # Messages of broken rows and all counts are alike, too: bad rows are everybody's.
    for got in together(processes, job):
        assert got == (expected, alone.position, skips.to_json())


@pytest.mark.parametrize(("processes", "prefetch"), [(1, 1), (1, 8), (2, 8), (4, 3)])
def test_places_are_passed_over_as_decided_when_their_turn_comes(make, direct, processes, prefetch):
    """The rule changes with every step, as a curriculum does with what was sampled; the threads
    that work ahead know an older one."""
    step = [0]

    def over(prompt_id):
        return prompt_id % 3 == step[0] % 3

    expected, left = [], list(direct)
    for k in range(6):
        step[0], taken = k, []
        while len(taken) < 8:
            if not over((each := left.pop(0))[0]):
                taken.append(each[0])
        expected.append(taken)

    def job(group):
        mine = [0]
        ahead, skips = make(
            prefetch=prefetch, group=group, passes_over=lambda i: i % 3 == mine[0] % 3
        )
        found = []
        for mine[0] in range(6):
            if mine[0] == 4:  # as after a restart
                ahead.seek(ahead.position)
            drawn = ahead.take(8)
            own = [d for d in drawn if d.prompt is not None]
            assert told(own) == [each for each in direct if each[0] in {d.prompt_id for d in own}]
            found.append([d.prompt_id for d in drawn])
        return found, ahead.position, ahead.passed, skips.by_reason

    for found, position, passed, _ in together(processes, job):
        assert found == expected and position == expected[-1][-1] + 1
        broken = sum(i not in {each[0] for each in direct} for i in range(position))
        assert passed + broken >= position - 48 and passed <= position - 48


def place(drawn):
    return [(d.prompt_id, d.example.id, d.tokens) for d in drawn]


@pytest.mark.parametrize("broken", [False, True])
def test_a_process_encodes_its_own_rows_alone(make, folder, monkeypatch, broken):
    rows = [row(i) for i in range(COUNT) if broken or i not in BROKEN]
    (folder / "few.json").write_text(json.dumps(rows))
    seen = collections.Counter()
    encode = PromptEncoder.encode

    def counted(self, example):
        seen[example.id] += 1
        return encode(self, example)

    monkeypatch.setattr(PromptEncoder, "encode", counted)

    def job(group):
        ahead = make(source="few.json", prefetch=4, group=group)[0]
        for _ in range(3):
            ahead.take(8)
        ahead.close()

    together(2, job)
    assert 24 <= sum(seen.values()) <= 32 + 8 * broken  # with what is ready for the next step
    # Bad rows move the blocks: what another process had ready is worked out again.
    assert sum(count - 1 for count in seen.values()) <= 4 * broken


def test_rows_drawn_before_are_dealt_out_to_the_processes(make, direct, folder):
    ids = [each[0] for each in direct[3:8]]

    def job(group):
        ahead, _ = make(group=group)
        return ahead.again_all(ids)

    for index, drawn in enumerate(together(2, job)):
        assert [d.prompt_id for d in drawn] == ids and [d.home for d in drawn] == [0, 1, 0, 1, 0]
        assert [d.prompt is not None for d in drawn] == [d.home == index for d in drawn]
    broken = next(i for i in range(COUNT) if make()[0]._stream.row(i) in BROKEN)
    with pytest.raises(ValueError, match="png cannot be decoded"):
        together(2, lambda group: make(group=group)[0].again_all([ids[0], broken]))


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


def test_held_out_rows_are_shared_out_over_processes(folder, monkeypatch):
    monkeypatch.setattr(feed, "WINDOW", 2)
    rows = RowSet(str(folder / "rows.json"), CONFIG)
    encoder = PromptEncoder(CONFIG, Processor(str(folder)))

    def job(group):
        skips = Skips()
        return feed.held_out(rows, encoder, skips, limit=5, group=group), skips.to_json()

    (alone, counted), *_ = together(1, job)
    parts = together(3, job)
    for items, skips in parts:
        assert [e.id for e, _ in items] == [e.id for e, _ in alone] and skips == counted
    for place in range(len(alone)):  # every prompt is in one process
        held = [items[place][1] for items, _ in parts if items[place][1] is not None]
        assert len(held) == 1 and (held[0].input_ids == alone[place][1].input_ids).all()
    shares = [sum(prompt is not None for _, prompt in items) for items, _ in parts]
    assert max(shares) - min(shares) <= 2
