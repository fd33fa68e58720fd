"""What to change where a run does not fit: levers are chosen by calculation, then compiled.

A lever sets a field of the config. What arguments take with it is exact (their shapes are known);
temporaries are taken to shrink with the rows that a device works on at a time. Levers are pulled
for the program that takes most until all should fit; then that is compiled, and what was wrongly
foretold is corrected by more levers.
"""

import dataclasses
import math
from collections.abc import Callable

from g2rpo_jax.config import RunConfig
from g2rpo_jax.plan.cost import GENERATION, Bucket, Plan

Bytes = dict[str, dict[str, int]]  # by program, by kind


@dataclasses.dataclass(frozen=True)
class Change:
    """A lever that was pulled.

    Attributes:
      fields: the config's, with their new values.
      phase: the program that it was pulled for.
      before, after: bytes on a device while that program runs; `after` is foretold.
      price: what it costs, in words.
    """

    fields: dict[str, object]
    phase: str
    before: int
    after: int
    price: str


@dataclasses.dataclass(frozen=True)
class Advice:
    """Changes in their order, and the plan with all of them, compiled."""

    changes: tuple[Change, ...]
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Guess:
    """A config that is not compiled yet, and what its programs should take."""

    base: Plan
    config: RunConfig
    bytes: Bytes

    def total(self, phase: str) -> int:
        """Bytes of a program."""
        return sum(self.bytes[phase].values())

    @property
    def worst(self) -> str:
        """The program that takes most."""
        return max(self.bytes, key=self.total)

    @property
    def over(self) -> float:
        """Bytes too many in that program."""
        return self.total(self.worst) - self.base.device.usable_bytes


Lever = Callable[[Guess], tuple[dict[str, object], str] | None]


def advise(
    plan: Plan,
    exact: Callable[[RunConfig, Bucket], Bytes],
    build: Callable[[RunConfig, Bucket], Plan],
    seconds_left: Callable[[], float] = lambda: math.inf,
) -> Advice:
    """Pulls levers until the run fits.

    Args:
      plan: what does not fit.
      exact: (config, bucket) -> `cost.arguments`.
      build: (config, bucket) -> plan, compiled.
      seconds_left: no more is compiled once it is below 0.
    """
    changes: list[Change] = []
    while not plan.fits and seconds_left() > 0:
        before = len(changes)
        guess = _levers(plan, exact, changes)
        if len(changes) == before:
            break
        plan = build(guess.config, plan.bucket)
    return Advice(tuple(changes), plan)


def _levers(plan: Plan, exact, changes: list[Change]) -> Guess:
    """Pulls levers for a compiled plan until all should fit; adds them to `changes`."""
    start = exact(plan.config, plan.bucket)
    guess = Guess(plan, plan.config, {p.name: dict(p.bytes) for p in plan.phases})
    useless: set[str] = set()
    while guess.over > 0:
        worst = guess.worst
        pulled = next(
            (
                found
                for lever in LEVERS["generation" if worst in GENERATION else "update"]
                if (found := lever(guess)) and not set(found[0]) & useless
            ),
            None,
        )
        if pulled is None:
            break
        fields, price = pulled
        config = with_fields(guess.config, fields)
        new = _foretell(plan, start, config, exact(config, plan.bucket))
        if new.bytes.keys() >= {worst} and new.total(worst) > 0.995 * guess.total(worst):
            useless |= set(fields)
            continue
        changes.append(Change(fields, worst, guess.total(worst), new.total(worst), price))
        guess = new
    return guess


