"""Benchmark files to questions: VLMEvalKit TSV, and everything that training reads.

Rows are opened one at a time: a TSV of gigabytes of base64 pictures is gone through once for the
places of its rows, and each row is read again when its turn comes.
"""

import ast
import base64
import binascii
import bisect
import csv
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from g2rpo_jax.data import media
from g2rpo_jax.data.example import IMAGE_MARKER, VIDEO_MARKER, BadRow, Example
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.evaluate.benchmarks import Benchmark, Source
from g2rpo_jax.evaluate.metrics import Question

MAX_FIELD_CHARS = 2**28  # a quotation mark that is never closed must not read the whole file
MAX_LIST_CHARS = 2**20
REFERENCE_CHARS = 64  # a shorter `image` cell names the row that has the picture (VLMEvalKit)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBERED = re.compile(r"<image ?(\d{1,3})>")
_OPTION = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class EvalRow:
    """One question of a benchmark: what is asked, and what it is scored against."""

    example: Example
    question: Question


class Rows:
    """The rows of a benchmark, numbered through its files."""

    def __init__(self, source: Source, data: DataConfig):
        """
        Raises:
          ValueError: a file that is missing or no such table.
        """
        self._benchmark = source.benchmark
        self._parts = [_open(path, source.benchmark, data) for path in source.paths]
        names = [os.path.basename(path).partition(".")[0] for path in source.paths]
        self._categories = names if len(names) > 1 else [""]
        self._starts = [0, *itertools.accumulate(map(len, self._parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, number: int) -> EvalRow:
        """One row, its pictures not decoded.

        Raises:
          BadRow: it cannot be used.
        """
        place = bisect.bisect_right(self._starts, number) - 1
        found = self._parts[place].row(number - self._starts[place])
        if not self._categories[place]:
            return found
        question = dataclasses.replace(found.question, category=self._categories[place])
        return dataclasses.replace(found, question=question)


def _open(path: str, benchmark: Benchmark, data: DataConfig) -> "TsvRows | ExampleRows":
    return (TsvRows if path.endswith(".tsv") else ExampleRows)(path, benchmark, data)


class ExampleRows:
    """Rows in the training format: .json, .jsonl, .parquet, a datasets folder, embedded."""

    def __init__(self, path: str, benchmark: Benchmark, data: DataConfig):
        self._rows, self._benchmark = RowSet(path, data), benchmark

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, number: int) -> EvalRow:
        example = self._rows[number]
        question = Question(
            truths=truths(example.answer),
            choices=_lettered(example.options),
            category=example.task,
            problem_type=example.problem_type,
            data_type=example.data_type,
            text=example.problem,
        )
        problem = _with_suffix(example.problem, self._benchmark)
        return EvalRow(dataclasses.replace(example, problem=problem), question)


class TsvRows:
    """A VLMEvalKit table: index, image (base64, a list of them, or another row's index) or
    image_path, question, answer; also read: hint, A, B, C .., choices, answer_option, category,
    problem_type, task_type, mask, bbox_x1 .. bbox_y2 with width and height."""

    def __init__(self, path: str, benchmark: Benchmark, data: DataConfig):
        self._path, self._benchmark, self._data = path, benchmark, data
        self._name = os.path.basename(path)
        csv.field_size_limit(MAX_FIELD_CHARS)
        self._starts: list[int] = []
        self._places: dict[str, int] = {}
        with open(path, "rb") as file:
            records = self._records(file, 0)
            self._header = next(records, (0, []))[1]
            missing = [name for name in ("question", "answer") if name not in self._header]
            if missing:
                raise ValueError(
                    f"{path}: no column {' and '.join(map(repr, missing))} in its first line "
                    f"({', '.join(self._header[:12])[:200]}); a tab-separated VLMEvalKit table "
                    "with index, image or image_path, question and answer is expected"
                )
            index = self._header.index("index") if "index" in self._header else None
            for start, cells in records:
                if index is not None and index < len(cells):
                    self._places.setdefault(cells[index], len(self._starts))
                self._starts.append(start)
        if not self._starts:
            raise ValueError(f"{path}: the table has no rows")

    def __len__(self) -> int:
        return len(self._starts)

    def row(self, number: int) -> EvalRow:
        where = f"{self._name} row {number}"
        cells = self._cells(number, where)
        question = cells.get("question", "")
        if not question.strip():
            raise BadRow("missing_problem", f"{where}: the column 'question' is empty")
        if cells.get("hint"):
            question = f"Hint: {cells['hint']}\n{question}"
        choices, shown = _choices(cells, question)
        answer, region = self._truth(cells, choices, where)
        images = self._images(cells, where)
        if VIDEO_MARKER in question:
            raise BadRow("video", f"{where}: a {VIDEO_MARKER} marker, but tables hold no videos")
        question = _with_suffix(question, self._benchmark)
        texts = [question, *(f"{letter}. {text}" for letter, text in shown.items())]
        texts, images = _place_images(texts, images, where)
        kind = "multiple choice" if choices else self._benchmark.problem_type
        kind = cells.get("problem_type") or kind
        task = cells.get("task_type") or cells.get("category", "")
        data_type = "image" if images else "text"
        example = Example(
            id=cells.get("index") or str(number),
            problem=texts[0],
            options=tuple(texts[1:]),
            answer=answer[0],
            problem_type=kind,
            task=task,
            data_type=data_type,
            images=tuple(images),
            where=where,
        )
        return EvalRow(
            example,
            Question(
                truths=answer,
                choices=choices,
                category=cells.get("category") or task,
                problem_type=kind,
                data_type=data_type,
                text=example.problem,
                region=region,
            ),
        )

    def _records(self, file: BinaryIO, start: int) -> Iterator[tuple[int, list[str]]]:
        """(offset, cells) of each record from a byte offset on."""
        lines = _Lines(file, start)
        reader = csv.reader(lines, delimiter="\t")
        while True:
            at = lines.offset
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{self._path}: after row {max(0, len(self._starts) - 1)} it is no "
                    f"tab-separated table in UTF-8 ({error}); fetch it again"
                ) from None
            if cells:
                yield at, cells

    def _cells(self, number: int, where: str) -> dict[str, str]:
        with open(self._path, "rb") as file:
            _, values = next(self._records(file, self._starts[number]))
        if len(values) != len(self._header):
            raise BadRow(
                "wrong_columns",
                f"{where}: {len(values)} columns where the first line names {len(self._header)}",
            )
        return dict(zip(self._header, values, strict=True))

    def _truth(
        self, cells: dict[str, str], choices: dict[str, str], where: str
    ) -> tuple[tuple[str, ...], bytes | None]:
        region = _decoded(cells["mask"], where) if cells.get("mask") else None
        corners = [cells.get(f"bbox_{name}", "") for name in ("x1", "y1", "x2", "y2")]
        if all(corners):
            return (_thousandths(corners, cells, where),), region
        answer = cells.get("answer_option") if choices else ""
        answer = answer or cells.get("answer", "")
        if not answer.strip() and region is None:
            raise BadRow("missing_answer", f"{where}: the column 'answer' is empty")
        return truths(answer), region

    def _images(self, cells: dict[str, str], where: str) -> list[str | bytes]:
        cell = cells.get("image", "")
        if cell and len(cell) <= REFERENCE_CHARS:
            other = self._places.get(cell)
            there = self._cells(other, where).get("image", "") if other is not None else ""
            if len(there) <= REFERENCE_CHARS:
                raise BadRow(
                    "missing_image",
                    f"{where}: the column 'image' is {cell!r}, neither a picture in base64 nor the "
                    "index of a row that has one",
                )
            cell = there
        if cell:
            return [_decoded(part, where) for part in _listed(cell, where)]
        root = self._data.image_dir or os.path.dirname(self._path)
        return [
            media.resolve(path, root, self._data.allow_outside_paths, "image", where)
            for path in _listed(cells.get("image_path", ""), where)
        ]


