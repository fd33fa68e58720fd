"""The task ledger: how much of a step's gradient is each task's, and which way each task pulls.

The loss of a minibatch is a sum over rows of (weight known beforehand) x (token loss), entropy term
included, so its gradient is a sum over tasks:

    g = sum_k g_k       g_k: of the rows of task k, with the weights of the whole minibatch
    norm_k   = |g_k|
    share_k  = |g_k| / sum_j |g_j|
    cosine_k = <g_k, g - g_k> / (|g_k| |g - g_k|)

A cosine above 0: what the other tasks' rows do to the parameters also lowers the loss of task k's;
below 0: they work against it. All of it is before the optimiser, which scales every parameter by
its own moments, so these are shares of the gradient and not of the step.

Cost: one gradient pass (forward and backward) for each task that is present, and one for all; and
memory for two gradients at a time, float32, divided as parameters are stored.
Source: "Gradient Surgery for Multi-Task Learning" (2020) measures conflict of tasks by the cosine
of their gradients, pair by pair; here each task is held against the sum of all others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from g2rpo_jax.parallel import constrain, rules
from g2rpo_jax.parallel.mesh import put_whole, replicated, row_sharding
from g2rpo_jax.train.policy_step import StepBatch, StepConfig, gradient

ALL = -1


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The programs of the ledger, compiled for a run.

    Attributes:
      part: (params, frozen, StepBatch, task) -> g_k as a tree like params; task is an int32 scalar,
        ALL: the whole gradient g. One program for every task.
      products: (g_k, g) -> see `products`.
    """

    mesh: Mesh
    part: Callable[..., Any]
    products: Callable[..., Any]

    def measure(
        self, params, frozen, batch: StepBatch, tasks: Collection[int]
    ) -> dict[int, np.ndarray]:
        """`products` of each of these tasks, on the host.

        Args:
          batch: on the devices; every process of a run calls this with the same tasks.
          tasks: ids of the tasks that have rows in the batch (others would get zeros).
        """
        given = params, frozen, batch
        whole = self.part(*given, put_whole(self.mesh, np.int32(ALL)))
        found = {}
        for task in sorted(tasks):
            part = self.part(*given, put_whole(self.mesh, np.int32(task)))
            found[task] = jax.device_get(self.products(part, whole))
            del part  # before the next one is made
        return found


def compile_ledger(graphdef, config: StepConfig, mesh: Mesh, params, frozen) -> Ledger:
    """The ledger's programs, jitted with explicit shardings; nothing is compiled before use.

    Args:
      params, frozen: arrays or ShapeDtypeStructs.
    """

    def part(params, frozen, batch, task):
        batch = dataclasses.replace(batch, kept_P=(batch.task_P == task) | (task == ALL))
        return gradient(graphdef, config, params, frozen, batch)[0]

    placed, whole = rules.shardings(params, mesh), replicated(mesh)
    return Ledger(
        mesh,
        jax.jit(
            constrain.over(mesh, part),
            in_shardings=(placed, rules.shardings(frozen, mesh), row_sharding(mesh), whole),
            out_shardings=placed,
        ),
        jax.jit(products, in_shardings=(placed, placed), out_shardings=whole),
    )


def products(part, whole) -> jax.Array:
    """Inner products of a task's gradient and the rest of the whole one.

        [<g_k, g_k>, <g_k, r>, <r, r>],  r = g - g_k

    The rest is formed element by element, so that it is exactly 0 where the task is all there is,
    and no small difference of large sums is taken.
    Args:
      part, whole: trees of float32 arrays of equal shapes.
    Returns:
      float32 [3].
    """
    rest = jax.tree.map(jnp.subtract, whole, part)

    def dot(a, b):
        return functools.reduce(
            jnp.add, jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))
        )

    return jnp.stack([dot(part, part), dot(part, rest), dot(rest, rest)])


def numbers(measured: dict[int, np.ndarray], names: tuple[str, ...]) -> dict[str, float]:
    """Logged numbers from what `Ledger.measure` found; names: of all tasks.

    A task whose gradient is 0 has a share but no cosine; nor has one beside which nothing pulls.
    """
    norm = {task: math.sqrt(own) for task, (own, _, _) in measured.items()}
    total = sum(norm.values())
    found = {f"ledger/norm/{names[task]}": size for task, size in norm.items()}
    if total:
        found |= {f"ledger/share/{names[task]}": size / total for task, size in norm.items()}
    for task, (own, mixed, rest) in measured.items():
        if own > 0 and rest > 0:
            found[f"ledger/cosine/{names[task]}"] = float(mixed) / math.sqrt(own) / math.sqrt(rest)
    return found