def _foretell(plan: Plan, start: Bytes, config: RunConfig, exact: Bytes) -> Guess:
    """What a config's programs should take, from a compiled one's."""
    found: Bytes = {}
    for phase in plan.phases:
        name = phase.name
        if name not in exact:
            continue
        results, temporaries = phase.bytes["results"], phase.bytes["temporaries"]
        if name in GENERATION:
            ratio = _rows_generated(config, plan) / _rows_generated(plan.config, plan)
            results, temporaries = results * ratio, temporaries * ratio
        elif name == "update":
            # What gradients are added up in does not shrink with the rows.
            fixed = start["gradient"]["gradient"]
            rest = max(0, temporaries - fixed)
            ratio = _rows_trained(config, plan) / _rows_trained(plan.config, plan)
            temporaries = rest * ratio + min(temporaries, exact["gradient"]["gradient"])
            state = [e["update"]["parameters"] + e["update"]["optimiser"] for e in (exact, start)]
            results *= state[0] / state[1]
        kinds = {"results": int(results), "temporaries": int(temporaries)}
        found[name] = exact[name] | kinds
    return Guess(plan, config, found)


def _ways(config: RunConfig) -> int:
    return config.mesh.data * config.mesh.fsdp


def _rows_trained(config: RunConfig, plan: Plan) -> float:
    batch = config.batch
    return batch.prompts / batch.minibatches / batch.microbatches / _ways(config)


def _rows_generated(config: RunConfig, plan: Plan) -> float:
    batch = config.batch
    return (batch.generate_prompts or batch.rollout_prompts) / _ways(config)


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


def _parts(guess: Guess, rows: int, parts: int, shrinking: float) -> int | None:
    """More parts of equal size, rows staying whole: as few as should do; None if a part has one
    row a device already."""
    ways = _ways(guess.config)
    most = rows // ways
    if parts >= most:
        return None
    left = 1 - guess.over / shrinking if guess.over < shrinking else 0
    wanted = max(parts + 1, math.ceil(parts / left)) if left else most
    options = [n for n in range(1, most + 1) if rows % n == 0 and (rows // n) % ways == 0]
    return next((n for n in options if n >= wanted), most)


def _microbatches(guess: Guess):
    batch, held = guess.config.batch, guess.bytes["update"]
    rows = batch.prompts // batch.minibatches
    n = _parts(guess, rows, batch.microbatches, held["temporaries"])
    if n is None:
        return None
    return {"batch.microbatches": n}, "weights are gathered more often; smaller products"


def _generate_prompts(guess: Guess):
    batch, held = guess.config.batch, guess.bytes["decode"]
    size = batch.generate_prompts or batch.rollout_prompts
    grows = held["temporaries"] + held.get("cache", 0) + held["results"] + held.get("rows", 0)
    n = _parts(guess, batch.rollout_prompts, batch.rollout_prompts // size, grows)
    if n is None:
        return None
    fields = {"batch.generate_prompts": batch.rollout_prompts // n}
    return fields, "weights are read for fewer responses at a time"


def _set(field: str, value: object, price: str) -> Lever:
    """A lever that sets one field."""

    def lever(guess: Guess):
        section, name = field.split(".")
        if getattr(getattr(guess.config, section), name) == value:
            return None
        return {field: value}, price

    return lever


# Fields that change memory and speed, and nothing of what is learned.
HARMLESS = {"model.remat", "batch.microbatches", "batch.generate_prompts", "model.rollout_copy"}
BF16_STATE = _set("optim.state_dtype", "bfloat16", "moments are rounded, by chance")
BF16_PARAMS = _set("model.param_dtype", "bfloat16", "updates below a weight's rounding are lost")
# In the order in which they are tried: what changes no number first, what is trained last.
LEVERS: dict[str, tuple[Lever, ...]] = {
    "update": (
        _set("model.remat", "full", "layers are computed once more in the backward pass"),
        _microbatches,
        BF16_STATE,
        BF16_PARAMS,
        _set("model.freeze", ("vision",), "the vision tower is not trained"),
        _set("model.lora_rank", 32, "only low-rank adapters are trained"),
    ),
    "generation": (
        _set("model.rollout_copy", False, "weights are gathered over fsdp for every token"),
        _generate_prompts,
        BF16_STATE,
        BF16_PARAMS,
    ),
}
