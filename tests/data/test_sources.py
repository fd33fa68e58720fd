"""Files and folders of rows in every format, written by others, read row by row."""

import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from g2rpo_jax.data import sources, tables_on_disk
from g2rpo_jax.data.example import BadRow

ROWS = [
    {
        "problem_id": i,
        "problem": f"<image> Größe {i}? \u2028 π",
        "problem_type": ["math", "OCR"][i % 2],
        "task_type": ["ocr", None][i % 2],
        "data_type": "image",
        "options": ["A. x", "B. y"][: i % 3],
        "answer": f"<answer>{i}</answer>",
        "images": [{"bytes": bytes([i] * 40), "path": None}],
    }
    for i in range(23)
]


def kinds(raw):
    """The last letter of the problem type: enough to see that rows are classified by it."""
    return ord(raw["problem_type"][-1])


def in_json(rows):
    """Rows without what JSON cannot hold."""
    return [{**row, "images": [f"{row['problem_id']}.png"]} for row in rows]


def write_json(path, rows):
    path.write_text(json.dumps(in_json(rows), ensure_ascii=False), encoding="utf-8")


def write_object(path, rows):
    path.write_text(json.dumps({"version": 1, "rows": in_json(rows), "n": None}))


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, in_json(rows))) + "\n", encoding="utf-8")


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)


def write_one_group(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_file(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


def write_stream(path, rows):
    """What `datasets` writes."""
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)


WRITERS = {
    "list.json": write_json,
    "object.json": write_object,
    "lines.jsonl": write_lines,
    "lines.json": write_lines,
    "groups.parquet": write_parquet,
    "one.parquet": write_one_group,
    "file.arrow": write_file,
    "stream.arrow": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_in_any_order_here_and_in_a_sent_copy(
    tmp_path, name, monkeypatch
):
    if name == "one.parquet":  # as if its one row group were too large to be read for a row
        monkeypatch.setattr(tables_on_disk, "GROUP_BYTES", 100)
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    (part,) = sources.parts(str(path), kinds)
    assert part.codes.dtype == np.int16 and part.codes.tolist() == [kinds(row) for row in ROWS]
    assert part.path == str(path) and part.folder == str(tmp_path)
    wanted = in_json(ROWS) if "json" in name else ROWS
    order = np.random.default_rng(0).permutation(len(ROWS)).tolist()
    for some in (part, pickle.loads(pickle.dumps(part))):
        assert [some.raw(row) for row in order] == [wanted[row] for row in order]
        assert some.where(3).startswith(name)


def test_the_copy_of_a_large_row_group_goes_with_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_on_disk, "GROUP_BYTES", 100)
    monkeypatch.setattr(tables_on_disk.tempfile, "tempdir", str(tmp_path))
    write_one_group(tmp_path / "one.parquet", ROWS)
    (part,) = sources.parts(str(tmp_path / "one.parquet"), kinds)
    sent = pickle.loads(pickle.dumps(part))
    assert len(os.listdir(tmp_path)) == 2 and sent.raw(4) == ROWS[4]
    del sent
    assert len(os.listdir(tmp_path)) == 2 and part.raw(5) == ROWS[5]
    del part
    assert os.listdir(tmp_path) == ["one.parquet"]


def test_a_copy_that_finds_no_room_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_on_disk, "GROUP_BYTES", 100)
    usage = tables_on_disk.shutil._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr(tables_on_disk.shutil, "disk_usage", lambda path: usage)
    write_one_group(tmp_path / "one.parquet", ROWS)
    with pytest.raises(ValueError, match="one.parquet.*row_group_size=1000, or set TMPDIR"):
        sources.parts(str(tmp_path / "one.parquet"), kinds)


