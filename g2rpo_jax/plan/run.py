"""The plan of a configuration, as the launcher makes it."""

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_collections

from g2rpo_jax.config import RunConfig, resolve
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.models.qwen3_vl.sizes import config_of
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.plan import advice, cost, faster, hardware, padding, report
from g2rpo_jax.plan.cost import Bucket, Plan
from g2rpo_jax.plan.program import Program
from g2rpo_jax.tables import lookup, nearest

MINUTES = 6  # after which no more suggestions are compiled


def parse_mesh(text: str) -> dict[str, int]:
    """'fsdp:4,tensor:8' -> {"data": 1, "fsdp": 4, "tensor": 8}.

    Raises:
      ValueError: an unknown axis or one named twice, or a size that is no number above 0.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.partition(":")
        axis = axis.strip()
        if axis not in meshes.AXES:
            raise ValueError(
                f"--mesh={text}: unknown axis {axis!r}{nearest(axis, meshes.AXES)} Axes are "
                f"{', '.join(meshes.AXES)}, written axis:size"
            )
        if axis in sizes or not size.strip().isdigit() or int(size) < 1:
            raise ValueError(f"--mesh={text}: write {axis}:SIZE once, with a size above 0")
        sizes[axis] = int(size)
    return {axis: sizes.get(axis, 1) for axis in meshes.AXES}


def size(sizes: dict[str, int]) -> int:
    """Devices of a mesh."""
    return math.prod(sizes.values())


def device_of(name: str, sizes: dict[str, int]) -> hardware.Device:
    """An entry of the table, or this machine, measured.

    Raises:
      ValueError: neither; names the nearest.
    """
    if name == "cpu":
        return hardware.cpu(size(sizes))
    return lookup(hardware.DEVICES | {"cpu": None}, name, kind="--device")


def prepare(config: ml_collections.ConfigDict, sizes: dict[str, int]) -> RunConfig:
    """The resolved config over the given mesh."""
    config.mesh.update(sizes)
    return resolve(config)


def bucket_of(config: RunConfig, tokens: int | None, patches: int | None) -> Bucket:
    """As given, or the config's largest."""
    data = config.data
    return Bucket(
        data.prompt_tokens[-1] if tokens is None else tokens,
        data.patches[-1] if patches is None else patches,
    )


def count_rows(text: str | None, config: RunConfig) -> int | None:
    """A number, or the number of rows of a data source."""
    if text is None:
        return None
    return int(text) if text.isdigit() else len(RowSet(text, config.data, tuple(config.tasks)))


def run(
    config: RunConfig,
    device: hardware.Device,
    *,
    name: str,
    command: str,
    bucket: Bucket,
    response_tokens: int | None,
    rows: int | None,
    advise: bool,
    out: Sequence[str],
    say: Callable[[str], None],
) -> Plan:
    """Makes the plan, says it, writes it.

    Raises:
      ValueError: rows do not divide over the mesh, the model is unknown, a file of another kind.
    """
    for path in out:
        if Path(path).suffix not in (".md", ".json"):
            raise ValueError(f"--out={path}: files end in .md or .json")
    start = time.perf_counter()
    shape = config_of(config.model.directory)

    known: dict[str, Program] = {}

    def build(config: RunConfig, bucket: Bucket) -> Plan:
        return cost.build(
            config,
            shape,
            device,
            meshes.make(config.mesh),
            bucket,
            response_tokens=response_tokens,
            known=known,
            say=say,
        )

    say(f"{config.model.directory} on {device.label}, {bucket.tokens} x {bucket.patches}")
    plan = build(config, bucket)
    made = smaller = None
    if advise and not plan.fits:
        say("it does not fit; trying what would")

        def exact(config: RunConfig, bucket: Bucket) -> advice.Bytes:
            return cost.arguments(config, shape, device, meshes.make(config.mesh), bucket)

        left = functools.partial(_left, start + MINUTES * 60)
        made = advice.advise(plan, exact, build, left)
        smaller = _smaller(plan, made, build, left)
    text = report.markdown(
        plan,
        command=command,
        name=name,
        advice=made,
        faster=faster.options(made.plan if made else plan),
        smaller=smaller,
        padding=_padding(config),
        rows=rows,
    )
    say(f"{time.perf_counter() - start:.0f} s\n\n{text}")
    for path in out:
        whole = json.dumps(report.plain(plan, made), indent=1) if path.endswith("json") else text
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(whole)
    return plan


def _left(until: float) -> float:
    return until - time.perf_counter()


def _smaller(plan: Plan, made: advice.Advice, build, seconds_left) -> Plan | None:
    """The largest smaller bucket that fits with nothing but the harmless changes, or the last one
    that there was time for; None if harmless changes do for the bucket itself."""
    harmless = [c.fields for c in made.changes if c.fields.keys() <= advice.HARMLESS]
    if made.plan.fits and len(harmless) == len(made.changes):
        return None
    config = plan.config
    for fields in harmless:
        config = advice.with_fields(config, fields)
    found = None
    for bucket in advice.smaller_buckets(plan):
        if seconds_left() < 0:
            break
        found = build(config, bucket)
        if found.fits:
            break
    return found


def _padding(config: RunConfig) -> padding.Padding | str:
    try:
        return padding.measure(config)
    except ValueError as error:
        return f"{str(error).partition(':')[0]}."
