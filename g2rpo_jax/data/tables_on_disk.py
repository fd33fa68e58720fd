"""Rows of Arrow and Parquet files: Arrow is memory-mapped, Parquet read by row groups."""

import bisect
import collections
import functools
import itertools
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging

from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.parts import Classify, Reopened

GROUP_BYTES = 32 << 20  # larger row groups are too slow to read for one row
CACHE_BYTES = 128 << 20  # decoded row groups kept in a process
COPY_BYTES = 8 << 20  # rows copied at a time
KIND_COLUMNS = ("problem_type", "task_type", "data_type")


class _Table(Reopened):
    """What the two formats share."""

    def __init__(self, path: str, folder: str):
        super().__init__()
        self.path, self.folder = path, folder
        self._name = os.path.basename(path)

    def where(self, row: int) -> str:
        return f"{self._name} row {row}"

    def _one(self, batch: pa.RecordBatch | pa.Table, place: int, row: int) -> dict:
        try:
            return batch.slice(place, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise BadRow("not_utf8", f"{self.where(row)} is not UTF-8 text: {error}") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BadRow("broken_row", f"{self.where(row)} cannot be read: {error}") from None


class ArrowRows(_Table):
    """Rows of an Arrow IPC file or stream, memory-mapped: rows cost memory only while in use."""

    def __init__(
        self,
        path: str,
        folder: str,
        classify: Classify,
        copy: str = "",
    ):
        """Maps the file, or a copy of it that stands in a folder of its own."""
        super().__init__(path, folder)
        self._file = copy or path
        batches, _ = self.opened
        codes = []
        try:
            for batch in batches:
                chosen = batch.select(_kind_columns(batch.schema.names))
                codes += [classify(raw) for raw in _pylist(chosen)]
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None
        self.codes = np.array(codes, np.int16)

    def _open(self) -> tuple[list[pa.RecordBatch], list[int]]:
        """(batches, first row of each and the number of all)."""
        try:
            file = pa.memory_map(self._file)
            if file.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            else:  # what `datasets` writes
                file.seek(0)
                batches = list(pa.ipc.open_stream(file))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None
        return batches, _starts(len(batch) for batch in batches)

    def raw(self, row: int) -> dict:
        batches, starts = self.opened
        which = bisect.bisect_right(starts, row) - 1
        return self._one(batches[which], row - starts[which], row)


class ParquetRows(_Table):
    """Rows of a Parquet file of small row groups; the groups read last are kept."""

    def __init__(self, path: str, folder: str, classify: Classify):
        super().__init__(path, folder)
        file, _ = self.opened
        codes = []
        try:
            columns = _kind_columns(file.schema_arrow.names)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns, use_threads=False)
                for batch in table.to_batches(max_chunksize=10_000):
                    codes += [classify(raw) for raw in _pylist(batch)]
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None
        self.codes = np.array(codes, np.int16)

    def _open(self) -> tuple[pq.ParquetFile, list[int]]:
        """(file, first row of each group and the number of all)."""
        try:
            file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from None
        meta = file.metadata
        return file, _starts(meta.row_group(i).num_rows for i in range(meta.num_row_groups))

    def raw(self, row: int) -> dict:
        file, starts = self.opened
        which = bisect.bisect_right(starts, row) - 1
        table = GROUPS.get((self.path, which))
        if table is None:
            try:
                with self._lock:  # a ParquetFile is for one thread at a time
                    table = file.read_row_group(which, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                message = f"{self.where(row)}: its row group cannot be read ({error})"
                raise BadRow("broken_row", message) from None
            GROUPS.put((self.path, which), table)
        return self._one(table, row - starts[which], row)


class _Groups:
    """The row groups read last, of all files, up to a number of bytes."""

    def __init__(self, most: int):
        self._most, self._bytes, self._lock = most, 0, threading.Lock()
        self._kept: collections.OrderedDict[tuple, pa.Table] = collections.OrderedDict()

    def get(self, key: tuple) -> pa.Table | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            return None

    def put(self, key: tuple, table: pa.Table) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = table
                self._bytes += table.nbytes
            while len(self._kept) > 1 and self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


GROUPS = _Groups(CACHE_BYTES)


def parquet(path: str, folder: str, classify: Classify) -> _Table:
    """Rows of a Parquet file.

    Row groups too large to be read for one row (pandas writes a million rows into one) are copied
    once into an Arrow file in the temporary folder (TMPDIR).
    Raises:
      ValueError: the file is damaged, or there is no room for the copy.
    """
    try:
        meta = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None
    groups = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
    if max(groups, default=0) <= GROUP_BYTES:
        return ParquetRows(path, folder, classify)
    free, needed = shutil.disk_usage(tempfile.gettempdir()).free, sum(groups)
    if free < 1.5 * needed:
        raise ValueError(
            f"data source {path!r} has row groups of {max(groups) >> 20} MiB, too large to be read "
            f"for one row, and {tempfile.gettempdir()} has no room for a copy of about "
            f"{needed >> 20} MiB: write the file with row_group_size=1000, or set TMPDIR"
        )
    place = tempfile.mkdtemp(prefix="g2rpo_rows_")
    copy = os.path.join(place, "rows.arrow")
    remove = functools.partial(shutil.rmtree, place, ignore_errors=True)
    logging.info("%s has row groups of %d MiB: copied to %s", path, max(groups) >> 20, copy)
    try:
        _copy(path, copy, max(1, meta.num_rows), needed)
        rows = ArrowRows(path, folder, classify, copy)
    except (pa.ArrowException, OSError) as error:
        remove()
        raise _damaged(path, error) from None
    weakref.finalize(rows, remove)  # here alone: what is sent to other processes removes nothing
    return rows


def _damaged(path: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(
        f"data source {path!r} cannot be read ({reason}): it may be cut off; fetch it again"
    )


def _copy(path: str, target: str, rows: int, size: int) -> None:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        several = min(max(1, COPY_BYTES * rows // size), 10_000)
        with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, file.schema_arrow) as writer:
            for batch in file.iter_batches(several, use_threads=False):
                writer.write_batch(batch)


def _starts(sizes: Iterable[int]) -> list[int]:
    """First row of each piece, and the number of all."""
    return [0, *itertools.accumulate(sizes)]


def _kind_columns(names: list[str]) -> list[str]:
    found = [name for name in KIND_COLUMNS if name in names]
    if "data_type" not in names and "problem" in names:
        found.append("problem")
    return found


def _pylist(batch: pa.RecordBatch) -> list[dict]:
    """Rows as dicts, also where there is no column."""
    return batch.to_pylist() if batch.num_columns else [{}] * len(batch)
