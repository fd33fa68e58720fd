"""The sample log: what a resumed run keeps, and pictures beside it."""

import io
import json

import hypothesis as hyp
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from g2rpo_jax import metrics
from g2rpo_jax.report import SampleLog, samplelog


def test_a_resumed_run_drops_entries_at_and_after_its_first_step(tmp_path):
    log = SampleLog(tmp_path, start=1)
    for step in (10, 20, 30):
        log.write(step, [{"text": f"{step} \ud83d \u2028"}, {"text": "second"}])
    log.close()
    log = SampleLog(tmp_path, start=20)
    log.write(20, [{"text": "again"}])
    log.close()
    rows = metrics.read(tmp_path / "samples.jsonl")
    assert [(row["step"], row["text"]) for row in rows] == [
        (10, "10 \ud83d \u2028"),
        (10, "second"),
        (20, "again"),
    ]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "text": "a"}\n{"step": 2, "te')
    SampleLog(tmp_path, start=9).close()
    assert metrics.read(tmp_path / "samples.jsonl") == [{"step": 1, "text": "a"}]


def test_the_same_picture_is_kept_once_and_exactly(tmp_path):
    log = SampleLog(tmp_path, start=1)
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    first, again = log.image(picture), log.image(picture.copy())
    other = log.image(Image.new("RGB", (4, 4)))
    log.close()
    assert first == again and first["file"] != other["file"]
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {
        first["file"].removeprefix("samples/"),
        other["file"].removeprefix("samples/"),
    }
    with Image.open(tmp_path / first["file"]) as kept:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(picture))


@pytest.mark.parametrize("size", [(3000, 2000), (1, 1), (1, 4000), (700, 700)])
def test_a_thumbnail_keeps_the_shape_within_its_edge(tmp_path, size):
    log = SampleLog(tmp_path, start=1)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    entry = log.image(Image.fromarray(noise))
    log.close()
    assert (entry["width"], entry["height"]) == size
    path = tmp_path / entry["file"]
    assert path.stat().st_size < 400_000  # noise is the worst that a JPEG can meet
    with Image.open(path) as kept:
        scale = min(1, samplelog.EDGE / max(size))
        assert kept.size == tuple(max(1, round(edge * scale)) for edge in size)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_a_picture_of_any_mode_becomes_a_thumbnail(mode):
    content, _ = samplelog.encode(Image.new(mode, (8, 8)))
    with Image.open(io.BytesIO(content)) as kept:
        assert kept.mode == "RGB"


def test_a_clip_keeps_the_frames_that_the_answer_names(tmp_path):
    log = SampleLog(tmp_path, start=1)
    frame_FHWC = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 6, 8, 3), np.uint8
    )
    entry = log.video(frame_FHWC, np.arange(40) / 2, wanted=[3.1, 12.0])
    log.close()
    assert (entry["width"], entry["height"], entry["count"]) == (8, 6, 40)
    times = [frame["time"] for frame in entry["frames"]]
    assert times == sorted(times) and len(times) == samplelog.FRAMES and {3.0, 12.0} <= set(times)
    with Image.open(tmp_path / entry["frames"][times.index(12.0)]["file"]) as kept:
        assert np.asarray(kept).tolist() == frame_FHWC[24].tolist()
    json.dumps(entry)


@hyp.given(
    st.lists(st.floats(0, 1e4), max_size=60).map(sorted),
    st.lists(st.floats(-1e6, 1e6), max_size=40),
)
def test_frames_are_chosen_within_the_clip_and_the_limit(time_F, wanted):
    chosen = samplelog.choose_frames(time_F, wanted)
    assert chosen == sorted(set(chosen)) and all(0 <= f < len(time_F) for f in chosen)
    assert len(chosen) == min(samplelog.FRAMES, len(time_F)) or wanted
    assert bool(chosen) == bool(time_F) and len(chosen) <= samplelog.FRAMES
