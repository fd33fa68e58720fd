"""Which rows of a step people get to see in samples.jsonl, and what became of each."""

import dataclasses
from collections.abc import Callable

import numpy as np

from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.media import Limits, open_media
from g2rpo_jax.report import SampleLog, answers
from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train.filtering import Collected, keeps
from g2rpo_jax.train.rows import Row

FATES = {
    "trained": "trained on in this step",
    "surplus": "kept by the filter; waits for a later step",
    "all wrong": "left out: mean accuracy not above filter.low, nothing to tell good from bad",
    "all right": "left out: mean accuracy not below filter.high, nothing to tell good from bad",
    "all equal": "left out: all its responses are equally good by filter.criterion",
}


@dataclasses.dataclass(frozen=True)
class Fate:
    """A row of a step, what became of it (a key of FATES), and its advantages if trained on."""

    row: Row
    fate: str
    adv_G: np.ndarray | None = None


def fates(got: Collected, adv_PG: np.ndarray | None, filter_config: FilterConfig) -> list[Fate]:
    """Every row of a step: those trained on (carried ones too) first, then the others sampled now.

    Args:
      adv_PG: advantages of `got.rows`, in their order; None if no row was trained on.
    """
    trained = {id(row) for row in got.rows}
    out = [Fate(row, "trained", adv_PG[p]) for p, row in enumerate(got.rows)]
    for row in got.sampled:
        if id(row) in trained:
            continue
        if keeps(filter_config, row):
            fate = "surplus"
        else:
            mean = float(row.part("accuracy").mean())
            fate = "all wrong" if mean <= filter_config.low else "all equal"
            fate = "all right" if mean >= filter_config.high else fate
        out.append(Fate(row, fate))
    return out


def choose(rows: list[Fate], count: int, step: int) -> list[Fate]:
    """At most `count` rows, spread over tasks; within a task trained and other rows take turns.

    Drawn by the step alone: which task comes first, and in which tasks (a third of them) a row that
    was not trained on comes first.
    """
    draw = np.random.default_rng(step)
    queues: dict[str, list[Fate]] = {}
    for task in draw.permutation(sorted({f.row.example.task for f in rows})).tolist():
        own = [f for f in rows if f.row.example.task == task]
        halves = [[f for f in own if f.fate == "trained"], [f for f in own if f.fate != "trained"]]
        if draw.random() < 1 / 3:
            halves.reverse()
        queues[task] = []
        while any(halves):
            queues[task] += [half.pop(0) for half in halves if half]
    chosen: list[Fate] = []
    while len(chosen) < count and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:count]


def write(
    log: SampleLog,
    step: int,
    rows: list[Fate],
    count: int,
    limits: Limits,
    example_of: Callable[[Row], Example] = lambda row: row.example,
) -> None:
    """Writes the chosen rows of a step with thumbnails of their pictures and clips.

    Args:
      example_of: gives a row's example with its media, which another process may have.
    """
    log.write(
        step,
        [
            f.row.to_log(f.fate, f.adv_G, _media(log, example_of(f.row), limits))
            for f in choose(rows, count, step)
        ],
    )


def _media(log: SampleLog, example: Example, limits: Limits) -> list[dict]:
    """What is kept of a row's pictures; a file that vanished since is said to be missing."""
    try:
        opened = open_media(example, limits)
    except BadRow as bad:
        return [{"kind": "missing", "reason": str(bad)}]
    wanted = answers.times(example.answer)
    return [
        *(log.image(image) for image in opened.images),
        *(log.video(clip.frames, clip.seconds, wanted) for clip in opened.videos),
    ]
