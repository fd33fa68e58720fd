"""Dynamic filtering: which sampled rows a step trains on, and which wait for the next one."""

import dataclasses
from collections.abc import Callable

from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train.rows import Row


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a step got.

    Attributes:
      rows: to train on, at most as many as asked for, oldest first.
      surplus: kept rows that wait for the next step.
      sampled: every row sampled now, kept or not (for metrics).
      rounds: generation rounds.
      dropped: surplus rows that had waited too long.
    """

    rows: list[Row]
    surplus: list[Row]
    sampled: list[Row]
    rounds: int
    dropped: int


def keeps(config: FilterConfig, row: Row) -> bool:
    """Whether a row carries signal: low < mean raw accuracy < high, before any shaping."""
    return not config.enabled or config.low < float(row.part("accuracy").mean()) < config.high


def collect(
    config: FilterConfig,
    step: int,
    wanted: int,
    surplus: list[Row],
    draw: Callable[[], list[Row]],
) -> Collected:
    """Samples until `wanted` rows are kept or the rounds are used up; never fails for want of rows.

    Args:
      step: the step being collected for.
      surplus: rows left over from earlier steps; used first, unless older than config.max_age.
      draw: samples and scores one round of fresh rows.
    """
    young = [row for row in surplus if step - row.born <= config.max_age]
    kept, sampled, rounds = list(young), [], 0
    while len(kept) < wanted and rounds < config.max_rounds:
        fresh = draw()
        sampled += fresh
        kept += [row for row in fresh if keeps(config, row)]
        rounds += 1
    return Collected(kept[:wanted], kept[wanted:], sampled, rounds, len(surplus) - len(young))
