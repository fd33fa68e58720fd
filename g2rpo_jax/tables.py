"""Named choices: the one place that words "unknown X; did you mean Y"."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the closest known name, or an empty string when none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def lookup(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """`table[name]`, or a ValueError that names the nearest entry and lists them all.

    Args:
      table: the choices, by name.
      name: what the user asked for.
      kind: what the table holds, for the message ("advantage estimator").
    Raises:
      ValueError: if `name` is not in `table`.
    """
    if name in table:
        return table[name]
    hint = nearest(name, table) or "."
    raise ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(table))}.")
