"""The tables that config fields choose from, and what their functions' docstrings say."""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

LABEL = re.compile(r"(Args|Returns|Raises|Attributes|Cost|Source):")
# A full stop before a capital, a number or a bracket; not that of "et al." or "(eq. 2)".
SENTENCE = re.compile(r"(?<!et al)\.\s+(?=[A-Z`(])")
EQUATION = re.compile(r"[A-Za-z]\w*'? (=|<-) \S")


@dataclasses.dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
      title: heading on the page.
      field: the config field that names an entry: an entry is chosen by `--config.FIELD=NAME`.
      table: "module:NAME" of the dict, inside the package.
      where: the place of its functions in a step, one sentence.
    """

    title: str
    field: str
    table: str
    where: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method: `flag` is what one types after `--config.`; `formula` is a list of lines."""

    flag: str
    what: str
    formula: tuple[str, ...]
    cost: str
    source: str
    place: str


SECTIONS = (
    Section(
        "Advantage estimators",
        "advantage.name",
        "advantages:ESTIMATORS",
        "After sampling and scoring: rewards of prompt groups [P, G] become advantages [P, G].",
    ),
    Section(
        "Policy losses",
        "objective.name",
        "objectives:OBJECTIVES",
        "In the update: log-probs and advantages become a loss for each token.",
    ),
    Section(
        "Aggregations",
        "objective.aggregation",
        "objectives:AGGREGATIONS",
        "In the update: what each token's loss weighs in the batch's.",
    ),
    Section(
        "KL estimators",
        "objective.kl_estimator",
        "objectives:KL_ESTIMATORS",
        "In the update, where `objective.kl_coefficient` is above 0: the distance to the reference"
        " policy, d = logp - ref_logp.",
    ),
    Section(
        "Gap between sampler and trainer",
        "objective.importance",
        "objectives:IMPORTANCE",
        "In the update: what a token weighs whose probability the sampler had otherwise.",
    ),
    Section(
        "Length rewards",
        "shaping.length_form",
        "shaping:LENGTH_FORMS",
        "Between scoring and advantages, where `shaping.length_weight` is above 0: a response earns"
        " something by its number of tokens L.",
    ),
    Section(
        "Entropy terms",
        "shaping.entropy_form",
        "shaping:ENTROPY_FORMS",
        "In the update, where `shaping.entropy_weight` is above 0: what the loss makes of entropy.",
    ),
    Section(
        "Entropy estimators",
        "shaping.entropy_estimator",
        "shaping:ENTROPY_ESTIMATORS",
        "In the update, where `shaping.entropy_weight` is above 0: what counts as the entropy H.",
    ),
    Section(
        "Prompts that are drawn",
        "curriculum.name",
        "selection.prompts:CURRICULA",
        "Before sampling: the chance of a prompt to be drawn now.",
    ),
    Section(
        "Rows that are kept",
        "filter.criterion",
        "selection.rows:CRITERIA",
        "After scoring: which sampled rows carry signal; more are sampled for the others.",
    ),
    Section(
        "Responses that are kept",
        "selection.name",
        "selection.responses:SELECTIONS",
        "Before or after the advantages: which of a prompt's G responses train.",
    ),
    Section(
        "Rows that are replayed",
        "replay.name",
        "selection.replay:REPLAYS",
        "Before the update: which rows of earlier steps are trained on again.",
    ),
    Section(
        "Rewards",
        "tasks.NAME.reward",
        "rewards.table:REWARDS",
        "As responses end: text becomes an accuracy in [0, 1], by the row's problem type or by what"
        " its task names.",
    ),
    Section(
        "Further rewards of a task",
        "tasks.NAME.reward",
        "rewards.table:ALTERNATIVES",
        "As the rewards above, for tasks that name them.",
    ),
    Section(
        "Rewards put together",
        "tasks.NAME.reward",
        "rewards.table:ENSEMBLES",
        "As the rewards above; A, B .. are names of rewards.",
    ),
)

# What takes part in nothing has no source.
NEUTRAL = ("all", "none", "uniform")


def table_of(section: Section) -> dict[str, Any]:
    """The dict that a section stands for."""
    module, name = section.table.split(":")
    return getattr(importlib.import_module(f"g2rpo_jax.{module}"), name)


def entries(section: Section) -> list[Entry]:
    """Every entry of a section's table, in the order of the table.

    Raises:
      ValueError: entries whose docstring lacks a sentence, an equation or a source; names them all.
    """
    functions = {name: function_of(value) for name, value in table_of(section).items()}
    found = {name: entry(f"{section.field}={name}", f) for name, f in functions.items()}
    problems = [
        f"{one.flag} ({one.place}): its docstring has no {part}"
        for name, one in found.items()
        for part in (("what",) if name in NEUTRAL else ("what", "formula", "source"))
        if not getattr(one, part)
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return list(found.values())


def entry(flag: str, function: Callable) -> Entry:
    """What a function's docstring says of itself; "" or () for what it does not."""
    text = inspect.getdoc(function) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    file = function.__module__.removeprefix("g2rpo_jax.").replace(".", "/") + ".py"
    return Entry(
        flag,
        SENTENCE.split(paragraph)[0].rstrip(".:"),
        equation(text),
        labelled(text, "Cost"),
        labelled(text, "Source"),
        f"{file}:{function.__name__}",
    )


def function_of(value: Any) -> Callable:
    """The function of a table's entry: itself, or that of a small record around it."""
    for name in ("function", "accuracy"):
        value = getattr(value, name, value)
    return value


def equation(text: str) -> tuple[str, ...]:
    """The first block indented by four under plain text; without one the first line `A = ...`, as
    far as its sentence goes."""
    lines = text.splitlines()
    block: list[str] = []
    above = ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent >= 4 and (block or not (above.startswith(" ") or LABEL.match(above))):
            block.append(line[4:])
        elif line.strip():
            if block:
                break
            above = line
    if block:
        return tuple(block)
    for line in lines:
        if EQUATION.match(line):
            return (SENTENCE.split(line)[0].rstrip("."),)
    return ()


def labelled(text: str, label: str) -> str:
    """What follows `label:` at the start of a line, to the end of its paragraph."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(f"{label}:"):
            found = [line.removeprefix(f"{label}:")]
        elif found and (not line.strip() or LABEL.match(line)):
            break
        elif found:
            found.append(line)
    return " ".join(" ".join(found).split()).rstrip(".")