def test_row_groups_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    write_parquet(tmp_path / "rows.parquet", ROWS)
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *a, **k: reads.append(a[1]) or read(*a, **k)
    )
    monkeypatch.setattr(tables_on_disk, "GROUPS", tables_on_disk._Groups(10**9))
    (part,) = sources.parts(str(tmp_path / "rows.parquet"), kinds)
    reads.clear()
    for row in (0, 7, 1, 8, 2):
        part.raw(row)
    assert reads == [0, 1]
    monkeypatch.setattr(tables_on_disk, "GROUPS", tables_on_disk._Groups(1))
    reads.clear()
    for row in (0, 1, 7, 8, 2):
        part.raw(row)
    assert reads == [0, 1, 0]


def test_a_table_without_kinds_is_read_and_its_rows_are_bad_or_not_by_themselves(tmp_path):
    pq.write_table(pa.table({"question": ["a", "b"]}), tmp_path / "rows.parquet")
    seen = []
    (part,) = sources.parts(str(tmp_path / "rows.parquet"), lambda raw: seen.append(raw) or 0)
    assert seen == [{}, {}] and part.raw(1) == {"question": "b"}


def test_the_question_is_looked_at_only_where_no_data_type_is(tmp_path):
    seen = []
    for columns in ({"problem": ["a"], "data_type": ["text"]}, {"problem": ["a"], "x": [1]}):
        write_stream(tmp_path / "rows.arrow", pa.table(columns).to_pylist())
        sources.parts(str(tmp_path / "rows.arrow"), lambda raw: seen.append(raw) or 0)
    assert seen == [{"data_type": "text"}, {"problem": "a"}]


