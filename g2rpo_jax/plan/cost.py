"""From compiled programs to a step of a run: memory while each runs, seconds, days.

Seconds are a roofline: the slowest of products, memory traffic and links, each at a share of its
peak that such machines reach. Nothing of the host is in it (rewards, data).
"""

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig
from g2rpo_jax.plan.collectives import Collective
from g2rpo_jax.plan.hardware import Device, Share
from g2rpo_jax.plan.program import Program, argument_bytes, compile_call, device_bytes
from g2rpo_jax.platform import BACKENDS, Backend
from g2rpo_jax.rollout.engine import chunk_tokens
from g2rpo_jax.train import programs
from g2rpo_jax.train.state import compute_dtype

GENERATION = ("copy", "prefill", "decode")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A program within a step.

    Attributes:
      program: compiled.
      calls: how often a step runs it.
      bytes: by kind, of all that a device holds while it runs, the rest of the run included.
      compute_s, memory_s, link_s: of one call, at the peaks of the device.
    """

    program: Program
    calls: float
    bytes: dict[str, int]
    compute_s: float
    memory_s: float
    link_s: float

    @property
    def name(self) -> str:
        """As in `Programs.calls`."""
        return self.program.name

    @property
    def total(self) -> int:
        """Bytes on a device while it runs."""
        return sum(self.bytes.values())

    def seconds(self, share: Share) -> float:
        """Of all its calls in a step, the slowest resource in use at its share of the peak."""
        return self.calls * max(self._spent(share).values())

    def bound(self, share: Share) -> str:
        """The slowest resource."""
        spent = self._spent(share)
        return max(spent, key=spent.get)

    def _spent(self, share: Share) -> dict[str, float]:
        return {
            "products": self.compute_s / share.products,
            "memory": self.memory_s / share.traffic,
            "links": self.link_s / share.traffic,
        }


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Prompt tokens and patches of a row."""

    tokens: int
    patches: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run's step on a machine, for rows of one bucket.

    Attributes:
      response_tokens: that a response is taken to run to when decoding is counted.
    """

    config: RunConfig
    shape: Qwen3VLConfig
    device: Device
    mesh: dict[str, int]
    bucket: Bucket
    response_tokens: int
    parameters: int
    phases: tuple[Phase, ...]

    @property
    def compute_dtype(self) -> str:
        """What the device would compute in."""
        return compute_dtype(self.config.model, BACKENDS[self.device.backend])

    @property
    def fits(self) -> bool:
        """Whether every phase leaves the device's reserve free."""
        return all(phase.total <= self.device.usable_bytes for phase in self.phases)

    def phase(self, name: str) -> Phase:
        """By name."""
        return next(phase for phase in self.phases if phase.name == name)

    def seconds(self, share: Share) -> float:
        """Seconds of a step."""
        return sum(phase.seconds(share) for phase in self.phases)

    def tokens_s(self, share: Share) -> float:
        """Response tokens generated in a second of generation."""
        batch = self.config.batch
        spent = sum(p.seconds(share) for p in self.phases if p.name in GENERATION)
        return batch.rollout_prompts * self.config.responses * self.response_tokens / spent

    def days(self, rows: int, share: Share) -> float:
        """Days for the config's epochs over a number of rows."""
        steps = self.config.epochs * rows / self.config.batch.prompts
        return steps * self.seconds(share) / 86400


