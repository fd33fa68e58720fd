"""The lint of a configuration, as the launcher shows it."""

import textwrap
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl.sizes import config_of
from g2rpo_jax.neuron import lint, partitioned, programs
from g2rpo_jax.neuron.allowed import ALLOWED
from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.neuron.walk import Module
from g2rpo_jax.train.programs import Call


def chosen(
    config: RunConfig, tokens: int | None, patches: int | None, every: bool
) -> list[tuple[int, int]]:
    """(prompt tokens, patches) to lint: as given, every bucket of the config, or the smallest."""
    found = programs.buckets(config)
    if every and tokens is None and patches is None:
        return found
    smallest = found[0]
    return [
        (
            smallest[0] if tokens is None else tokens,
            smallest[1] if patches is None else patches,
        )
    ]


def run(
    config: RunConfig,
    mesh: Mesh,
    buckets: Sequence[tuple[int, int]],
    compiled: bool,
    names: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> bool:
    """Lints all programs of a config and prints a table.

    Args:
      config: resolved; its model.directory may be the name of a release without files.
      mesh: of virtual devices.
      buckets: (prompt tokens, patches).
      compiled: also compile for the mesh, and look at collectives and sizes.
      names: of programs; none: all.
      say: takes lines.
    Returns:
      Whether nothing was found that the allow-list does not hold.
    Raises:
      ValueError: if there is no program of a name.
    """
    shape = config_of(config.model.directory)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    errors, warnings, excused, seen = [], [], {}, set()
    for tokens, patches in buckets:
        say(f"{config.model.directory}, {tokens} prompt tokens, {patches} patches, mesh {axes}")
        say(f"  {'program':16} {'operations':>10} {'kinds':>6} {'errors':>7} {'allowed':>8}")
        for call in _named(programs.calls(config, shape, mesh, tokens, patches), names):
            module = lint.lower(call.function, *call.args)
            report = lint.lint(module, call.name, Limits(devices=mesh.size))
            allowed = [f for f in report.findings if f.allowed]
            say(
                f"  {report.program:16} {sum(report.operations.values()):10,} "
                f"{len(report.operations):6} {len(report.errors):7} {len(allowed):8}"
            )
            errors += report.errors
            warnings += [f for f in report.findings if f.warns]
            for finding in allowed:
                excused.setdefault(finding.allowed, []).append(finding)
            if compiled:
                text = call.function.trace(*call.args).lower().compile().as_text()
                shapes = Module(module).shapes()
                found = partitioned.lint(text, call.name, mesh.size, shapes=shapes)
                kinds = ", ".join(f"{n} {k}" for k, n in sorted(found.collectives.items()))
                say(
                    f"  {'':16} divided: {kinds or 'no collectives'}; {len(found.groups)} replica "
                    f"groups; largest array {found.largest[0] / 1e9:.3f} GB {found.largest[1]}"
                )
                errors += found.errors
                warnings += [f for f in found.findings if f.warns]
    for title, findings in (("errors", errors), ("warnings", warnings)):
        if findings:
            say(f"\n{title}")
        for finding in findings:
            if str(finding) in seen:
                continue
            seen.add(str(finding))
            say(f"  {finding}")
            for word, text in (("why", finding.why), ("instead", finding.instead)):
                say(
                    textwrap.fill(
                        f"{word}: {text}", 100, initial_indent="    ", subsequent_indent="      "
                    )
                )
            say(f"    known from: {finding.source}")
    say("\nallowed (g2rpo_jax/neuron/allowed.py)")
    for entry in ALLOWED:
        where = sorted({finding.program for finding in excused.get(entry, ())})
        say(f"  {entry.rule} at {entry.site}: in {', '.join(where) or 'none of these programs'}")
        say(textwrap.fill(entry.reason, 100, initial_indent="    ", subsequent_indent="    "))
    count = len({str(finding) for finding in errors})
    say(f"\n{count} errors" if count else "\nnothing that Neuron is known to refuse")
    return not errors


def _named(calls: list[Call], names: Sequence[str]) -> list[Call]:
    known = [call.name for call in calls]
    for name in names:
        if name not in known:
            raise ValueError(f"--programs={name}: the run has {', '.join(known)}")
    return [call for call in calls if not names or call.name in names]
