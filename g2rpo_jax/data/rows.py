"""Raw rows in the OneThinker format to `Example`s, indexed at once and checked when drawn.

The embedded set passes through here too, so every row is checked by the same code. Validation
files of the authors' release carry NaN values, lists written as strings and missing fields; Hugging
Face data sets carry pictures as bytes: all are read.
"""

import ast
import bisect
import itertools
import json
import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from g2rpo_jax import rewards, tables
from g2rpo_jax.data import media, sources
from g2rpo_jax.data.example import IMAGE_MARKER, VIDEO_MARKER, BadRow, Example, Media
from g2rpo_jax.data.parts import BAD_CODES, Part
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.data.skips import Skips

DATA_TYPES = ("image", "text", "video")
MOST_TASKS = 1000
FEWEST = 10  # bad rows, before their share of the rows drawn so far says anything
ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


class RowSet:
    """The rows of a source; `rows[i]` reads and checks row i.

    Attributes:
      source: where they come from.
      tasks: names of the tasks that occur, in order of first occurrence.
      usable: int64, indices of the rows that are not known to be bad, in the source's order.
      files: the source's files.
    """

    def __init__(self, source: str, settings: DataConfig, tasks: Sequence[str] | None = None):
        """Indexes the files; no row is checked yet.

        Args:
          source: see data.sources.
          tasks: rows of other tasks are bad; None takes all.
        Raises:
          ValueError: a file is missing, damaged or of no known kind, or no row can be used.
        """
        kinds = _Kinds(tasks)
        self.source, self.tasks = source, kinds.names
        self._settings, self._allowed = settings, tasks
        self._parts = sources.parts(source, kinds)
        self._starts = [0, *itertools.accumulate(len(part.codes) for part in self._parts)]
        self._codes = np.concatenate([part.codes for part in self._parts])
        self.usable = np.flatnonzero(self._codes >= 0)
        self.files = [part.path for part in self._parts]

    def __len__(self) -> int:
        """Number of rows, bad ones included."""
        return len(self._codes)

    def __getitem__(self, row: int) -> Example:
        """The checked row.

        Raises:
          BadRow: with the reason, what was found and what to do.
        """
        part, place = self._place(row)
        where = part.where(place)
        example = to_example(part.raw(place), where, self._settings, part.folder)
        if self._allowed is not None and example.task not in self._allowed:
            raise BadRow(
                "unknown_task",
                f"{where}: task {example.task!r} is not in the configuration's `tasks`"
                f"{tables.nearest(example.task, self._allowed)} Mend the row's task_type, leave "
                "the field out (then the problem type is the task), or add the task there",
            )
        return example

    def groups(self) -> dict[str, np.ndarray]:
        """Usable rows by task, in the source's order."""
        code = self._codes[self.usable]
        return {task: self.usable[code == i] for i, task in enumerate(self.tasks)}

    def task(self, row: int) -> str:
        """The task of a usable row, from the index alone."""
        return self.tasks[self._codes[row]]

    def skip(self, skips: Skips, row: int, bad: BadRow) -> bool:
        """Counts a bad row; whether it was new."""
        part, place = self._place(row)
        return skips.add(part.path, place, bad.reason, str(bad))

    def skip_known(self, skips: Skips) -> None:
        """Counts the rows that the index knows to be bad.

        Raises:
          ValueError: they are too large a share (data.max_bad_share), or no other is left.
        """
        names = {code: reason for reason, code in BAD_CODES.items()}
        known = np.flatnonzero(self._codes < 0)
        for row in known[:FEWEST].tolist():
            part, place = self._place(row)
            try:
                self[row]
            except BadRow as bad:
                skips.add(part.path, place, names[int(self._codes[row])], str(bad))
        for part in self._parts:
            for code in set(part.codes[part.codes < 0].tolist()):
                skips.add_all(part.path, np.flatnonzero(part.codes == code), names[code])
        if not len(self.usable) or len(known) > self._settings.max_bad_share * len(self):
            raise self._too_many(skips, f"{len(known)} of {len(self)} rows cannot be used")

    def check_share(self, skips: Skips, drawn: int) -> None:
        """Whether the source is good enough, judged by the first `drawn` of its usable rows.

        Before every row was seen, the bad ones must be at least ten, and more than chance puts
        among the rows drawn so far (three standard deviations) where the share is as allowed.
        Raises:
          ValueError: the share of bad rows is above data.max_bad_share, or no row is good.
        """
        limit, known = self._settings.max_bad_share, len(self) - len(self.usable)
        bad = skips.total(self.files) - known
        seen = min(drawn, len(self.usable))
        expected = (limit * len(self) - known) / len(self.usable) * seen
        if seen == len(self.usable) or limit == 0:
            too_many = bad > expected + 1e-9 or bad == seen
        else:
            too_many = bad >= FEWEST and bad > expected + 3 * max(expected, 0) ** 0.5
        if too_many:
            raise self._too_many(skips, f"{known + bad} of {known + seen} rows cannot be used")

    def _too_many(self, skips: Skips, found: str) -> ValueError:
        listed = "".join(f"\n  {message}" for message in skips.messages)
        return ValueError(
            f"{self.source}: {found} ({skips.by_reason}), allowed is a share of "
            f"{self._settings.max_bad_share:g}; mend the rows or raise data.max_bad_share.{listed}"
        )

    def _place(self, row: int) -> tuple[Part, int]:
        which = bisect.bisect_right(self._starts, row) - 1
        return self._parts[which], row - self._starts[which]


