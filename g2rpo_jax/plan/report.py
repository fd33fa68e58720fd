"""A plan as Markdown, to be read and committed, and as plain values."""

import dataclasses
from collections.abc import Sequence

from g2rpo_jax.plan.advice import Advice
from g2rpo_jax.plan.cost import Phase, Plan
from g2rpo_jax.plan.padding import Padding

GIB = 2**30
KINDS = ("parameters", "reference", "optimiser", "rollout copy", "cache", "rows", "other")
KINDS += ("results", "temporaries")


def markdown(
    plan: Plan,
    *,
    command: str,
    name: str,
    advice: Advice | None = None,
    faster: Sequence[tuple[str, str]] = (),
    smaller: Plan | None = None,
    padding: Padding | str = "",
    rows: int | None = None,
) -> str:
    """The whole report.

    Args:
      command: that made it. name: of the config.
      advice: what was changed until it fitted, if it did not.
      faster: (change, what it gives), already worked out.
      smaller: the plan of the largest bucket that fits by harmless changes.
      padding: of a data set, or why it is not known.
      rows: of the data set, for days.
    """
    device, mesh = plan.device, _mesh(plan)
    parts = [
        f"# {plan.config.model.directory.rpartition('/')[2]}, {name}, on {device.label}",
        f"    {command}",
        "Estimates, made by compiling the run's own programs for as many virtual devices; nothing "
        "of this was measured on the machine. `docs/plan.md` says how to read them and where they "
        "end.",
        _facts(plan, mesh),
        "## Memory of a device, GiB",
        _memory(plan),
        _verdict(plan),
        "## Largest values alive at the peak",
        _peaks(plan),
        "## Work of a step",
        _work(plan),
        "## Collectives of one call",
        _collectives(plan),
        "## Time of a step",
        _time(plan),
        _speed(plan, rows),
        "## Padding",
        _padding(plan, padding),
        "## What to change",
        _changes(plan, advice, smaller),
    ]
    if faster:
        parts += ["To go faster:", _table(("change", "effect"), faster)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(plan: Plan, advice: Advice | None = None) -> dict:
    """The numbers of a plan, for JSON: bytes, seconds of one call at the peaks, counts."""
    out = {
        "device": dataclasses.asdict(plan.device),
        "mesh": plan.mesh,
        "bucket": dataclasses.asdict(plan.bucket),
        "response_tokens": plan.response_tokens,
        "parameters": plan.parameters,
        "fits": plan.fits,
        "usable_bytes": plan.device.usable_bytes,
        "seconds_per_step": {"likely": plan.seconds(plan.device.shares[0])},
        "phases": {p.name: _plain_phase(p) for p in plan.phases},
    }
    out["seconds_per_step"]["hopeful"] = plan.seconds(plan.device.shares[1])
    if advice:
        out["changes"] = [dataclasses.asdict(change) for change in advice.changes]
        out["changed"] = plain(advice.plan)
    return out


def _plain_phase(phase: Phase) -> dict:
    program = phase.program
    return {
        "calls": phase.calls,
        "bytes": phase.bytes,
        "total_bytes": phase.total,
        "xla_temporaries": program.xla_temporaries,
        "flops_all_devices": dict(program.flops),
        "flops_device": program.work.flops,
        "product_bytes": program.work.bytes,
        "collectives": [dataclasses.asdict(c) for c in program.collectives],
        "compute_s": phase.compute_s,
        "memory_s": phase.memory_s,
        "link_s": phase.link_s,
        "compile_s": program.seconds,
    }


def _table(head: Sequence[str], rows) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _mesh(plan: Plan) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one"


def _devices(plan: Plan) -> int:
    out = 1
    for size in plan.mesh.values():
        out *= size
    return out


def _facts(plan: Plan, mesh: str) -> str:
    config, batch = plan.config, plan.config.batch
    nodes = -(-_devices(plan) // plan.device.node)
    generate = batch.generate_prompts or batch.rollout_prompts
    machines = f" in {nodes} machines" if nodes > 1 else ""
    return "\n".join(
        [
            f"- model: {plan.parameters / 1e9:.3f} billion parameters, kept in "
            f"{config.model.param_dtype}, computed in {plan.compute_dtype}",
            f"- mesh: {mesh}: {_devices(plan)} devices{machines}",
            f"- step: {batch.rollout_prompts} prompts x {config.responses} responses, generated "
            f"{generate} prompts at a time; trained on {batch.prompts} rows in "
            f"{batch.minibatches} x {batch.microbatches} parts",
            f"- rows: {plan.bucket.tokens} prompt tokens and {plan.bucket.patches} patches (a full "
            f"bucket), {config.max_tokens} response tokens; decoding is taken to run "
            f"{plan.response_tokens} tokens",
        ]
    )


def _memory(plan: Plan) -> str:
    kinds = [k for k in KINDS if any(p.bytes.get(k, 0) >= 2**20 for p in plan.phases)]
    head = ("program", *kinds, "**all**", "CPU compiler's temporaries")
    rows = [
        (
            p.name,
            *(_gib(p.bytes[k]) if k in p.bytes else "-" for k in kinds),
            f"**{_gib(p.total)}**",
            _gib(p.program.xla_temporaries),
        )
        for p in plan.phases
    ]
    return _table(head, rows)


def _verdict(plan: Plan) -> str:
    device = plan.device
    worst = max(plan.phases, key=lambda p: p.total)
    room = f"{device.usable_bytes / GIB:.1f} of {device.memory_gib:g} GiB"
    held = f"{_gib(worst.total)} GiB in `{worst.name}`"
    free = f"{device.reserve:.0%} are left free"
    if plan.fits:
        return f"**It fits**: {held} at most; {room} may be used ({free})."
    return f"**It does not fit**: {held}; {room} may be used ({free})."


def _peaks(plan: Plan, most: int = 4) -> str:
    rows = []
    for phase in plan.phases:
        for value in phase.program.peak[:most]:
            if value.bytes >= 2**20:
                source = value.source.replace("closed_call/", "").replace("rematted_", "")
                shown = f"`{source[-80:]}`" if source else f"({value.where})"
                rows.append((phase.name, _gib(value.bytes), value.shape, shown))
    return _table(("program", "GiB", "as compiled", "made by"), rows)


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _gib(count: float) -> str:
    """Three figures at least: small plans are read as well."""
    return f"{count / GIB:.2f}" if count >= 0.1 * GIB else f"{count / GIB:.4f}"


def _work(plan: Plan) -> str:
    head = ("program", "calls", "PFLOP, all devices", "of it float32", "done / needed")
    rows = []
    for p in plan.phases:
        total = p.program.flops.total()
        wide = p.program.flops.get("float32", 0) / total if total else 0
        done = p.program.work.flops * _devices(plan) / total if total else 0
        peta = p.calls * total / 1e15
        rows.append(
            (
                p.name,
                f"{p.calls:g}",
                f"{peta:,.1f}" if peta >= 1 else f"{peta:.2g}",
                f"{wide:.0%}",
                f"{done:.2f}",
                f"{p.calls * p.program.work.bytes / 1e12:,.3g}",
            )
        )
    return _table((*head, "TB a device moves for products"), rows)


def _collectives(plan: Plan) -> str:
    rows = [
        (p.name, c.kind, " x ".join(c.axes), c.group, f"{c.count:,}", f"{c.bytes / 1e9:,.2f}")
        for p in plan.phases
        for c in p.program.collectives
        if c.bytes >= 2**20
    ]
    return _table(("program", "kind", "along", "devices", "count", "GB a device"), rows)


def _time(plan: Plan) -> str:
    likely, hopeful = plan.device.shares
    head = ("program", "products s", "memory s", "links s", "likely s", "bound by")
    head += ("share of the step", "hopeful s")
    rows = [
        (
            p.name,
            *(f"{p.calls * s:,.1f}" for s in (p.compute_s, p.memory_s, p.link_s)),
            f"{p.seconds(likely):,.0f}",
            p.bound(likely),
            f"{p.seconds(likely) / plan.seconds(likely):.0%}",
            f"{p.seconds(hopeful):,.0f}",
        )
        for p in plan.phases
    ]
    total = ("**step**", "", "", "", f"**{plan.seconds(likely):,.0f}**", "", "")
    said = (
        f"Seconds of all calls at the peaks of products, memory and links; then the slowest of the "
        f"three with products at {likely.products:g} and traffic at {likely.traffic:g} of their "
        f"peaks (likely), or {hopeful.products:g} and {hopeful.traffic:g} (hopeful)."
    )
    table = _table(head, [*rows, (*total, f"**{plan.seconds(hopeful):,.0f}**")])
    return f"{said}\n\n{table}"


def _speed(plan: Plan, rows: int | None) -> str:
    likely, hopeful = plan.device.shares
    lines = [
        f"- generation: {plan.tokens_s(likely):,.0f} to {plan.tokens_s(hopeful):,.0f} response "
        "tokens a second",
        f"- a step: {plan.seconds(likely):,.0f} s likely, {plan.seconds(hopeful):,.0f} s hopeful, "
        "with one round of generation",
    ]
    if rows:
        lines.append(
            f"- {rows:,} rows, {plan.config.epochs} epoch(s): {plan.days(rows, likely):,.1f} days "
            f"likely, {plan.days(rows, hopeful):,.1f} hopeful, if every row filled this bucket and "
            "every response its limit"
        )
    return "\n".join(lines)


def _padding(plan: Plan, padding: Padding | str) -> str:
    if isinstance(padding, str):
        return (
            f"Not known: {padding} The numbers above are the worst case: every prompt fills its "
            "bucket, every response its limit."
        )
    buckets = ", ".join(
        f"{b.tokens} x {b.patches}: {count}"
        for b, count in sorted(padding.buckets.items(), key=str)
    )
    return (
        f"{padding.rows} rows spread over {padding.total:,}: {padding.tokens:,.0f} prompt tokens "
        f"and {padding.patches:,.0f} patches in the mean; in their smallest buckets ({buckets}) "
        f"{padding.token_share:.0%} of the token slots and {padding.patch_share:.0%} of the patch "
        "slots are padding, more where a batch mixes sizes."
    )


def _changes(plan: Plan, advice: Advice | None, smaller: Plan | None) -> str:
    if plan.fits:
        return "Nothing has to."
    if advice is None:
        return "Not asked for (`--advise`)."
    lines = []
    if advice.changes:
        rows = [
            (
                "<br>".join(f"`--config.{k}={_shown(v)}`" for k, v in c.fields.items()),
                c.phase,
                f"{c.before / GIB:.1f}",
                f"{c.after / GIB:.1f}",
                c.price,
            )
            for c in advice.changes
        ]
        head = ("change, one after the other", "for", "GiB before", "foretold after", "price")
        lines += [_table(head, rows)]
    changed = advice.plan
    if changed.fits:
        likely = plan.device.shares[0]
        lines.append(
            f"With all of them, compiled: **it fits**, and a step takes "
            f"{changed.seconds(likely):,.0f} s likely."
        )
        lines.append(_memory(changed))
    else:
        worst = max(changed.phases, key=lambda p: p.total)
        lines.append(
            f"With all of them, compiled, `{worst.name}` still takes "
            f"{worst.total / GIB:.1f} GiB of {plan.device.usable_bytes / GIB:.1f}: more devices, a "
            "smaller bucket or fewer response tokens are needed."
        )
        lines.append(_memory(changed))
    if smaller is not None:
        says = "fits" if smaller.fits else "does not fit either"
        lines.append(
            f"Without touching what is trained and in which precision, by micro-batches and "
            f"prompts generated at a time alone, the bucket of {smaller.bucket.tokens} prompt "
            f"tokens and {smaller.bucket.patches} patches {says}; a step of such rows takes "
            f"{smaller.seconds(plan.device.shares[0]):,.0f} s likely."
        )
        lines.append(_memory(smaller))
    return "\n\n".join(lines)