class _Lines:
    """Lines of a binary file from an offset on, as text; `offset` is where the next one starts."""

    def __init__(self, file: BinaryIO, start: int):
        file.seek(start)
        self._file, self.offset = file, start

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_FIELD_CHARS)
        if not line:
            raise StopIteration
        text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8")
        self.offset += len(line)
        return text


def truths(answer: str) -> tuple[str, ...]:
    """The answers of a cell: a written list of texts is several, anything else is one."""
    if answer.lstrip().startswith("[") and len(answer) <= MAX_LIST_CHARS:
        try:
            value = ast.literal_eval(answer.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            return tuple(value)
    return (answer,)


def _listed(cell: str, where: str) -> list[str]:
    if not cell.startswith("["):
        return [cell] if cell else []
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BadRow("bad_images", f"{where}: images {cell[:40]!r}... are no list of texts")
    return value


def _decoded(text: str, where: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRow(
            "broken_image", f"{where}: a picture is not base64 ({text[:20]!r}...)"
        ) from None


def _choices(cells: dict[str, str], question: str) -> tuple[dict[str, str], dict[str, str]]:
    """(all options by letter, those that the question does not list already)."""
    found = {letter: cells[letter] for letter in LETTERS if cells.get(letter)}
    if len(found) > 1:
        return found, found
    for column in ("choices", "options"):
        listed = truths(cells.get(column, ""))
        if len(listed) > 1:
            found = dict(zip(LETTERS, listed, strict=False))
            told = all(text in question for text in found.values())
            return found, {} if told else found
    return {}, {}


def _lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by letter: the one they begin with ("B. a dog"), or their place."""
    matches = [_OPTION.fullmatch(option) for option in options]
    if all(matches) and len({m[1] for m in matches}) == len(matches):
        return {m[1]: m[2].strip() for m in matches}
    return dict(zip(LETTERS, options, strict=False))


def _with_suffix(question: str, benchmark: Benchmark) -> str:
    if not benchmark.suffix or (benchmark.suffix_sign and benchmark.suffix_sign in question):
        return question
    return f"{question}\n{benchmark.suffix}"


def _place_images(
    texts: list[str], images: list[str | bytes], where: str
) -> tuple[list[str], list[str | bytes]]:
    """Texts with one marker per picture. `<image 2>` names a picture (MMMU); texts without markers
    get all pictures in front (VLMEvalKit)."""
    named = [int(n) for text in texts for n in _NUMBERED.findall(text)]
    if named:
        if not all(1 <= n <= len(images) for n in named):
            raise BadRow(
                "image_count",
                f"{where}: the question names <image {max(named)}>, but there are {len(images)}",
            )
        return [_NUMBERED.sub(IMAGE_MARKER, t) for t in texts], [images[n - 1] for n in named]
    markers = sum(text.count(IMAGE_MARKER) for text in texts)
    if not markers and images:
        front = " ".join([IMAGE_MARKER] * len(images))
        return [f"{front} {texts[0]}", *texts[1:]], images
    if markers != len(images):
        raise BadRow(
            "image_count", f"{where}: {markers} {IMAGE_MARKER} markers for {len(images)} images"
        )
    return texts, images


def _thousandths(corners: list[str], cells: dict[str, str], where: str) -> str:
    """A box in pixels, with the picture's width and height, as the text of one in thousandths."""
    try:
        box = [float(v) for v in corners]
        size = [float(cells.get(name) or 0) for name in ("width", "height")] * 2
        box = [1000 * v / edge for v, edge in zip(box, size, strict=True)]
    except (ValueError, ZeroDivisionError):
        raise BadRow(
            "bad_answer",
            f"{where}: the box {corners} needs numbers, and the columns width and height",
        ) from None
    return str(box)
