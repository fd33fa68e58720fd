"""From compiled programs to a step of a run: memory while each runs, seconds, days.

Seconds are a roofline: the slowest of products at peak, memory traffic at peak, links at peak,
divided by the share of it that such machines reach. Nothing of the host is in it (rewards, data).
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
from jax.sharding import Mesh

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig
from g2rpo_jax.parallel import rules
from g2rpo_jax.plan.collectives import Collective
from g2rpo_jax.plan.hardware import Device
from g2rpo_jax.plan.program import Program, compile_call, device_bytes
from g2rpo_jax.platform import BACKENDS, Backend
from g2rpo_jax.train import programs
from g2rpo_jax.train.state import compute_dtype

GENERATION = ("prefill", "decode")


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

    @property
    def roofline_s(self) -> float:
        """Seconds of all its calls in a step, if the slowest resource were used to the full."""
        return self.calls * max(self.compute_s, self.memory_s, self.link_s)

    @property
    def bound(self) -> str:
        """The slowest resource."""
        spent = {"products": self.compute_s, "memory": self.memory_s, "links": self.link_s}
        return max(spent, key=spent.get)


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

    @property
    def roofline_s(self) -> float:
        """Seconds of a step at the roofline."""
        return sum(phase.roofline_s for phase in self.phases)

    def phase(self, name: str) -> Phase:
        """By name."""
        return next(phase for phase in self.phases if phase.name == name)

    def seconds(self, share: float) -> float:
        """Seconds of a step at a share of the roofline."""
        return self.roofline_s / share

    def tokens_s(self, share: float) -> float:
        """Response tokens generated in a second of generation."""
        batch = self.config.batch
        spent = sum(p.roofline_s for p in self.phases if p.name in GENERATION) / share
        return batch.rollout_prompts * self.config.responses * self.response_tokens / spent

    def days(self, rows: int, share: float) -> float:
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
    known: Mapping[str, Program] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Compiles the programs of a step (seconds to minutes) and puts the plan together.

    Args:
      config: resolved. shape: of the model.
      mesh: of as many virtual CPU devices as the run will have.
      bucket: one of the config's, or any other.
      response_tokens: how far decoding runs; None: to `max_tokens`.
      known: programs, by name, that need not be compiled again.
      say: takes a line about every program.
    Raises:
      ValueError: rows do not divide over the mesh.
    """
    backend = stand_in(config, device)
    if backend.compute_dtype != "float32":
        # 16 bits under another name; see `stand_in`.
        config_here = _with_dtype(config, "auto")
    else:
        config_here = config
    made = programs.abstract(config_here, shape, mesh, backend)
    calls = {call.name: call for call in made.calls(bucket.tokens, bucket.patches)}
    length = config.max_tokens if response_tokens is None else response_tokens
    counts = calls_of_step(config, length)
    found = []
    state, frozen = calls["update"].args[:2]
    resident = {
        "parameters": device_bytes(state.params) + device_bytes(frozen),
        "optimiser": device_bytes(state.opt_state),
    }
    if config.objective.kl_coefficient:
        resident["reference"] = device_bytes(state.params)
    for name, times in counts.items():
        program = (known or {}).get(name)
        if program is None:
            say(f"  compiling {name} ...")
            program = compile_call(calls[name], mesh)
            say(f"  {name}: {program.seconds:.0f} s")
        found.append(_phase(program, times, resident, calls[name], made, device, mesh))
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


def calls_of_step(config: RunConfig, response_tokens: int) -> dict[str, float]:
    """How often a step calls each program, with one round of generation."""
    batch = config.batch
    rounds = batch.rollout_prompts / (batch.generate_prompts or batch.rollout_prompts)
    scored = batch.minibatches * (batch.minibatches > 1)
    scored += batch.minibatches * bool(config.objective.kl_coefficient)
    counts = {
        "prefill": rounds,
        "decode": rounds * -(-response_tokens // config.decode_chunk),
        "score": float(scored),
        "update": float(batch.minibatches),
    }
    return {name: count for name, count in counts.items() if count}


def _phase(program, times, resident, call, made, device: Device, mesh: Mesh) -> Phase:
    held = dict(resident)
    arguments = dict(program.arguments)
    given = arguments.pop("parameters", 0)
    arguments.pop("optimiser", 0)
    if program.name in GENERATION and _is_copy(call.args[0], made, mesh):
        held["rollout copy"] = given
    held |= {k: v for k, v in arguments.items() if v >= 2**20}
    held["results"], held["temporaries"] = program.results, program.temporaries
    moved = program.work.bytes
    if program.name == "update":
        moved += _state_traffic(resident, made.config.batch.microbatches)
    return Phase(
        program=program,
        calls=times,
        bytes=held,
        compute_s=_compute_s(program, device),
        memory_s=moved / device.memory_bytes_s,
        link_s=sum(
            c.wire_bytes / link_speed(c, device, dict(mesh.shape)) for c in program.collectives
        ),
    )


def _compute_s(program: Program, device: Device) -> float:
    total = program.flops.total()
    if not total:
        return 0.0
    slowness = sum(n / total / device.flops[kind] for kind, n in program.flops.items())
    return program.work.flops * slowness


def _state_traffic(resident: dict[str, int], microbatches: int) -> int:
    """Bytes that gradients and optimiser move: each part's gradient is read, and added to a sum
    that is read and written; then parameters and moments are read and written."""
    parameters = resident["parameters"]
    return 3 * parameters * microbatches + parameters + 2 * (parameters + resident["optimiser"])


def link_speed(collective: Collective, device: Device, mesh: dict[str, int]) -> float:
    """Bytes a second within a node, or across nodes for a group that does not lie in one."""
    stride, last = 1, 0
    for axis, size in reversed(list(mesh.items())):
        if axis in collective.axes or "other" in collective.axes:
            last += (size - 1) * stride
        stride *= size
    return device.link_bytes_s if last < device.node else device.network_bytes_s


def _is_copy(weights, made, mesh: Mesh) -> bool:
    """Whether generation has weights of its own beside those that are trained."""
    whole = made.whole(made.params, made.frozen)
    stored = programs.placed(whole, rules.shardings(whole, mesh))
    pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(stored), strict=True)
    return any((a.dtype, a.sharding) != (b.dtype, b.sharding) for a, b in pairs)


def _with_dtype(config: RunConfig, dtype: str) -> RunConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))
