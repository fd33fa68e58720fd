"""Advantages from plain arrays: `compute`, the form for notebooks."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from g2rpo_jax.advantages.group import Group, State
from g2rpo_jax.advantages.settings import AdvantageConfig
from g2rpo_jax.advantages.table import ESTIMATORS, init_state
from g2rpo_jax.tables import lookup


def compute(
    name: str,
    reward_PG,
    valid_PG=None,
    task_P=None,
    components: Mapping[str, Any] | None = None,
    length_PG=None,
    state: State = None,
    num_tasks: int | None = None,
    surprise_PG=None,
    logp_PG=None,
    row_P=None,
    num_rows: int | None = None,
    **options: Any,
) -> tuple[Float[Array, "P G"], State]:
    """Advantages from NumPy or JAX arrays: the notebook form of ESTIMATORS.

    Args:
      name: entry of ESTIMATORS.
      reward_PG: numbers [P, G]; finite where valid.
      valid_PG: bool [P, G]; None: all are.
      task_P: integer task ids [P]; -1 for a padding prompt; None: one task.
      components: rewards [P, G] by component name, for gdpo and gaussian_gdpo.
      length_PG: response lengths in tokens, for estimators that read them.
      state: what the last call returned; None starts afresh.
      num_tasks: how many tasks there are; None: those of `state`, else the largest id + 1.
      surprise_PG: mean over a response's tokens of -log p when it was sampled, nats.
      logp_PG: sum of its tokens' log p when sampled, nats.
      row_P: integer ids [P] of training rows, -1 unknown, for estimators that remember prompts.
      num_rows: how many training rows there are; None: as for num_tasks.
      **options: fields of AdvantageConfig.
    Returns:
      (adv_PG float32, state): the state is () for estimators that carry none.
    Raises:
      ValueError: unknown estimator or option, unlike shapes, a valid reward that is not finite, a
        task id beyond num_tasks (a row id beyond num_rows), a state of another estimator, something
        missing that the estimator reads.
    """
    known = [field.name for field in dataclasses.fields(AdvantageConfig) if field.name != "name"]
    for option in options:
        lookup(dict.fromkeys(known), option, kind="advantage option")
    config = AdvantageConfig(name=name, **options)
    reward_PG = np.asarray(reward_PG, np.float32)
    if reward_PG.ndim != 2:
        raise ValueError(
            f"reward_PG has shape {reward_PG.shape}: one row per prompt, one column per response"
            " is needed; a single group is reward_PG[None]"
        )
    shape = reward_PG.shape
    valid_PG = _shaped("valid_PG", True if valid_PG is None else valid_PG, shape, bool)
    task_P = _shaped("task_P", 0 if task_P is None else task_P, shape[:1], np.int32)
    parts = {
        key: _shaped(f"components[{key!r}]", value, shape, np.float32)
        for key, value in (components or {}).items()
    }
    rows = {
        key: None if value is None else _shaped(key, value, shape, np.float32)
        for key, value in (
            ("length_PG", length_PG),
            ("surprise_PG", surprise_PG),
            ("logp_PG", logp_PG),
        )
    }
    for key, value_PG in {"reward_PG": reward_PG, **parts, **rows}.items():
        if value_PG is not None:
            _require_finite(key, value_PG, valid_PG)
    if row_P is not None:
        row_P = _shaped("row_P", row_P, shape[:1], np.int32)
    probe = init_state(config, num_tasks=2, num_rows=3)
    if state is not None and jax.tree.structure(state) != jax.tree.structure(probe):
        raise ValueError(
            f"state is {type(state).__name__}, but {name} carries {type(probe).__name__}: pass the"
            f" state that a call of {name} returned, or None"
        )
    num_tasks = _number("task", task_P, _size(state, probe, 2), num_tasks, least=1)
    num_rows = _number("row", row_P, _size(state, probe, 3), num_rows, least=0)
    state = init_state(config, num_tasks, num_rows) if state is None else state
    group = Group(
        reward_PG,
        valid_PG,
        task_P,
        parts,
        num_tasks=num_tasks,
        row_P=row_P,
        num_rows=num_rows,
        **rows,
    )
    return _jitted(group, state, config)


@functools.partial(jax.jit, static_argnums=2)
def _jitted(group: Group, state: State, options: AdvantageConfig) -> tuple[Array, State]:
    return ESTIMATORS[options.name](group, state, options)


def _shaped(name: str, value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but reward_PG makes it {shape}")
    return np.broadcast_to(array, shape).astype(dtype)


def _require_finite(name: str, value_PG: np.ndarray, valid_PG: np.ndarray) -> None:
    bad = np.argwhere(valid_PG & ~np.isfinite(value_PG))
    if bad.size:
        prompt, response = bad[0]
        raise ValueError(
            f"{name}[{prompt}, {response}] is {value_PG[prompt, response]}, which has no rank and"
            " no mean: mark the response as not valid or give it a finite number"
        )


def _size(state: State, probe: State, mark: int) -> int | None:
    """The size that `state` has where `probe` has `mark`; None if it has none."""
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(probe), strict=state is not None)
    return next((leaf.shape[0] for leaf, like in pairs if like.shape[:1] == (mark,)), None)


def _number(
    what: str, id_P: np.ndarray | None, kept: int | None, asked: int | None, least: int
) -> int:
    """num_tasks or num_rows: what was asked, else what the state has, else what the ids need."""
    largest = -1 if id_P is None else int(id_P.max(initial=-1))
    number = asked
    if number is None:
        number = max(least, largest + 1) if kept is None else kept
    if kept is not None and kept != number:
        raise ValueError(
            f"num_{what}s={number}, but the state was made for {kept} {what}s: pass"
            " the same number to every call"
        )
    if largest >= number:
        raise ValueError(
            f"{what}_P holds id {largest}, but there are {number} {what}s: pass num_{what}s to"
            " the first call, so that its state has room for every id"
        )
    return number
