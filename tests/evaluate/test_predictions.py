"""Predictions on disk: what is written stays, what was cut off is made again."""

import json

import pytest

from g2rpo_jax.evaluate.predictions import Predictions, merge, path_of

SETTINGS = {"hosts": 1, "seeds": [0, 1], "sampling": {"temperature": 0.5}}


def header(host=0, hosts=1, **more):
    return {
        "host": host,
        "model": {"model": "m"},
        "settings": SETTINGS | {"hosts": hosts},
        "rows": {"chartqa": 4},
    } | more


def entry(row, seed, score=1.0):
    response = {"text": "a\ud800b", "tokens": 3, "ended": True, "score": score}
    return {"benchmark": "chartqa", "row": row, "seed": seed, "responses": [response]}


def write(folder, entries, resume=False, host=0, hosts=1, **more):
    written = Predictions(path_of(folder, host, hosts), header(host, hosts, **more), resume)
    done = set(written.done)
    written.write(entries)
    written.close()
    return done


ALL = [entry(row, seed) for row in range(4) for seed in (0, 1)]


def test_what_was_written_is_done_on_resuming(tmp_path):
    write(tmp_path, ALL[:3])
    done = write(tmp_path, ALL[3:], resume=True)
    assert done == {("chartqa", 0, 0), ("chartqa", 0, 1), ("chartqa", 1, 0)}
    assert merge(tmp_path) == ({"format": 1, **header()}, ALL)


def test_a_line_that_was_cut_off_is_made_again(tmp_path):
    write(tmp_path, ALL[:3])
    path = path_of(tmp_path, 0, 1)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert write(tmp_path, ALL[2:], resume=True) == {("chartqa", 0, 0), ("chartqa", 0, 1)}
        assert merge(tmp_path)[1] == ALL


def test_a_cut_off_header_starts_anew(tmp_path):
    path = path_of(tmp_path, 0, 1)
    path.write_text('{"format": 1, "ho')
    assert write(tmp_path, ALL, resume=True) == set()
    assert merge(tmp_path)[1] == ALL


def test_without_resume_predictions_are_not_touched(tmp_path):
    write(tmp_path, ALL[:1])
    with pytest.raises(ValueError, match="add --resume to go on"):
        write(tmp_path, ALL)


def test_other_settings_are_refused_and_named(tmp_path):
    write(tmp_path, ALL[:1])
    other = SETTINGS | {"sampling": {"temperature": 0.7}}
    with pytest.raises(ValueError, match="settings.sampling.temperature was 0.5, is 0.7"):
        write(tmp_path, [], resume=True, settings=other)
    with pytest.raises(ValueError, match="model.model was 'm', is 'n'"):
        write(tmp_path, [], resume=True, model={"model": "n"})


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    write(tmp_path, ALL)
    path = path_of(tmp_path, 0, 1)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{broken", *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match="line 3 is not JSON"):
        merge(tmp_path)


def test_hosts_are_merged_in_the_order_of_rows(tmp_path):
    for host in (1, 0):
        write(tmp_path, [e for e in ALL if e["row"] % 2 == host], host=host, hosts=2)
    assert merge(tmp_path)[1] == ALL


def test_a_missing_or_unfinished_host_is_named(tmp_path):
    write(tmp_path, [e for e in ALL if e["row"] % 2 == 0], host=0, hosts=2)
    with pytest.raises(ValueError, match="host 1 of 2 are missing"):
        merge(tmp_path)
    write(tmp_path, [e for e in ALL if e["row"] == 1], host=1, hosts=2)
    with pytest.raises(ValueError, match="1 of 4 rows are missing.*predictions-001-of-002"):
        merge(tmp_path)
    skipped = {"benchmark": "chartqa", "row": 3, "seed": None, "skipped": "missing_image"}
    write(tmp_path, [skipped], resume=True, host=1, hosts=2)
    assert skipped in merge(tmp_path)[1]


def test_nothing_to_merge(tmp_path):
    with pytest.raises(ValueError, match="holds no predictions"):
        merge(tmp_path)


def test_lines_are_plain_ascii_json(tmp_path):
    write(tmp_path, ALL[:1])
    line = path_of(tmp_path, 0, 1).read_bytes().splitlines()[1]
    assert line.isascii() and json.loads(line)["responses"][0]["text"] == "a\ud800b"
