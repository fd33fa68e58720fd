"""What estimators are given, what an entry of their table is, and the parts that they share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from g2rpo_jax import masked
from g2rpo_jax.advantages.settings import AdvantageConfig

Leaf = Any  # an array; something else while JAX maps over the structure
State = Any  # an estimator's pytree; () for those that carry nothing
PG = Float[Array, "P G"]
Valid = Bool[Array, "P G"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Group:
    """Rewards of P prompts with G responses each.

    Attributes:
      reward_PG: float32, unitless, higher is better; finite where valid, anything elsewhere.
      valid_PG: bool; False for padding and dropped responses.
      task_P: int32 task ids; outside 0..num_tasks-1 (-1, say): a padding prompt, none of its
        responses is valid.
      components: float32 [P, G] by name (accuracy, format, structure); gdpo and gaussian_gdpo use
        all that are here, those of success.py the accuracy.
      length_PG: response lengths in tokens; None where the estimator reads none.
      num_tasks: K, static.
      surprise_PG: float32, mean over a response's tokens of -log p when it was sampled, nats:
        unbiased for the mean entropy of the policy at its tokens. None as above.
      logp_PG: float32, sum over a response's tokens of log p when it was sampled, nats. None as
        above.
      row_P: int32, the prompt's training row, -1 unknown, for state kept by prompt. None as above.
      num_rows: number of training rows that `row_P` counts, static.
    """

    reward_PG: Leaf
    valid_PG: Leaf
    task_P: Leaf
    components: dict[str, Leaf] = dataclasses.field(default_factory=dict)
    length_PG: Leaf | None = None
    num_tasks: int = dataclasses.field(default=1, metadata={"static": True})
    surprise_PG: Leaf | None = None
    logp_PG: Leaf | None = None
    row_P: Leaf | None = None
    num_rows: int = dataclasses.field(default=0, metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An entry of ESTIMATORS: the function, and the state it starts from.

    Attributes:
      function: (group, state, options) -> (adv_PG, state).
      init: (num_tasks, num_rows) -> state; () for those that carry nothing.
      by_row: whether the state is kept by training row, and so worth nothing for other rows.
    """

    function: Callable[[Group, State, AdvantageConfig], tuple[Array, State]]
    init: Callable[[int, int], State] = lambda num_tasks, num_rows: ()
    by_row: bool = False

    def __call__(self, group: Group, state: State, options: AdvantageConfig) -> tuple[Array, State]:
        return self.function(group, state, options)


def valid_responses(group: Group) -> Valid:
    """valid_PG without those of padding prompts, whose task id is outside 0..num_tasks-1."""
    known_P = (group.task_P >= 0) & (group.task_P < group.num_tasks)
    return group.valid_PG & known_P[:, None]


def z_score(value_PG: PG, valid_PG: Valid, options: AdvantageConfig) -> PG:
    """(value - mean) / (std + eps) within the prompt; 0 where not valid."""
    std_P1 = masked.std(value_PG, valid_PG, axis=1, keepdims=True, ddof=options.ddof)
    return masked.center(value_PG, valid_PG, axis=1) / (std_P1 + options.eps)


def one_hot(group: Group) -> Float[Array, "P K"]:
    """1.0 where the prompt is of the task; all 0 for a padding prompt."""
    ids_1K = jnp.arange(group.num_tasks, dtype=jnp.int32)[None, :]
    return (group.task_P[:, None] == ids_1K).astype(jnp.float32)


def per_prompt(group: Group, value_K: Float[Array, " K"]) -> Float[Array, "P 1"]:
    """Each prompt's entry of a table of tasks; 0 for a padding prompt."""
    return jnp.sum(one_hot(group) * value_K[None, :], axis=1, keepdims=True)


def lengths(group: Group, name: str, instead: str = "") -> PG:
    """Response lengths in tokens, float32, 0 where not valid.

    Args:
      name: the estimator that reads them, and `instead` what else could be done, for the message.
    Raises:
      ValueError: the group has none.
    """
    if group.length_PG is None:
        raise ValueError(
            f"{name} reads response lengths and got none: pass length_PG, in tokens{instead}"
        )
    return jnp.where(valid_responses(group), group.length_PG, 0).astype(jnp.float32)


def components_of(group: Group, name: str) -> list[PG]:
    """The reward components, in the order of their names; ValueError where there is none."""
    if not group.components:
        raise ValueError(
            f"{name} ranks or scales every reward component apart and got none: pass components,"
            " such as {'accuracy': [P, G], 'format': [P, G], 'structure': [P, G]}"
        )
    return [group.components[key] for key in sorted(group.components)]


def count_any(condition_PG: Bool[Array, "P G"]) -> Float[Array, ""]:
    """How many prompts have at least one True."""
    return jnp.sum(jnp.max(condition_PG.astype(jnp.float32), axis=1))
