"""Lowers programs for the platform "neuron", without such a device, and holds them against the
table: `python launch/lint.py`, and the tests."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from g2rpo_jax.neuron.allowed import ALLOWED, Allowed
from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.neuron.table import CHECKED, NO, PATTERNS, rows_of
from g2rpo_jax.neuron.walk import Module, Place

UNKNOWN = "unknown operation"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule broken at one place of the source.

    Attributes:
      program: its name.
      rule: a row's name.
      operation: of StableHLO, e.g. "gather".
      detail: what is wrong with it; "" where the operation itself is.
      place: file, line and function of our code.
      count: how many operations there.
      warns: worth knowing, not an error.
      why, instead, source: of the rule.
      allowed: the reason of the exception that covers it, or None.
    """

    program: str
    rule: str
    operation: str
    detail: str
    place: Place
    count: int = 1
    warns: bool = False
    why: str = ""
    instead: str = ""
    source: str = ""
    allowed: Allowed | None = None

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{self.program}: {self.operation} at {self.place}{times}: {self.rule}{detail}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What the lint says of one program.

    Attributes:
      program: its name.
      operations: number of operations by name.
      findings: errors, warnings and allowed exceptions.
    """

    program: str
    operations: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        """Findings that nothing excuses."""
        return [f for f in self.findings if not f.warns and f.allowed is None]


def lower(function: Any, *args: Any, **kwargs: Any) -> Any:
    """StableHLO of a jitted (or plain) function for Neuron; arguments may be abstract."""
    if not hasattr(function, "trace"):
        function = jax.jit(function)
    lowered = function.trace(*args, **kwargs).lower(lowering_platforms=("neuron",))
    return lowered.compiler_ir("stablehlo")


def lint(
    module: Any,
    program: str,
    limits: Limits | None = None,
    allowed: Sequence[Allowed] = ALLOWED,
) -> Report:
    """Holds every operation of a module against the table.

    Args:
      module: StableHLO, from `lower`.
      program: the name that findings bear.
      limits: numbers that rules compare with.
      allowed: exceptions.
    """
    walked, limits = Module(module), limits or Limits()
    found = []
    for op in walked.operations:
        rows = rows_of(op.name)
        if not rows:
            found.append((UNKNOWN, None, op, "not in the table"))
        for row in rows:
            if row.verdict == NO:
                found.append((row.name, row, op, ""))
            elif row.verdict == CHECKED and (wrong := row.check(op, walked, limits)):
                found.append((row.name, row, op, wrong))
    for row in PATTERNS:
        found += [(row.name, row, op, wrong) for op, wrong in row.check(walked, limits)]
    counted: dict[tuple, Finding] = {}
    for rule, row, op, detail in found:
        place = walked.place(op)
        finding = Finding(
            program=program,
            rule=rule,
            operation=op.name.removeprefix("stablehlo."),
            detail=detail,
            place=place,
            warns=bool(row and row.warns),
            why=row.why if row else "nothing is known of it",
            instead=row.instead if row else "an operation of the table (neuron/table.py)",
            source=row.source if row else "caution",
            allowed=next((a for a in allowed if a.covers(rule, place.site, program)), None),
        )
        key = (rule, finding.operation, detail, place)
        before = counted.get(key)
        counted[key] = dataclasses.replace(before, count=before.count + 1) if before else finding
    operations = collections.Counter(op.name for op in walked.operations)
    return Report(program, dict(operations), tuple(counted.values()))


def check(function: Any, *args: Any, program: str = "program", **options: Any) -> Report:
    """`lint` of `lower`."""
    return lint(lower(function, *args), program, **options)


def unused(reports: Iterable[Report], allowed: Sequence[Allowed] = ALLOWED) -> list[Allowed]:
    """Exceptions that cover no finding of any report."""
    used = {f.allowed for report in reports for f in report.findings}
    return [entry for entry in allowed if entry not in used]
