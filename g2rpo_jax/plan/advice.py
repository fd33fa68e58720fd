"""What to change where a run does not fit, or could go faster: every suggestion is compiled.

A lever changes one field of the config. It is pulled for the program that takes most memory, that
program is compiled again, and so on until all fit or no lever is left.
"""

import dataclasses
import math
from collections.abc import Callable

from g2rpo_jax.config import RunConfig
from g2rpo_jax.plan.cost import GENERATION, Bucket, Plan


@dataclasses.dataclass(frozen=True)
class Change:
    """A lever that was pulled.

    Attributes:
      fields: the config's, with their new values.
      phase: the program that it was pulled for.
      before, after: bytes on a device while that program runs.
      price: what it costs, in words.
    """

    fields: dict[str, object]
    phase: str
    before: int
    after: int
    price: str


@dataclasses.dataclass(frozen=True)
class Advice:
    """Changes in their order, and the plan with all of them."""

    changes: tuple[Change, ...]
    plan: Plan


Lever = Callable[[Plan, float], tuple[dict[str, object], str] | None]


def advise(
    plan: Plan, again: Callable[[RunConfig, Bucket, tuple[str, ...]], Plan], limit: int = 8
) -> Advice:
    """Pulls levers until the run fits.

    Args:
      plan: what does not fit.
      again: (config, bucket, programs to compile again) -> its plan; others may be kept.
      limit: levers at most.
    """
    changes: list[Change] = []
    useless: set[str] = set()
    while not plan.fits and len(changes) < limit:
        worst = max(plan.phases, key=lambda phase: phase.total)
        pulled = _next(plan, worst.name, useless)
        if pulled is None:
            break
        fields, price = pulled
        same = GENERATION if worst.name in GENERATION else ("score", "update")
        if any(name.startswith("mesh.") for name in fields):
            same = (*GENERATION, "score", "update")
        new = again(with_fields(plan.config, fields), plan.bucket, same)
        after = new.phase(worst.name).total
        if after > 0.98 * worst.total:  # it does nothing here
            useless |= set(fields)
            continue
        changes.append(Change(fields, worst.name, worst.total, after, price))
        plan = new
    return Advice(tuple(changes), plan)


def smaller_buckets(plan: Plan) -> list[Bucket]:
    """The config's buckets below the plan's, the largest first."""
    data = plan.config.data
    sizes = zip(reversed(data.prompt_tokens), reversed(data.patches), strict=False)
    found = [Bucket(s, n) for s, n in sizes]
    return [b for b in found if b.tokens < plan.bucket.tokens and b.patches <= plan.bucket.patches]


def with_fields(config: RunConfig, fields: dict[str, object]) -> RunConfig:
    """A config with other values: {"batch.microbatches": 32}; checks run again."""
    for path, value in fields.items():
        config = _replaced(config, path.split("."), value)
    return config


def _replaced(section, path: list[str], value):
    name, *rest = path
    if rest:
        value = _replaced(getattr(section, name), rest, value)
    return dataclasses.replace(section, **{name: value})


def _next(plan: Plan, phase: str, useless: set[str]) -> tuple[dict[str, object], str] | None:
    """The first lever that can be pulled for a phase."""
    over = plan.phase(phase).total - plan.device.usable_bytes
    for lever in LEVERS["generation" if phase in GENERATION else "update"]:
        pulled = lever(plan, over)
        if pulled and not set(pulled[0]) & useless:
            return pulled
    return None


def _ways(plan: Plan) -> int:
    return plan.mesh["data"] * plan.mesh["fsdp"]


def _parts(rows: int, parts: int, temporaries: float, over: float, ways: int) -> int | None:
    """More parts of equal size, rows staying whole: as few as should do, if temporaries shrink in
    step; None if a part has one row a device already."""
    most = rows // ways
    if parts >= most:
        return None
    wanted = parts * 2
    if over < temporaries:
        wanted = max(wanted, math.ceil(parts / (1 - over / temporaries)))
    else:
        wanted = most
    options = [n for n in range(1, most + 1) if rows % n == 0 and (rows // n) % ways == 0]
    return next((n for n in options if n >= wanted), most)


def _remat(plan: Plan, over: float):
    if plan.config.model.remat == "full":
        return None
    return {"model.remat": "full"}, "every layer is computed once more in the backward pass"


def _microbatches(plan: Plan, over: float):
    batch = plan.config.batch
    rows, held = batch.prompts // batch.minibatches, plan.phase("update").bytes
    n = _parts(rows, batch.microbatches, held["temporaries"], over, _ways(plan))
    if n is None:
        return None
    return {"batch.microbatches": n}, "weights are gathered more often; smaller products"


def _logprob_chunk(plan: Plan, over: float):
    chunk = plan.config.model.logprob_chunk
    if chunk <= 64:
        return None
    return {"model.logprob_chunk": chunk // 2}, "smaller products with the vocabulary"


def _tensor(plan: Plan, over: float):
    mesh, heads = plan.mesh, plan.shape.text.num_key_value_heads
    tensor = mesh["tensor"] * 2
    if mesh["fsdp"] % 2 or heads % tensor or tensor > plan.device.node:
        return None
    fields = {"mesh.fsdp": mesh["fsdp"] // 2, "mesh.tensor": tensor}
    return fields, "more traffic between neighbours in every layer"


def _generate_prompts(plan: Plan, over: float):
    batch = plan.config.batch
    size = batch.generate_prompts or batch.rollout_prompts
    held = plan.phase("decode").bytes
    grows = held["temporaries"] + held.get("cache", 0) + held["results"]
    parts = _parts(batch.rollout_prompts, batch.rollout_prompts // size, grows, over, _ways(plan))
    if parts is None:
        return None
    fields = {"batch.generate_prompts": batch.rollout_prompts // parts}
    return fields, "weights are read for fewer responses at a time"


LEVERS: dict[str, tuple[Lever, ...]] = {
    "update": (_remat, _microbatches, _logprob_chunk, _tensor),
    "generation": (_generate_prompts, _tensor),
}
