"""What an advantage estimator is told of a step's rows; its state as JSON."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from g2rpo_jax.advantages import Group, State
from g2rpo_jax.train.rows import COMPONENTS, Row, stack, stack_part


def group_of(
    rows: list[Row],
    prompts: int,
    groups: Sequence[str],
    by_type: bool,
    row_at: Callable[[int], int],
    num_rows: int,
) -> Group:
    """The rows for an estimator, on the host, filled up to so many prompts.

    Args:
      rows: at least one.
      groups: names of what `task_P` counts.
      by_type: they are problem types, not tasks.
      row_at: prompt_id -> its training row.
      num_rows: how many training rows there are.
    """
    reward_PG = np.zeros((prompts, len(rows[0].scores)), np.float32)
    task_P, row_P = np.full(prompts, -1, np.int32), np.full(prompts, -1, np.int32)
    for i, row in enumerate(rows):
        reward_PG[i] = row.reward_G
        task_P[i] = groups.index(row.example.type_task if by_type else row.example.task)
        row_P[i] = row_at(row.drawn.prompt_id)
    return Group(
        reward_PG=reward_PG,
        valid_PG=np.repeat(task_P[:, None] >= 0, reward_PG.shape[1], axis=1),
        task_P=task_P,
        components={name: stack_part(rows, name, prompts) for name in COMPONENTS},
        length_PG=stack(rows, "length_G", prompts).astype(np.float32),
        surprise_PG=stack(rows, "surprise_G", prompts),
        logp_PG=stack(rows, "logp_G", prompts),
        row_P=row_P,
        num_tasks=len(groups),
        num_rows=num_rows,
    )


def to_json(state: State, fresh: State) -> list[dict]:
    """Exact numbers, short where an estimator that keeps arrays over all rows has seen few.

    Args:
      state: of any estimator.
      fresh: what that estimator starts from.
    """
    leaves, starts = jax.tree.leaves(state), jax.tree.leaves(fresh)
    return [
        _changes(np.asarray(leaf), np.asarray(start))
        for leaf, start in zip(leaves, starts, strict=True)
    ]


def from_json(saved: list, fresh: State) -> State:
    """The state that `to_json` wrote, also as older checkpoints have it: whole lists.

    Raises:
      ValueError: it belongs to another estimator.
    """
    starts, form = jax.tree.flatten(fresh)
    shapes = [each["shape"] if isinstance(each, dict) else np.shape(each) for each in saved]
    if [tuple(shape) for shape in shapes] != [start.shape for start in starts]:
        raise ValueError("the checkpoint holds the state of another advantage.name")
    return form.unflatten(
        [_changed(start, each) for start, each in zip(starts, saved, strict=True)]
    )


def _changes(leaf: np.ndarray, start: np.ndarray) -> dict:
    at = np.flatnonzero(leaf != start)
    return {"shape": list(leaf.shape), "at": at.tolist(), "value": leaf.flat[at].tolist()}


def _changed(start: jax.Array, saved: dict | list) -> jax.Array:
    if isinstance(saved, list):
        return jnp.asarray(saved, start.dtype)
    leaf = np.array(start)
    leaf.flat[np.array(saved["at"], np.int64)] = saved["value"]
    return jnp.asarray(leaf)