def saved(folder, rows, shards=2):
    """A folder as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    cut = [len(rows) * i // shards for i in range(shards + 1)]
    for i, name in enumerate(names):
        write_stream(folder / name, rows[cut[i] : cut[i + 1]])
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text('{"features": {}}')


def ids(source):
    return [part.raw(i)["problem_id"] for part in sources.parts(source, kinds)
            for i in range(len(part.codes))]  # fmt: skip


def test_folders_of_datasets_are_read_by_split(tmp_path):
    saved(tmp_path / "one", ROWS)
    assert ids(f"{tmp_path}/one") == list(range(23))
    saved(tmp_path / "two/train", ROWS[3:])
    saved(tmp_path / "two/test", ROWS[:3], shards=1)
    (tmp_path / "two/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert ids(f"{tmp_path}/two?split=test") == [0, 1, 2]
    assert ids(f"{tmp_path}/two?split=train") == list(range(3, 23))
    hub = tmp_path / "hub/data"
    hub.mkdir(parents=True)
    (tmp_path / "hub/README.md").write_text("a data set")
    write_parquet(hub / "train-00001-of-00002.parquet", ROWS[10:])
    write_parquet(hub / "train-00000-of-00002.parquet", ROWS[5:10])
    write_parquet(hub / "validation-00000-of-00001.parquet", ROWS[:2])
    assert ids(f"{tmp_path}/hub?split=train") == list(range(5, 23))
    assert ids(f"{tmp_path}/hub?split=validation") == [0, 1]
    flat = tmp_path / "flat"
    flat.mkdir()
    write_lines(flat / "rows.jsonl", ROWS[:4])
    assert ids(str(flat)) == [0, 1, 2, 3]
    (part,) = sources.parts(str(flat), kinds)
    assert part.folder == str(flat)  # what its rows' media start from


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("two", "holds 2 splits (test, train): choose one, as in {}/two?split=train"),
        ("two?split=tset", "no split 'tset'; did you mean 'test'"),
        ("two?spilt=test", "unknown option 'spilt'; did you mean 'split'"),
        ("two/train?split=train", "is one saved split: leave ?split= out"),
        ("empty", "holds no data file"),
        ("mixed", "files of several kinds (.json, .parquet)"),
        ("unsaved", "state.json names no data files"),
        ("broken", "state.json cannot be read"),
        ("rows.json?split=train", "?split= chooses in a folder"),
        ("gone.json", "there is no such file"),
        ("rows.csv", "a file that ends in .json, .jsonl, .parquet, .arrow, a folder of"),
        ("cut.parquet", "cut.parquet' cannot be read"),
        ("cut.arrow", "cut.arrow' cannot be read"),
        ("cut_stream.arrow", "cut_stream.arrow' cannot be read"),
        ("cut.json", "is not JSON at byte"),
        (" , ", "the data source is empty"),
    ],
)
def test_an_unusable_source_is_named_with_the_remedy(tmp_path, source, message):
    saved(tmp_path / "two/train", ROWS)
    saved(tmp_path / "two/test", ROWS)
    (tmp_path / "two/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for name in ("empty", "mixed", "unsaved", "broken"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "mixed/a.json", ROWS)
    write_parquet(tmp_path / "mixed/b.parquet", ROWS)
    (tmp_path / "unsaved/state.json").write_text("{}")
    (tmp_path / "broken/state.json").write_text("{")
    (tmp_path / "rows.csv").write_text("a,b")
    for name, write in (
        ("rows.json", write_json),
        ("cut.json", write_json),
        ("cut.parquet", write_parquet),
        ("cut.arrow", write_file),
        ("cut_stream.arrow", write_stream),
    ):
        write(tmp_path / name, ROWS)
        if name.startswith("cut"):
            data = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(data[: len(data) // 2])
    if not source.isspace() and "," not in source:
        source = f"{tmp_path}/{source}"
    with pytest.raises(ValueError) as caught:
        sources.parts(source, kinds)
    assert message.format(tmp_path) in str(caught.value)


def test_a_damaged_page_costs_the_rows_of_its_group(tmp_path):
    rows = [{**row, "problem": str(i) * 500} for i, row in enumerate(ROWS)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=12, use_dictionary=False)
    meta = pq.ParquetFile(path).metadata.row_group(1)
    column = next(c for c in map(meta.column, range(20)) if c.path_in_schema == "problem")
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    path.write_bytes(data)
    (part,) = sources.parts(str(path), kinds)
    assert part.raw(11) == rows[11]
    with pytest.raises(BadRow, match="rows.parquet row 12: its row group") as caught:
        part.raw(12)
    assert caught.value.reason == "broken_row"


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"problem_type": "math", "a": "\xe9"}\n')
    (part,) = sources.parts(str(tmp_path / "rows.jsonl"), kinds)
    with pytest.raises(BadRow, match="rows.jsonl line 1 is not UTF-8") as caught:
        part.raw(0)
    assert caught.value.reason == "not_utf8"


def test_a_file_that_changed_since_it_was_indexed_gives_bad_rows(tmp_path):
    write_json(tmp_path / "rows.json", ROWS)
    (part,) = sources.parts(str(tmp_path / "rows.json"), kinds)
    (tmp_path / "rows.json").write_text("[]")
    with pytest.raises(BadRow, match="rows.json row 3: not JSON"):
        part.raw(3)


@pytest.mark.parametrize(
    ("source", "pieces"),
    [
        ("a.json", ["a.json"]),
        ("a.json,b/c.jsonl, d", ["a.json", "b/c.jsonl", "d"]),
        ("embedded:train?tasks=ocr,math_reasoning&rows=3,b.json",
         ["embedded:train?tasks=ocr,math_reasoning&rows=3", "b.json"]),
        ("embedded:train?tasks=ocr,chart,embedded:test",
         ["embedded:train?tasks=ocr,chart", "embedded:test"]),
    ],
)  # fmt: skip
def test_commas_part_sources_but_not_an_embedded_sets_tasks(source, pieces):
    assert sources.split_list(source) == pieces


def test_a_file_whose_name_has_a_comma_is_one_source(tmp_path):
    write_json(tmp_path / "a,b.json", ROWS[:2])
    assert ids(f"{tmp_path}/a,b.json") == [0, 1]


def test_several_sources_follow_one_another(tmp_path):
    write_json(tmp_path / "a.json", ROWS[:2])
    write_parquet(tmp_path / "b.parquet", ROWS[5:7])
    source = f"{tmp_path}/a.json,embedded:test?rows=2&seed=3,{tmp_path}/b.parquet"
    assert ids(source) == [0, 1, "test-3-0", "test-3-1", 5, 6]
