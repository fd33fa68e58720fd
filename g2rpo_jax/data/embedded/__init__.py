"""The embedded task set: six visual tasks over real handwritten digits, as OneThinker rows.

Row i of a (split, seed) is a pure function of the three, so a longer set begins with the shorter
one and any row can be made again alone. See docs/tasks.md for samples.
"""

import json
import os
import random
from collections.abc import Sequence
from urllib.parse import parse_qsl

from g2rpo_jax.data.embedded.scene import digit_bank
from g2rpo_jax.data.embedded.tasks import TASKS, Item, captions
from g2rpo_jax.tables import lookup, nearest

CAPTIONS = "captions"


def rows(
    split: str,
    rows: int,
    seed: int = 0,
    tasks: Sequence[str] = tuple(TASKS),
    captions: bool = False,
) -> list[dict]:
    """Raw rows in the OneThinker format, with PIL images and a `thinking` text; tasks take turns.

    Args:
      split: "train" or "test": which digit images and which charts may occur.
      rows: how many.
      seed: another seed gives other scenes from the same digit images.
      tasks: names of TASKS; may be empty if `captions`.
      captions: add the caption rows of the supervised warm-up as one more task in the turn.
    Returns:
      dicts with problem_id, problem, problem_reserved_text, data_type, problem_type, task_type,
      options, answer, images, data_source and thinking.
    Raises:
      ValueError: on an unknown split or task, or where nothing is asked for.
    """
    return _make(split, rows, seed, tasks, captions)


def _make(
    split: str, count: int, seed: int, tasks: Sequence[str], with_captions: bool
) -> list[dict]:
    bank = digit_bank(split)
    makers = [(task, lookup(TASKS, task, kind="embedded task")) for task in tasks]
    if with_captions:
        makers.append((CAPTIONS, captions))
    if not makers or count < 1:
        raise ValueError(
            f"embedded rows: asked for {count} rows of the tasks {list(tasks)}: "
            "at least one row and one task (or captions) are needed"
        )
    made = []
    for i in range(count):
        task, make = makers[i % len(makers)]
        rng = random.Random(f"{split}/{seed}/{task}/{i}")
        made.append(_row(f"{split}-{seed}-{i}", task, make(rng, bank, split == "test")))
    return made


def _row(problem_id: str, task: str, item: Item) -> dict:
    return {
        "problem_id": problem_id,
        "problem": f"<image> {item.question}",
        "problem_reserved_text": item.question,
        "data_type": "image",
        "problem_type": item.problem_type,
        "task_type": "ocr" if task == CAPTIONS else task,
        "options": list(item.options),
        "answer": f"<answer>{item.answer}</answer>",
        "images": [item.canvas.image()],
        "data_source": "embedded digits",
        "thinking": item.thinking,
    }


def from_spec(spec: str) -> list[dict]:
    """Rows of a source like "embedded:train?rows=2000&seed=1&tasks=ocr,math_reasoning&captions=1".

    Raises:
      ValueError: naming the part of `spec` that is unknown or not a number.
    """
    split, _, query = spec.removeprefix("embedded:").partition("?")
    options = {"rows": 1000, "seed": 0, "tasks": ",".join(TASKS), "captions": 0}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in options:
            raise ValueError(
                f"data source {spec!r}: unknown option {key!r}{nearest(key, options)} "
                f"Known: {', '.join(options)}."
            )
        options[key] = value
    try:
        numbers = {key: int(options[key]) for key in ("rows", "seed", "captions")}
    except ValueError as error:
        raise ValueError(
            f"data source {spec!r}: rows, seed and captions are integers ({error})"
        ) from None
    tasks = [task for task in options["tasks"].split(",") if task]
    return _make(split, numbers["rows"], numbers["seed"], tasks, bool(numbers["captions"]))


def write(directory: str, split: str, rows: int, seed: int = 0) -> str:
    """Write the rows as a OneThinker folder, `<split>.json` and `images/*.png`.

    Returns:
      the JSON file's path.
    """
    os.makedirs(os.path.join(directory, "images"), exist_ok=True)
    raws = _make(split, rows, seed, tuple(TASKS), False)
    for raw in raws:
        path = f"images/{raw['problem_id']}.png"
        raw["images"][0].save(os.path.join(directory, path))
        raw["images"] = [path]
    target = os.path.join(directory, f"{split}.json")
    with open(target, "w", encoding="utf-8") as file:
        json.dump(raws, file, indent=1)
    return target
