"""One program of a run, compiled for a mesh of virtual devices, and what accounting finds in it."""

import dataclasses
import math
import time
from collections import Counter

import jax
from flax import nnx
from jax.sharding import Mesh

from g2rpo_jax.models.qwen3_vl.layout import RowInputs
from g2rpo_jax.plan import hlo, memory, work
from g2rpo_jax.plan.collectives import Collective, collectives
from g2rpo_jax.plan.flops import product_flops
from g2rpo_jax.rollout.decode import DecodeState
from g2rpo_jax.train.policy_step import StepBatch
from g2rpo_jax.train.programs import Call
from g2rpo_jax.train.state import TrainState

# Memory analysis and partitioning are the same; only the machine code, never run, is worse.
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Program:
    """Of one device, in one call, unless it says otherwise.

    Attributes:
      name: as in `Programs.calls`.
      seconds: that tracing and compiling took here.
      arguments: bytes by kind: "parameters", "optimiser", "rows", "cache", "other".
      results: bytes of results that do not take an argument's place.
      temporaries: the largest sum of values alive at one instant (`plan.memory`).
      peak: the values alive then.
      xla_temporaries: what XLA's compiler for CPUs set aside; it holds widened copies of 16-bit
        operands, which other machines do not make.
      flops: of all devices together, exact, by operand type.
      work: products that the device does.
      collectives: what it sends.
    """

    name: str
    seconds: float
    arguments: dict[str, int]
    results: int
    temporaries: int
    peak: tuple[memory.Value, ...]
    xla_temporaries: int
    flops: Counter[str]
    work: work.Work
    collectives: tuple[Collective, ...]

    @property
    def bytes(self) -> int:
        """All that lives while it runs."""
        return sum(self.arguments.values()) + self.results + self.temporaries


def compile_call(call: Call, mesh: Mesh) -> Program:
    """Traces and compiles a call (seconds to minutes) and counts."""
    start = time.perf_counter()
    traced = call.trace()
    compiled = traced.lower().compile(CHEAP)
    return account(call, traced, compiled, mesh, time.perf_counter() - start)


def account(call: Call, traced, compiled, mesh: Mesh, seconds: float) -> Program:
    """Counts in a call that is compiled already."""
    module = hlo.parse(compiled.as_text())
    peak = memory.peak(module)
    xla = compiled.memory_analysis()
    return Program(
        name=call.name,
        seconds=seconds,
        arguments=argument_bytes(call.args),
        results=xla.output_size_in_bytes - xla.alias_size_in_bytes,
        temporaries=peak.bytes,
        peak=peak.values,
        xla_temporaries=xla.temp_size_in_bytes,
        flops=product_flops(traced.jaxpr),
        work=work.work(module),
        collectives=collectives(module, mesh.shape),
    )


def argument_bytes(args: tuple) -> dict[str, int]:
    """Bytes of a call's arguments on one device, by kind, from their shardings."""
    found: Counter[str] = Counter()
    for arg in args:
        if isinstance(arg, TrainState):
            found["parameters"] += device_bytes(arg.params)
            found["optimiser"] += device_bytes(arg.opt_state)
        elif isinstance(arg, nnx.State):
            found["parameters"] += device_bytes(arg)
        elif isinstance(arg, DecodeState):
            found["cache"] += device_bytes(arg)
        elif isinstance(arg, RowInputs | StepBatch):
            found["rows"] += device_bytes(arg)
        else:
            found["other"] += device_bytes(arg)
    return dict(found)


def device_bytes(tree) -> int:
    """Bytes of a tree of placed shapes on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        if x.sharding is not None
        else math.prod(x.shape) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