class _Kinds:
    """Codes of raw rows: a task's place in `names`, or one of BAD_CODES."""

    def __init__(self, allowed: Sequence[str] | None):
        self.names: list[str] = []
        self._allowed = allowed
        self._known: dict[tuple, int] = {}
        self._codes: dict[str, int] = {}

    def __call__(self, raw: object) -> int:
        if not isinstance(raw, dict):
            return BAD_CODES["not_an_object"]
        key = raw.get("problem_type"), raw.get("task_type"), _likely_type(raw)
        try:
            return self._known[key]
        except TypeError:  # a list or a dict
            return self._code(raw, key[2])
        except KeyError:
            code = self._code(raw, key[2])
            if len(self._known) < 10_000:  # a file may hold another in every row
                self._known[key] = code
            return code

    def _code(self, raw: dict, data_type: str) -> int:
        try:
            task = _kinds(raw, data_type, "")[1]
        except BadRow as bad:
            return BAD_CODES[bad.reason]
        if self._allowed is not None and task not in self._allowed:
            return BAD_CODES["unknown_task"]
        if task not in self._codes:
            if len(self.names) == MOST_TASKS:
                raise ValueError(
                    f"the rows name more than {MOST_TASKS:,} tasks, the last {task!r}: task_type "
                    "must be the name of a group of rows, not of a row"
                )
            self._codes[task] = len(self.names)
            self.names.append(task)
        return self._codes[task]


def _likely_type(raw: dict) -> str:
    """The data type by what the index sees: the field, or the question's markers."""
    value, problem = raw.get("data_type"), raw.get("problem")
    if not _missing(value):
        return str(value)
    if isinstance(problem, str) and VIDEO_MARKER in problem:
        return "video"
    return "text" if isinstance(problem, str) and IMAGE_MARKER not in problem else "image"


def to_example(raw: object, where: str, settings: DataConfig, folder: str = "") -> Example:
    """Check one raw row and give it its form; media are looked for but not opened.

    Args:
      where: file and row, for messages.
      settings: image_dir and allow_outside_paths are used.
      folder: what media paths start from where there is no image_dir.
    Raises:
      BadRow: with the reason, what was found and what to do.
    """
    if not isinstance(raw, dict):
        raise BadRow("not_an_object", f"{where}: a JSON object is expected, found {_short(raw)}")
    problem = raw.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise BadRow(
            "missing_problem", f"{where}: field 'problem' is {_short(problem)}, not a text"
        )
    root = settings.image_dir or folder
    found = {
        kind: _media(raw, kind, where, root, settings.allow_outside_paths)
        for kind in ("image", "video")
    }
    data_type = _data_type(raw, problem, found, where)
    for kind, marker in (("image", IMAGE_MARKER), ("video", VIDEO_MARKER)):
        if not found[kind] and data_type != kind:
            continue  # a question on the HTML tag <video>
        if problem.count(marker) != len(found[kind]):
            raise BadRow(
                f"{kind}_count",
                f"{where}: 'problem' has {problem.count(marker)} {marker} markers for "
                f"{len(found[kind])} {kind}s; one marker per {kind} is needed",
            )
    if data_type != "text" and not any(found.values()):
        raise BadRow(
            f"{data_type}_count",
            f"{where}: data_type is {data_type!r}, but there is no image or video; for a row "
            "without media it is 'text'",
        )
    problem_type, task = _kinds(raw, data_type, where)
    answer = _answer(raw, where)
    unreachable = rewards.truth_problem(answer, problem_type, data_type)
    if unreachable:
        raise BadRow("bad_answer", f"{where}: {unreachable}; no response could be right")
    number = raw.get("problem_id")
    return Example(
        id=where if _missing(number) else str(number),
        problem=problem,
        options=_options(raw, where),
        answer=answer,
        problem_type=problem_type,
        task=task,
        data_type=data_type,
        images=found["image"],
        videos=found["video"],
        thinking="" if _missing(raw.get("thinking")) else str(raw["thinking"]),
        where=where,
    )


