"""Predictions on disk: one JSON line for each row and seed, written while the evaluation goes.

The first line says what they were made with; an interrupted evaluation goes on from what is there,
and predictions of other settings are refused.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

FORMAT = 1


def path_of(folder: Path, host: int, hosts: int) -> Path:
    """The predictions file of one host."""
    name = "predictions" + (f"-{host:03d}-of-{hosts:03d}" if hosts > 1 else "")
    return Path(folder) / f"{name}.jsonl"


def key(entry: dict) -> tuple:
    """What an entry answers: (benchmark, row, seed); the seed of a skipped row is None."""
    return entry["benchmark"], entry["row"], entry["seed"]


class Predictions:
    """The predictions file of this host, open for adding.

    Attributes:
      done: keys of the entries that were there already.
    """

    def __init__(self, path: Path, header: dict, resume: bool):
        """
        Raises:
          ValueError: the file is there and `resume` is off, or was made with other settings.
        """
        self.path, self.done = Path(path), set()
        header = {"format": FORMAT, **header}
        fresh = not self.path.exists() or self.path.stat().st_size == 0
        if not fresh:
            if not resume:
                raise ValueError(
                    f"{self.path} already holds predictions: add --resume to go on, or name "
                    "another --workdir"
                )
            before, length = None, 0
            for line, end in _lines(self.path):
                length = end
                if before is None:
                    before = line
                    _same(before, header, self.path)
                else:
                    self.done.add(key(line))
            os.truncate(self.path, length)
            fresh = before is None
        self._file = self.path.open("a", encoding="utf-8")
        if fresh:
            self._write(header)

    def write(self, entries: list[dict]) -> None:
        """Adds entries and sees that they reach the file."""
        for entry in entries:
            self._write(entry)
            self.done.add(key(entry))
        self._file.flush()

    def _write(self, value: dict) -> None:
        # ASCII escapes: a lone surrogate in a response has no UTF-8.
        self._file.write(json.dumps(value) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def merge(folder: Path) -> tuple[dict, list[dict]]:
    """All hosts' predictions of a folder.

    Returns:
      the header, and the entries by benchmark, row and seed.
    Raises:
      ValueError: a host's file is missing, unfinished, or made with other settings.
    """
    files = sorted(Path(folder).glob("predictions*.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no predictions: run the evaluation first")
    header, entries, hosts = None, {}, {}
    for path in files:
        lines = (line for line, _ in _lines(path))
        first = next(lines, None)
        if first is None:
            raise ValueError(f"{path} is empty: run its host again with --resume")
        if header is None:
            header = first
        _same({**first, "host": None}, {**header, "host": None}, path)
        hosts[first["host"]] = path
        for entry in lines:
            entries[key(entry)] = entry
    count = header["settings"]["hosts"]
    missing = sorted(set(range(count)) - set(hosts))
    if missing:
        raise ValueError(
            f"{folder}: predictions of host {', '.join(map(str, missing))} of {count} are missing"
        )
    order = {name: i for i, name in enumerate(header["rows"])}
    for name, rows in header["rows"].items():
        open_rows = [
            row
            for row in range(rows)
            if (name, row, None) not in entries
            and any((name, row, seed) not in entries for seed in header["settings"]["seeds"])
        ]
        if open_rows:
            at = hosts[open_rows[0] % count]
            raise ValueError(
                f"{folder}: {name} is unfinished, {len(open_rows)} of {rows} rows are missing "
                f"(the first would be in {at.name}): run that host again with --resume"
            )
    found = sorted(
        entries.values(), key=lambda e: (order[e["benchmark"]], e["row"], e["seed"] or 0)
    )
    return header, found


def _lines(path: Path) -> Iterator[tuple[dict, int]]:
    """(value, length of the file up to its end) of each line; an unfinished last line is left out.

    Raises:
      ValueError: a broken line before the last.
    """
    length = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return
            length += len(line)
            try:
                value = json.loads(line)
            except ValueError:
                raise ValueError(
                    f"{path} line {number + 1} is not JSON: remove the file and evaluate again"
                ) from None
            yield value, length


def _same(before: dict, now: dict, path: Path) -> None:
    differing = sorted(_differences(before, now, ""))
    if differing:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(differing[:5])}. Name another "
            "--workdir, or set them as they were"
        )


def _differences(before, now, name: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for each in before.keys() | now.keys():
            inner = f"{name}.{each}".lstrip(".")
            yield from _differences(before.get(each), now.get(each), inner)
    elif before != now:
        yield f"{name} was {before!r}, is {now!r}"[:200]
