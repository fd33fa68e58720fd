"""Sources of raw rows: found quickly, kept on disk, read one at a time in any order.

A source is a .json, .jsonl, .parquet or .arrow file, a folder of Hugging Face `datasets` (as
`save_to_disk` writes it, or as it stands on the hub), the embedded set, or several with commas
between. Each becomes parts; a part is one file and can be pickled: a copy opens it again.
"""

import json
import os
import re
import weakref
from urllib.parse import parse_qsl

import numpy as np

from g2rpo_jax.data import embedded, json_index
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.parts import BAD_CODES, Classify, Part, Reopened
from g2rpo_jax.tables import nearest

SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow")
# Files of `datasets` folders that hold no rows.
NO_ROWS = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"}
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_WORD = re.compile(r"[a-z]+")


def parts(source: str, classify: Classify) -> list[Part]:
    """All files of a source, indexed.

    Args:
      source: see above; "PATH?split=NAME" chooses among the splits of a folder.
      classify: a raw row -> its code. Of a table's row it sees problem_type, task_type and
        data_type, or problem where the table has no data_type.
    Raises:
      ValueError: naming the source and what to do: it is missing, of no known kind, or damaged.
    """
    found = []
    for one in split_list(source):
        if one.startswith("embedded:"):
            found.append(EmbeddedRows(one, classify))
            continue
        path, split = _split_query(one)
        if os.path.isdir(path):
            found += [_file(file, path, classify) for file in folder_files(path, split, one)]
        elif split:
            raise ValueError(f"data source {one!r}: ?split= chooses in a folder, which it is not")
        else:
            found.append(_file(path, os.path.dirname(path), classify))
    return found


def split_list(source: str) -> list[str]:
    """The sources of a list with commas; those of an embedded set's `tasks` do not divide."""
    if os.path.exists(source):
        return [source]
    found: list[str] = []
    for piece in source.split(","):
        named = piece.startswith("embedded:") or os.path.exists(piece.strip())
        path = named or set(piece) & {"/", "."}
        if found and found[-1].startswith("embedded:") and not path:
            found[-1] += "," + piece
        elif piece.strip():
            found.append(piece.strip())
    if not found:
        raise ValueError("the data source is empty: name a file, a folder or embedded:train")
    return found


def _split_query(source: str) -> tuple[str, str]:
    """("folder", "test") of "folder?split=test"."""
    path, mark, query = source.partition("?")
    if not mark or os.path.exists(source):
        return source, ""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key != "split":
            raise ValueError(
                f"data source {source!r}: unknown option {key!r}{nearest(key, ['split'])} "
                "Known: split."
            )
    return path, options.get("split", "")


def _file(path: str, folder: str, classify: Classify) -> Part:
    if not path.endswith(SUFFIXES):
        raise ValueError(
            f"data source {path!r}: a file that ends in {', '.join(SUFFIXES)}, a folder of "
            "Hugging Face datasets, or embedded:train is expected"
        )
    if not os.path.isfile(path):
        raise ValueError(f"data source {path!r}: there is no such file")
    if path.endswith((".json", ".jsonl")):
        return JsonRows(path, folder, classify)
    from g2rpo_jax.data import tables_on_disk  # pyarrow: not needed for JSON

    if path.endswith(".parquet"):
        return tables_on_disk.parquet(path, folder, classify)
    return tables_on_disk.ArrowRows(path, folder, classify)


def folder_files(folder: str, split: str, source: str) -> list[str]:
    """Data files of a `datasets` folder, of one split, in their order.

    Raises:
      ValueError: no such split, several and none named, files of several kinds, or none.
    """
    marker = os.path.join(folder, "dataset_dict.json")
    if os.path.isfile(marker):
        splits = {str(name): name for name in _read_json(marker).get("splits", [])}
        inner = os.path.join(folder, splits[_choose(splits, split, source)])
        return _saved_files(inner, source)
    if os.path.isfile(os.path.join(folder, "state.json")):
        if split:
            raise ValueError(f"data source {source!r} is one saved split: leave ?split= out")
        return _saved_files(folder, source)
    files = _data_files(folder)
    if not files:
        raise ValueError(
            f"data source {source!r}: the folder holds no data file ({', '.join(SUFFIXES)})"
        )
    by_split: dict[str, list[str]] = {}
    for file in files:
        by_split.setdefault(_split_of(os.path.relpath(file, folder)), []).append(file)
    chosen = by_split[_choose(by_split, split, source)]
    kinds = {os.path.splitext(file)[1] for file in chosen}
    if len(kinds) > 1:
        raise ValueError(
            f"data source {source!r} holds files of several kinds ({', '.join(sorted(kinds))}): "
            "name the files, with commas between"
        )
    return chosen


