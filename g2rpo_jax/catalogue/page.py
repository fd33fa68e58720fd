"""docs/methods.md: the tables as one page."""

import dataclasses

from g2rpo_jax.catalogue.around import FOR_REWARDS, FOR_SAMPLING, FOR_SYSTEMS
from g2rpo_jax.catalogue.entries import SECTIONS, Entry, entries
from g2rpo_jax.catalogue.estimators import FOR_ESTIMATORS
from g2rpo_jax.catalogue.losses import FOR_LOSSES
from g2rpo_jax.catalogue.paper import Paper
from g2rpo_jax.config import RunConfig

PAPERS = FOR_ESTIMATORS + FOR_LOSSES + FOR_SAMPLING + FOR_REWARDS + FOR_SYSTEMS
HEAD = """# Methods

Written by `python -m g2rpo_jax.catalogue` from the docstrings of the tables: change those, not
this page.

{count} entries. Each is chosen by one line, `--config.` and its name; in quotes where it has
spaces or brackets:

    python launch/train.py --config=configs/onethinker.py:tiny --config.{example}

**cost** is empty where a method is arithmetic on what a step has anyway. R are the rewards of a
prompt's group and A the advantages; other letters are those of the function named under **code**,
in `g2rpo_jax/`, whose docstring says more. A source that says "likely" means that the formula was
taken from the paper's text and could not be held against the authors' code.
"""
BY_PAPER = """## By paper

Which line trains by which published method. Where a part of one is left out, or done otherwise, the
entry's source says so.
"""


def page() -> str:
    """The whole page.

    Raises:
      ValueError: an entry without equation or source, or a paper that says nothing of itself.
    """
    found, problems = {}, []
    for section in SECTIONS:
        try:
            found[section] = entries(section)
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError("\n".join(problems))
    flags = {one.flag for rows in found.values() for one in rows}
    parts = [HEAD.format(count=len(flags), example="advantage.name=grpo")]
    for section, rows in found.items():
        parts.append(f"## {section.title}\n\n{section.where}\n")
        head = ("name", "what", "formula", "cost", "code", "source")
        parts.append(_table(head, [_row(one) for one in rows]))
    here = {paper: reached(paper, flags) for paper in PAPERS}
    parts.append(BY_PAPER)
    rows = [
        (_text(paper.name), _text(paper.title), "<br>".join(map(_text, ways)))
        for paper, ways in here.items()
        if ways
    ]
    parts.append(_table(("method", "paper", "here"), rows))
    parts.append("## Not done\n\nWhat each would need that a run does not give it today.\n")
    rows = [
        (_text(paper.name), _text(paper.title), _text(paper.needs))
        for paper, ways in here.items()
        if not ways
    ]
    parts.append(_table(("method", "paper", "needs"), rows))
    return "\n".join(parts)


def reached(paper: Paper, flags: set[str]) -> list[str]:
    """The ways to train by a paper's method that the tables and the configuration have."""
    ways = [f"`{way}`" for way in paper.ways if way in flags or _is_field(way)]
    return ways + ([paper.always] if paper.always else [])


def _is_field(way: str) -> bool:
    """Whether the configuration has `section.field`, and takes the value of `section.field=value`.

    Fields that choose from a table are left to the tables.
    """
    path, _, value = way.partition("=")
    if value and any(section.field == path for section in SECTIONS):
        return False
    *sections, field = path.split(".")
    owner = RunConfig()
    for name in sections:
        owner = (
            next(iter(owner.values())) if isinstance(owner, dict) else getattr(owner, name, None)
        )
    if owner is None or field not in {one.name for one in dataclasses.fields(owner)}:
        return False
    if value:
        try:
            dataclasses.replace(owner, **{field: _value(value)})
        except ValueError:
            return False
    return True


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _row(one: Entry) -> tuple[str, ...]:
    lines = "<br>".join(_code(line) for line in one.formula if line.strip())
    return (
        _code(one.flag),
        _text(one.what),
        lines,
        _text(one.cost),
        _code(one.place),
        _text(one.source),
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _code(text: str) -> str:
    # A table's cell ends at a bar even inside code, unless it is escaped.
    return "`" + text.strip().replace("`", "'").replace("|", "\\|") + "`"


def _text(text: str) -> str:
    """Plain text of a cell; what stands in backticks stays as it is."""
    pieces = text.split("`")
    for i, piece in enumerate(pieces):
        piece = piece.replace("|", "\\|")
        pieces[i] = piece if i % 2 else piece.replace("*", "\\*").replace("<", "&lt;")
    return "`".join(pieces)