def _missing(value: object) -> bool:
    """None, NaN and the empty text: how tables write "nothing here"."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(value: object, field: str, where: str) -> list:
    """A list field that may be missing, a list, a list written as a string, or one bare string."""
    if _missing(value):
        return []
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [value]
        try:
            value = ast.literal_eval(value.strip())  # also reads JSON lists of strings
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise BadRow(
                f"bad_{field}", f"{where}: field '{field}' is {_short(value)}, which is not a list"
            ) from None
    if not isinstance(value, list | tuple):
        raise BadRow(f"bad_{field}", f"{where}: field '{field}' is {_short(value)}, not a list")
    return list(value)


def _options(raw: dict, where: str) -> tuple[str, ...]:
    value = raw.get("options")
    if isinstance(value, str) and not value.lstrip().startswith("["):
        value = [line for line in value.split("\n") if line.strip()]
    return tuple(str(option) for option in _listed(value, "options", where) if not _missing(option))


def _media(raw: dict, kind: str, where: str, root: str, allow_outside: bool) -> tuple[Media, ...]:
    """The row's images or videos: the list column, or Hugging Face's column of one."""
    field, several, one = f"{kind}s", raw.get(f"{kind}s"), raw.get(kind)
    if _missing(several) or several in ([], "[]"):
        several = None if _missing(one) else [one]
    elif not _missing(one):
        message = f"{where}: has both a field '{kind}' and a field '{field}'; keep one of them"
        raise BadRow(f"bad_{field}", message)
    if _is_file(several):
        several = [several]

    def usable(value: object) -> Media:
        if _is_file(value):  # Hugging Face's image and video columns
            inside, path = value.get("bytes"), value.get("path")
            value = path if inside is None else inside
        if isinstance(value, str) and value:
            return media.resolve(value, root, allow_outside, kind, where)
        if not isinstance(value, bytes | Image.Image):
            message = f"{where}: {kind} {_short(value)} is neither a path nor a file's bytes"
            raise BadRow(f"bad_{field}", message)
        return value

    return tuple(
        # A video may be the list of its frames.
        tuple(map(usable, value))
        if kind == "video" and isinstance(value, list) and value
        else usable(value)
        for value in _listed(several, field, where)
    )


def _is_file(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and set(value) <= {"bytes", "path"}


def _data_type(raw: dict, problem: str, found: dict[str, tuple], where: str) -> str:
    value = raw.get("data_type")
    if _missing(value):
        video = found["video"] or VIDEO_MARKER in problem
        image = found["image"] or IMAGE_MARKER in problem
        value = "video" if video else "image" if image else "text"
    if value not in DATA_TYPES:
        raise BadRow(
            "unknown_data_type",
            f"{where}: data_type {_short(value)} is not one of {', '.join(DATA_TYPES)}",
        )
    return value


def _kinds(raw: dict, data_type: str, where: str) -> tuple[str, str]:
    """(problem_type, task) of a row, both known."""
    task_type = None if _missing(raw.get("task_type")) else str(raw["task_type"])
    try:
        problem_type = rewards.canonical(raw.get("problem_type"))
    except ValueError as error:
        raise BadRow("unknown_problem_type", f"{where}: {error}") from None
    return problem_type, rewards.task_of(task_type, problem_type, data_type)


def _answer(raw: dict, where: str) -> str:
    value = raw.get("answer")
    if isinstance(value, dict | list):
        value = json.dumps(value)
    if not _missing(value):
        text = str(value)
        match = ANSWER.fullmatch(text)
        text = (match.group(1) if match else text).strip()
        if text:
            return text
    raise BadRow("missing_answer", f"{where}: field 'answer' is {_short(value)}: nothing to score")