def _choose(splits: dict, split: str, source: str) -> str:
    names = ", ".join(sorted(splits))
    if split:
        if split not in splits:
            raise ValueError(
                f"data source {source!r}: no split {split!r}{nearest(split, splits)} "
                f"The folder has: {names}."
            )
        return split
    if len(splits) != 1:
        one = "train" if "train" in splits or not splits else sorted(splits)[0]
        raise ValueError(
            f"data source {source!r} holds {len(splits)} splits ({names}): choose one, as in "
            f"{source}?split={one}"
        )
    return next(iter(splits))


def _saved_files(folder: str, source: str) -> list[str]:
    """Arrow files of what `save_to_disk` wrote, in the order of its state."""
    state = _read_json(os.path.join(folder, "state.json"))
    names = [file["filename"] for file in state.get("_data_files", [])]
    if not names:
        raise ValueError(f"data source {source!r}: {folder}/state.json names no data files")
    return [os.path.join(folder, os.path.basename(name)) for name in names]


def _read_json(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): save the data set again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, but an object is expected")
    return value


def _data_files(folder: str) -> list[str]:
    """Data files right in the folder, or else one level below it."""
    below = []
    found = _rows_in(folder, below)
    if not found:
        for inner in sorted(below):
            found += _rows_in(inner, [])
    return found


def _rows_in(folder: str, below: list[str]) -> list[str]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                below.append(entry.path)
            elif entry.name.endswith(SUFFIXES) and entry.name not in NO_ROWS:
                found.append(entry.path)
    return sorted(found)


def _split_of(name: str) -> str:
    """The split that a file's path names, "train" where it names none (as on the hub)."""
    words = SPLIT_WORD.findall(name.lower())
    for split, names in SPLITS.items():
        if any(word in names for word in words):
            return split
    return "train"


class JsonRows(Reopened):
    """Rows of a .json or .jsonl file."""

    def __init__(self, path: str, folder: str, classify: Classify):
        super().__init__()
        self.path, self.folder = path, folder
        self._name = os.path.basename(path)
        try:
            self._index = json_index.index(path, classify, BAD_CODES["wrong_json"])
        except OSError as error:
            raise ValueError(f"data source {path!r} cannot be read: {error}") from None
        self.codes = self._index.code

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def raw(self, row: int) -> object:
        start, stop = int(self._index.start[row]), int(self._index.stop[row])
        where = self.where(row)
        # At an offset: threads share the file. It may have changed since it was indexed.
        text = os.pread(self.opened, stop - start, start)
        try:
            return json.loads(text.strip().decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadRow("not_utf8", f"{where} is not UTF-8 text: {error}") from None
        except (ValueError, RecursionError) as error:
            raise BadRow("wrong_json", f"{where}: not JSON ({error}); it may be cut off") from None

    def where(self, row: int) -> str:
        if self._index.line is None:
            return f"{self._name} row {row}"
        return f"{self._name} line {self._index.line[row]}"


class EmbeddedRows(Reopened):
    """Rows of the embedded set, made in memory; a sent copy makes them again."""

    def __init__(self, spec: str, classify: Classify):
        super().__init__()
        self.path, self.folder = spec, ""
        self.codes = np.array([classify(raw) for raw in self.opened], np.int16)

    def _open(self) -> list[dict]:
        return embedded.from_spec(self.path)

    def raw(self, row: int) -> object:
        return self.opened[row]

    def where(self, row: int) -> str:
        return f"{self.path} row {row}"
