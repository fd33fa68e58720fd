"""Files of rows in the OneThinker format to `Example`s; a bad row is skipped, counted and named.

The embedded set passes through here too, so every row is checked by the same code. Validation
files of the authors' release carry NaN values, lists written as strings and missing fields: all are
read.
"""

import ast
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from g2rpo_jax import rewards
from g2rpo_jax.data import embedded
from g2rpo_jax.data.example import IMAGE_MARKER, VIDEO_MARKER, BadRow, Example

DATA_TYPES = ("image", "text", "video")
MESSAGES_KEPT = 10
ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class RowSet:
    """What a source gave.

    Fields:
      examples: the usable rows, in their order.
      skipped: number of bad rows by reason.
      messages: the first ten complaints, each with file, row and remedy.
    """

    examples: tuple[Example, ...]
    skipped: Counter
    messages: tuple[str, ...]


def read(source: str, image_dir: str | None = None, max_bad_share: float = 0.1) -> RowSet:
    """All usable rows of a source.

    Args:
      source: a .json file (a list of rows), a .jsonl file (one row a line), or a specification like
        "embedded:train?rows=2000&seed=0" (see data.embedded.from_spec).
      image_dir: folder that image paths start from; default the source file's own.
      max_bad_share: in [0, 1]; a larger share of bad rows is an error.
    Raises:
      ValueError: if the source is missing, is no such list, or has too many bad rows or none good;
        the message holds the first ten complaints.
    """
    if image_dir is None and not source.startswith("embedded:"):
        image_dir = os.path.dirname(source)
    examples, skipped, messages = [], Counter(), []
    for where, raw in _raw_rows(source):
        try:
            if isinstance(raw, BadRow):
                raise raw
            examples.append(to_example(raw, image_dir, where))
        except BadRow as bad:
            skipped[bad.reason] += 1
            if len(messages) < MESSAGES_KEPT:
                messages.append(str(bad))
    bad, total = skipped.total(), skipped.total() + len(examples)
    if not examples or bad > max_bad_share * total:
        listed = "".join(f"\n  {message}" for message in messages)
        raise ValueError(
            f"{source}: {bad} of {total} rows cannot be used ({dict(skipped)}), allowed is a share "
            f"of {max_bad_share:g}; mend the rows or raise the limit (max_bad_share).{listed}"
        )
    return RowSet(tuple(examples), skipped, tuple(messages))


def _raw_rows(source: str) -> Iterator[tuple[str, object]]:
    """(where, raw row) of each row; a broken line of a .jsonl gives a BadRow in the row's place."""
    if source.startswith("embedded:"):
        for i, raw in enumerate(embedded.from_spec(source)):
            yield f"{source} row {i}", raw
        return
    name = os.path.basename(source)
    if not source.endswith((".json", ".jsonl")):
        raise ValueError(
            f"data source {source!r}: a .json or .jsonl file, or embedded:train, is expected"
        )
    try:
        with open(source, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        raise ValueError(f"data source {source!r}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"data source {source!r} is not UTF-8 text: {error}") from None
    if source.endswith(".jsonl"):
        # Not splitlines: it also cuts at U+2028, which may stand inside a JSON string.
        for i, line in enumerate(text.split("\n")):
            if line.strip():
                where = f"{name} line {i + 1}"
                yield where, _json_line(line, where)
        return
    try:
        raws = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"data source {source!r} is not JSON ({error}): it may be cut off; fetch it again"
        ) from None
    if not isinstance(raws, list):
        raise ValueError(
            f"data source {source!r} holds a {type(raws).__name__}, but a list of rows is expected"
        )
    for i, raw in enumerate(raws):
        yield f"{name} row {i}", raw


def _json_line(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        return BadRow("wrong_json", f"{where}: not JSON ({error}); it may be cut off")


def to_example(raw: object, image_dir: str | None, where: str) -> Example:
    """Check one raw row and give it its form; pictures are looked for but not opened.

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
    images = _images(raw, image_dir, where)
    data_type = _data_type(raw, problem, images, where)
    markers = problem.count(IMAGE_MARKER)
    if markers != len(images):
        raise BadRow(
            "image_count",
            f"{where}: 'problem' has {markers} {IMAGE_MARKER} markers for {len(images)} images; "
            "one marker per image is needed",
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
        images=images,
        thinking="" if _missing(raw.get("thinking")) else str(raw["thinking"]),
        where=where,
    )


def open_images(example: Example) -> list[Image.Image]:
    """The example's pictures, decoded, as RGB.

    Raises:
      BadRow: if a file is missing, cut off or no picture.
    """
    return [_open(image, example.where) for image in example.images]


def _open(image: str | Image.Image, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        with Image.open(image) as file:
            return file.convert("RGB")
    except FileNotFoundError:
        raise BadRow("missing_image", f"{where}: image {image} does not exist") from None
    except UnidentifiedImageError:
        raise BadRow("broken_image", f"{where}: {image} is no image; fetch it again") from None
    # Pillow reports damage as one of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRow(
            "broken_image", f"{where}: image {image} cannot be read ({error}); fetch it again"
        ) from None


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


def _images(raw: dict, image_dir: str | None, where: str) -> tuple[str | Image.Image, ...]:
    found = []
    for image in _listed(raw.get("images"), "images", where):
        if not isinstance(image, Image.Image):
            if not isinstance(image, str) or not image:
                raise BadRow(
                    "bad_images", f"{where}: an image is {_short(image)}, not a file's path"
                )
            image = os.path.normpath(os.path.join(image_dir or ".", image))
            if not os.path.isfile(image):
                raise BadRow(
                    "missing_image",
                    f"{where}: image {image} does not exist; check the image folder (image_dir)",
                )
        found.append(image)
    return tuple(found)


def _data_type(raw: dict, problem: str, images: tuple, where: str) -> str:
    value = raw.get("data_type")
    if _missing(value):
        value = "image" if images else "text"
    if value not in DATA_TYPES:
        raise BadRow(
            "unknown_data_type",
            f"{where}: data_type {_short(value)} is not one of {', '.join(DATA_TYPES)}",
        )
    if value == "video" or VIDEO_MARKER in problem or _listed(raw.get("videos"), "videos", where):
        raise BadRow("video", f"{where}: video rows are not read; leave them out of the file")
    return value


def _kinds(raw: dict, data_type: str, where: str) -> tuple[str, str]:
    """(problem_type, task) of a row, both known."""
    task_type = None if _missing(raw.get("task_type")) else str(raw["task_type"])
    try:
        problem_type = rewards.canonical(raw.get("problem_type"))
    except ValueError as error:
        raise BadRow("unknown_problem_type", f"{where}: {error}") from None
    try:
        return problem_type, rewards.task_of(task_type, problem_type, data_type)
    except ValueError as error:
        message = f"{where}: {error} Without the field, the problem type is the task."
        raise BadRow("unknown_task", message) from None


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
