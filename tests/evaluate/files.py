"""Rows of the embedded set, written out in the formats of other projects."""

import base64
import csv
import io
import json
from pathlib import Path

from g2rpo_jax.data import embedded
from g2rpo_jax.evaluate.readers import LETTERS


def png(image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_tsv(path: Path, rows: list[dict], columns: list[str]) -> Path:
    """A table as pandas writes it with sep="\\t": minimal quoting, empty cells for NaN."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def embedded_tsv(path: Path, count: int) -> Path:
    """The embedded test rows as VLMEvalKit would hold them."""
    rows = []
    for i, raw in enumerate(embedded.rows("test", count)):
        options = {o[0]: o.partition(". ")[2] for o in raw["options"]}
        rows.append(
            {
                "index": i,
                "image": base64.b64encode(png(raw["images"][0])).decode(),
                "question": raw["problem"].removeprefix("<image> "),
                "answer": raw["answer"].removeprefix("<answer>").removesuffix("</answer>"),
                "problem_type": raw["problem_type"],
                "category": raw["task_type"],
                **options,
            }
        )
    columns = ["index", "image", "question", "answer", "category", "problem_type", *LETTERS[:4]]
    return write_tsv(path, rows, columns)


def embedded_json(folder: Path, count: int) -> Path:
    """The embedded test rows as OneThinker's JSON beside PNG files, with NaN where nothing is."""
    (folder / "images").mkdir()
    raws = embedded.rows("test", count)
    for i, raw in enumerate(raws):
        (folder / f"images/{i}.png").write_bytes(png(raw["images"][0]))
        raw["images"] = [f"images/{i}.png"]
        raw["options"] = raw["options"] or float("nan")
        del raw["thinking"]
    path = folder / "eval.json"
    path.write_text(json.dumps(raws))
    return path
