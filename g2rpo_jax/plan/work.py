"""Products in a compiled program: what one device multiplies, and what it reads and writes for it.

Fused elementwise work moves nothing of its own; products read their operands from memory and
write their result. Weights, cache and attention scores all pass through products, so this is the
traffic that bounds decoding. The optimiser, which has no products, is counted from its state.
"""

import dataclasses
import re

from g2rpo_jax.plan.hlo import Computation, Instruction, Module
from g2rpo_jax.plan.memory import held_bytes, narrow_of


@dataclasses.dataclass(frozen=True)
class Work:
    """Of one device, in one call.

    Attributes:
      flops: two for each multiply-add.
      bytes: read and written by products.
      unknown_loops: loops whose trip count the compiler did not know; they count once.
    """

    flops: float
    bytes: float
    unknown_loops: int


def work(module: Module) -> Work:
    """Products of the program, loops counted as often as they run."""
    narrow = narrow_of(module)
    flops = moved = unknown = 0
    for i, computation, times in module.walk():
        if i.opcode == "while" and i.trips is None:
            unknown += 1
        if i.opcode != "dot":
            continue
        flops += times * dot_flops(i, computation)
        operands = [computation.by_name[name] for name in i.operands]
        held = sum(held_bytes(o, narrow(computation, o)) for o in operands)
        moved += times * (held + held_bytes(i, narrow(computation, i)))
    return Work(float(flops), float(moved), unknown)


def dot_flops(i: Instruction, computation: Computation) -> int:
    """2 x the elements of the result x the length of the contraction."""
    left = computation.by_name[i.operands[0]].arrays[0]
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
    length = 1
    for d in found.group(1).split(",") if found and found.group(1) else ():
        length *= left.dims[int(d)]
    return 2 * i.arrays[0].size * length
