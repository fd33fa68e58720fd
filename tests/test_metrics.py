"""Logged lines: exactly once, whatever the disk does."""

import json
import math
import struct

import pytest
from PIL import Image

from g2rpo_jax import metrics
from g2rpo_jax.report import SampleLog
from tests.full_disk import full

LONG = "x" * 400


def test_what_is_measured_is_measured_by_name():
    for beginning in metrics.MEASURED:
        assert any(name.startswith(beginning) for name in metrics.METRICS), beginning
    assert metrics.measured("time/step_s") and not metrics.measured("reward/accuracy/ocr")


def test_an_unknown_number_is_refused_and_one_that_is_not_finite_is_null(tmp_path):
    writer = metrics.Writer(tmp_path, start=0, tensorboard=False)
    writer.write(1, {"policy/loss": math.nan, "reward/accuracy/ocr": 0.5})
    with pytest.raises(KeyError, match="metrics.METRICS"):
        writer.write(2, {"policy/losses": 1.0})
    writer.close()
    assert metrics.read(tmp_path / "metrics.jsonl") == [
        {"step": 1, "policy/loss": None, "reward/accuracy/ocr": 0.5}
    ]


def test_lines_of_a_killed_life_go_from_start_on_and_with_them_the_half_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "a')
    lines = metrics.Lines(path, start=3)
    lines.write([{"step": 3, "again": True}])
    lines.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'


def test_a_full_disk_delays_lines_and_loses_none(tmp_path, caplog):
    path = tmp_path / "log.jsonl"
    lines = metrics.Lines(path, start=0)
    with full(1000):  # two lines fit, and half of the third
        for step in range(5):
            lines.write([{"step": step, "text": LONG}])
            assert path.read_bytes().endswith(b"\n")
        with pytest.raises(OSError):
            lines.sync()
    assert len(metrics.read(path)) == 2 and path.stat().st_size < 1000  # no half line
    assert caplog.text.count("Lines are kept until they can be written") == 1
    lines.write([{"step": 5}])
    lines.sync()
    lines.close()
    assert [row["step"] for row in metrics.read(path)] == list(range(6))


def test_lines_that_never_find_room_are_counted(tmp_path, caplog):
    lines = metrics.Lines(tmp_path / "log.jsonl", start=0)
    with full(100):
        lines.write({"step": step, "text": LONG} for step in range(3))
        lines.close()
    assert "3 lines are lost" in caplog.text


def test_pictures_wait_for_room_as_well(tmp_path):
    log = SampleLog(tmp_path, start=0)
    noise = Image.effect_noise((64, 64), 90)
    with full(500):
        file = log.image(noise)["file"]
        log.write(1, [{"media": [file]}])
        assert not (tmp_path / file).exists() and not list((tmp_path / "samples").iterdir())
        with pytest.raises(OSError):
            log.sync()
    log.sync()
    assert (tmp_path / file).stat().st_size > 500
    log.close()


def events(folder):
    """(step, {tag: value}) and starts of all TensorBoard files, in order."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):
            size = struct.unpack_from("<Q", content, at)[0]
            if at + 12 + size + 4 > len(content):
                break  # cut short by a full disk
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += 12 + size + 4
            if event.session_log.status == SessionLog.START:
                found.append(("start", event.step))
            elif event.summary.value:
                found.append((event.step, {v.tag: v.simple_value for v in event.summary.value}))
    return found


def test_tensorboard_has_every_number_and_says_where_a_resumed_run_begins(tmp_path):
    for start in (0, 2):
        writer = metrics.Writer(tmp_path, start=start, tensorboard=True)
        for step in range(start, start + 2):
            writer.write(step, {"policy/loss": step + 0.5, "policy/kl": math.inf})
        writer.close()
    assert events(tmp_path / "tensorboard") == [
        ("start", 0),
        (0, {"policy/loss": 0.5}),
        (1, {"policy/loss": 1.5}),
        ("start", 2),
        (2, {"policy/loss": 2.5}),
        (3, {"policy/loss": 3.5}),
    ]


def test_a_full_disk_does_not_stop_tensorboard(tmp_path):
    writer = metrics.Writer(tmp_path, start=0, tensorboard=True)
    writer.write(0, {"policy/loss": 0.0})
    with full(150):
        for step in range(1, 30):  # more than any queue holds
            writer.write(step, {"policy/loss": 1.0, "policy/kl": 1.0})
    writer.write(30, {"policy/loss": 2.0})
    writer.close()
    steps = [step for step, _ in events(tmp_path / "tensorboard") if step != "start"]
    assert steps[0] == 0 and steps[-1] == 30
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == list(range(31))
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[7])["policy/kl"] == 1.0