def build(
    config: RunConfig,
    shape: Qwen3VLConfig,
    device: Device,
    mesh: Mesh,
    bucket: Bucket,
    *,
    response_tokens: int | None = None,
    known: dict[str, Program] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles the programs of a step (seconds to minutes) and puts the plan together.

    Args:
      config: resolved. shape: of the model.
      mesh: of as many virtual CPU devices as the run will have.
      bucket: one of the config's, or any other.
      response_tokens: how far decoding runs; None: to `max_tokens`. Updates that could then be
        packed (batch.packed_shares) are; not packed they are still planned for, called never.
      known: programs that need not be compiled again; new ones are added.
      say: takes a line about every program.
    Raises:
      ValueError: rows do not divide over the mesh.
    """
    made, calls = _made(config, shape, device, mesh, bucket)
    length = config.max_tokens if response_tokens is None else response_tokens
    counts = calls_of_step(config, length, BACKENDS[device.backend].decode_chunk)
    if response_tokens is not None and made.packs(response_tokens):
        for name in {"score", "update"} & counts.keys():
            counts |= {f"{name}_packed": counts[name], name: 0.0}
    found = []
    state, frozen = calls["update"].args[:2]
    for name, times in counts.items():
        program = _compiled(calls[name], mesh, {} if known is None else known, say)
        held = _arguments(calls[name], calls["update"], made)
        found.append(_phase(program, times, held, config, device, dict(mesh.shape)))
    count = sum(x.size for x in jax.tree.leaves((state.params, frozen)))
    return Plan(config, shape, device, dict(mesh.shape), bucket, length, count, tuple(found))


def stand_in(config: RunConfig, device: Device) -> Backend:
    """The device's back end; float16 in place of bfloat16.

    XLA's compiler for CPUs widens every bfloat16 value to 32 bits, and of float16 only what goes
    into products. Both have 16 bits, so memory and traffic are the same.
    """
    backend = BACKENDS[device.backend]
    half = compute_dtype(config.model, backend) == "bfloat16"
    return dataclasses.replace(backend, compute_dtype="float16" if half else "float32")


def calls_of_step(
    config: RunConfig, response_tokens: int, longest_chunk: int = 1
) -> dict[str, float]:
    """How often a step calls each program, with one round of generation.

    Args:
      longest_chunk: of decoding, what the back end likes where the config leaves it open.
    """
    chunk = chunk_tokens(config.decode_chunk, config.max_tokens, longest_chunk)
    batch = config.batch
    rounds = batch.rollout_prompts / (batch.generate_prompts or batch.rollout_prompts)
    scored = batch.minibatches - 1  # the first one's ratio is 1: nothing to compute
    scored += batch.minibatches * config.objective.needs_reference
    counts = {
        "copy": float(config.model.rollout_copy),
        "prefill": rounds,
        "decode": rounds * -(-response_tokens // chunk),
        "score": float(scored),
        "update": float(batch.minibatches),
    }
    return {name: count for name, count in counts.items() if count}


def _compiled(call: programs.Call, mesh: Mesh, known: dict[str, Program], say) -> Program:
    key = f"{call.name}: {call.trace().lower().as_text()}"
    if key not in known:
        say(f"  compiling {call.name} ...")
        known[key] = compile_call(call, mesh)
        say(f"  {call.name}: {known[key].seconds:.0f} s")
    return known[key]


def arguments(
    config: RunConfig, shape: Qwen3VLConfig, device: Device, mesh: Mesh, bucket: Bucket
) -> dict[str, dict[str, int]]:
    """Bytes on a device by program and kind, exactly, of all but results and temporaries.

    Nothing is compiled (a second or two). "gradient": what gradients are added up in.
    """
    made, calls = _made(config, shape, device, mesh, bucket)
    update = calls["update"]
    found = {name: _arguments(calls[name], update, made) for name in calls_of_step(config, 1)}
    found["gradient"] = {"gradient": device_bytes(update.args[0].params)}
    return found


def _made(config: RunConfig, shape, device: Device, mesh: Mesh, bucket: Bucket):
    """The run's programs, and their calls by name."""
    backend = stand_in(config, device)
    if backend.compute_dtype != "float32":  # 16 bits under another name
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="auto"))
    made = programs.abstract(config, shape, mesh, backend)
    return made, {call.name: call for call in made.calls(bucket.tokens, bucket.patches)}


def _arguments(call: programs.Call, update: programs.Call, made) -> dict[str, int]:
    """What a device holds while a program runs, but for results and temporaries."""
    state, frozen = update.args[:2]
    held = {
        "parameters": device_bytes(state.params) + device_bytes(frozen),
        "optimiser": device_bytes(state.opt_state),
    }
    if made.config.objective.needs_reference:
        held["reference"] = device_bytes(state.params)
    given = argument_bytes(call.args)
    if call.name in ("prefill", "decode") and made.copy is not None:
        held["rollout copy"] = given["parameters"]
    state_kinds = ("parameters", "optimiser")
    return held | {k: v for k, v in given.items() if k not in state_kinds and v >= 2**20}


def _phase(program, times, held, config: RunConfig, device: Device, mesh: dict[str, int]) -> Phase:
    moved = program.work.bytes
    if program.name.startswith("update"):
        moved += _state_traffic(held, config.batch.microbatches)
    return Phase(
        program=program,
        calls=times,
        bytes=held | {"results": program.results, "temporaries": program.temporaries},
        compute_s=_compute_s(program, device),
        memory_s=moved / device.memory_bytes_s,
        link_s=sum(c.wire_bytes / link_speed(c, device, mesh) for c in program.collectives),
    )


def _compute_s(program: Program, device: Device) -> float:
    total = program.flops.total()
    if not total:
        return 0.0
    slowness = sum(n / total / device.flops[kind] for kind, n in program.flops.items())
    return program.work.flops * slowness


def _state_traffic(held: dict[str, int], microbatches: int) -> int:
    """Bytes that gradients and optimiser move: each part's gradient is read, and added to a sum
    that is read and written; then parameters and moments are read and written."""
    parameters = held["parameters"]
    return 3 * parameters * microbatches + parameters + 2 * (parameters + held["optimiser"])


def link_speed(collective: Collective, device: Device, mesh: dict[str, int]) -> float:
    """Bytes a second within a node, or across nodes for a group that does not lie in one."""
    stride, last = 1, 0
    for axis, size in reversed(list(mesh.items())):
        if axis in collective.axes or "other" in collective.axes:
            last += (size - 1) * stride
        stride *= size
    return device.link_bytes_s if last < device.node else device.network_bytes_s
