"""Which sampled rows a step trains on, which wait for the next one, and which responses count."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from g2rpo_jax.advantages import Group
from g2rpo_jax.config import RunConfig
from g2rpo_jax.selection.responses import SELECTIONS, Responses
from g2rpo_jax.selection.rows import CRITERIA
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
      replayed: so many of `rows`, the last ones, were trained on before.
    """

    rows: list[Row]
    surplus: list[Row]
    sampled: list[Row]
    rounds: int
    dropped: int
    replayed: int = 0

    def with_replayed(self, rows: list[Row]) -> "Collected":
        """The same, and rows of earlier steps to train on again."""
        return dataclasses.replace(self, rows=self.rows + rows, replayed=len(rows))


def keeps(config: FilterConfig, row: Row) -> bool:
    """Whether a row carries signal, by filter.criterion; all do without a filter."""
    if not config.enabled:
        return True
    criterion = CRITERIA[config.criterion]
    return criterion(row.part("accuracy"), row.reward_G, config.low, config.high)


def collect(
    config: FilterConfig,
    step: int,
    wanted: int,
    surplus: list[Row],
    draw: Callable[[], list[Row]],
) -> Collected:
    """Samples until enough rows are kept or the rounds are used up; never fails for want of rows.

    Enough are `wanted` (DAPO's dynamic sampling), or filter.valid_share of them (GPG's threshold);
    then rows without signal of the last round fill the step up.

    Args:
      step: the step being collected for.
      surplus: rows left over from earlier steps; used first, unless older than config.max_age.
      draw: samples and scores one round of fresh rows.
    """
    enough = max(1, math.ceil(config.valid_share * wanted - 1e-9))
    young = [row for row in surplus if step - row.born <= config.max_age]
    kept, sampled, fresh, rounds = list(young), [], [], 0
    while len(kept) < (enough if rounds else wanted) and rounds < config.max_rounds:
        fresh = draw()
        sampled += fresh
        kept += [row for row in fresh if keeps(config, row)]
        rounds += 1
    rows = kept[:wanted]
    if config.valid_share < 1:
        blank = [row for row in fresh if not keeps(config, row)]
        rows += blank[: wanted - len(rows)]
    return Collected(rows, kept[wanted:], sampled, rounds, len(surplus) - len(young))


def weigh(
    config: RunConfig,
    group: Group,
    ended_PG: np.ndarray,
    replayed_P: np.ndarray,
    estimate: Callable[[Group], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages of a step's responses, and which of them the update sees.

    What filter.overlong="drop" and a selection before the advantages leave out, the estimator does
    not see. What "mask", a selection after them and replay.min_advantage leave out, it does.

    Args:
      group: the step's rows, all responses valid but those of filler rows.
      ended_PG: bool; False where a response was cut.
      replayed_P: bool, rows that were trained on before.
      estimate: group -> adv_PG.
    Returns:
      (adv_PG float32, keep_PG bool); advantages are 0 where a response is not kept.
    """
    options, overlong = config.selection, config.filter.overlong
    selection = SELECTIONS[options.name]
    valid_PG = group.valid_PG & ended_PG if overlong == "drop" else group.valid_PG
    responses = Responses(group.reward_PG, group.length_PG, ended_PG, valid_PG)
    keep_PG = valid_PG if selection.after else selection(responses, options)
    adv_PG = np.asarray(estimate(dataclasses.replace(group, valid_PG=keep_PG)))
    if selection.after:
        keep_PG = selection(dataclasses.replace(responses, adv_PG=adv_PG), options)
    if overlong == "mask":
        keep_PG = keep_PG & ended_PG
    weak_PG = replayed_P[:, None] & (np.abs(adv_PG) < config.replay.min_advantage)
    keep_PG = keep_PG & ~weak_PG
    return np.where(keep_PG, adv_PG, 0).astype(np.float32), keep_PG
