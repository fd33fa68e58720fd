"""Advantage estimators: rewards of prompt groups [P, G] -> advantages [P, G].

Every entry of ESTIMATORS is `(group, state, options) -> (adv_PG, state)`, pure and jit-able with
static options. For all of them: a response that is not valid, or whose prompt's task id lies
outside 0..num_tasks-1 (padding), gets exactly 0 and moves nobody; a task id that never occurs
changes nothing; a group of equal rewards is centred to exact zeros. `compute` is the same for
notebooks: NumPy or JAX arrays in, arguments checked.

Nothing here sorts, gathers or scatters, save the reference form `ranks="erfinv"` (`ranks.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from g2rpo_jax import masked
from g2rpo_jax.ranks import RANKS
from g2rpo_jax.tables import lookup

Leaf = Any  # an array; something else while JAX maps over the structure
State = Any  # an estimator's pytree; () for those that carry nothing
PG = Float[Array, "P G"]
Valid = Bool[Array, "P G"]

SUM_GRID = 2.0**18  # sums of quantiles are taken on this grid: exact in float32 up to 64


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
        all that are here.
      length_PG: response lengths in tokens; None unless gdpo whitens over tokens.
      num_tasks: K, static.
    """

    reward_PG: Leaf
    valid_PG: Leaf
    task_P: Leaf
    components: dict[str, Leaf] = dataclasses.field(default_factory=dict)
    length_PG: Leaf | None = None
    num_tasks: int = dataclasses.field(default=1, metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
    """Which estimator, and every number that one of them reads.

    Attributes:
      name: entry of ESTIMATORS.
      ranks: entry of RANKS: how g2rpo, g2rpo_release and gaussian_gdpo compute their ranks.
      unit_variance: divide the quantiles of n values by their root mean square (their variance is
        0.851 for n = 8), so that untied values have variance 1. Acts on the last ranking stage.
      ddof: 1 for the sample standard deviation (EasyR1, verl, TRL), 0 for the population's (the
        paper's Figure 2).
      eps: added to a standard deviation before dividing by it.
      ema_decay: share of the old moving average that a batch keeps.
      ema_floor: least task standard deviation of ema_grpo_onethinker.
      ema_guard: beyond this |advantage| a group of ema_grpo_onethinker uses its own standard
        deviation.
      gdpo_whitening: tokens (the release) or responses (TRL): what the batch statistics count.
      gpg_scale: none (F_norm = 1) or std.
    """

    name: str = "g2rpo"
    ranks: str = "comparison"
    unit_variance: bool = False
    ddof: int = 1
    eps: float = 1e-6
    ema_decay: float = 0.99
    ema_floor: float = 1e-3
    ema_guard: float = 5.0
    gdpo_whitening: str = "tokens"
    gpg_scale: str = "none"

    def __post_init__(self):
        lookup(ESTIMATORS, self.name, kind="advantage estimator")
        for field, choices in CHOICES.items():
            lookup(dict.fromkeys(choices), getattr(self, field), kind=f"advantage.{field}")
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise ValueError(
                    f"advantage.{field}={value} lies outside [{low}, {high}]: use a value inside"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskScale:
    """State of ema_grpo: scale_K float32, the moving standard deviation; seen_K bool."""

    scale_K: Leaf
    seen_K: Leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaskMoments:
    """State of ema_grpo_onethinker, float32: mean_K = m1, variance_K = m2 - m1^2; seen_K bool."""

    mean_K: Leaf
    variance_K: Leaf
    seen_K: Leaf


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An entry of ESTIMATORS: the function, and the state it starts from given num_tasks."""

    function: Callable[[Group, State, AdvantageConfig], tuple[Array, State]]
    init: Callable[[int], State] = lambda num_tasks: ()

    def __call__(self, group: Group, state: State, options: AdvantageConfig) -> tuple[Array, State]:
        return self.function(group, state, options)


def init_state(options: AdvantageConfig, num_tasks: int) -> State:
    """The state that the estimator starts from: a pytree to carry and checkpoint; () for most."""
    return ESTIMATORS[options.name].init(num_tasks)


# Estimators


def g2rpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """Normal quantile of the reward's rank within its prompt (the paper's G2RPO)."""
    rank = RANKS[options.ranks].within_group
    return rank(group.reward_PG, valid_responses(group), options.unit_variance), state


def g2rpo_release(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """The authors' code (`gs_grpo`): ranks within the prompt, then ranks of those within the task.

    The second stage mixes prompts, so a prompt's advantages no longer sum to 0, and a group of
    equal rewards gets what the middle of its task gets.
    """
    return _second_stage(group, _within_group(group, group.reward_PG, options), options), state


def gaussian_gdpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """The authors' code (`gs_gdpo`): first stage per reward component, summed; second as above.

    The first stage's quantiles are cut to multiples of 2^-18, so that their sum is exact: responses
    with the same quantiles in another order, or with some that cancel, stay tied. In floats such
    sums differ in the last bit, by the order of adding, and would be ranked by it.
    """
    total_PG = jnp.zeros(group.reward_PG.shape, jnp.float32)
    for component_PG in _components(group, "gaussian_gdpo"):
        rank_PG = _within_group(group, component_PG, options)
        total_PG += (rank_PG * SUM_GRID).astype(jnp.int32).astype(jnp.float32)
    return _second_stage(group, total_PG / SUM_GRID, options), state


def grpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """(R - mean) / (std + eps) of the prompt (eq. 2). One valid response gives 0 (verl gives R)."""
    return _z_score(group.reward_PG, valid_responses(group), options), state


def dr_grpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt. Dr.GRPO's other half is the `fixed_length` aggregation."""
    del options
    return masked.center(group.reward_PG, valid_responses(group), axis=1), state


def rloo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """R - mean of the prompt's other responses = n / (n - 1) (R - mean); 0 where n = 1."""
    del options
    valid_PG = valid_responses(group)
    count_P1 = masked.count(valid_PG, axis=1, keepdims=True)
    factor_P1 = count_P1 / jnp.maximum(count_P1 - 1.0, 1.0)
    return masked.center(group.reward_PG, valid_PG, axis=1) * factor_P1, state


def gpg(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """alpha (R - mean) / F_norm, alpha = B / (B - M).

    B prompts have a valid response and M of them no gradient, their rewards being all equal; alpha
    makes up for those. F_norm is 1, or std + eps with gpg_scale="std". Accumulating batches until
    the valid share reaches beta_th is the loop's business.
    Source: GPG (2025), eq. for alpha; verl's version counts rewards that are not 0 instead.
    """
    valid_PG = valid_responses(group)
    adv_PG = GPG_SCALES[options.gpg_scale](group.reward_PG, valid_PG, options)
    prompts = _count_any(valid_PG)
    alive = _count_any(adv_PG != 0)
    return adv_PG * (prompts / jnp.maximum(alive, 1.0)), state


def gdpo(group: Group, state: State, options: AdvantageConfig) -> tuple[PG, State]:
    """GRPO's z-score per component, summed, then whitened over the batch.

    A = (S - mean S) / (std S + eps). Whitening over tokens counts a response once per token with
    the population std (NVlabs' verl, the release); over responses, once with `ddof` (TRL). A
    response without tokens gets 0.
    """
    valid_PG = valid_responses(group)
    total_PG = jnp.zeros(group.reward_PG.shape, jnp.float32)
    for component_PG in _components(group, "gdpo"):
        total_PG += _z_score(component_PG, valid_PG, options)
    weight_PG, ddof = WHITENINGS[options.gdpo_whitening](group, valid_PG, options)
    scale = masked.std(total_PG, weight_PG, ddof=ddof) + options.eps
    return masked.center(total_PG, weight_PG) / scale, state


def ema_grpo(group: Group, state: TaskScale, options: AdvantageConfig) -> tuple[PG, TaskScale]:
    """(R - mean of the prompt) / (s_task + eps), s a moving average of group stds (eq. 3).

    s <- decay s + (1 - decay) std, updated with the batch, then used. The paper leaves two things
    open: several groups of a task in one batch count with the mean of their standard deviations; a
    task seen for the first time starts from the batch's. Groups of fewer than two have none.
    """
    valid_PG = valid_responses(group)
    std_P1 = masked.std(group.reward_PG, valid_PG, axis=1, keepdims=True, ddof=options.ddof)
    pair_P1 = masked.count(valid_PG, axis=1, keepdims=True) >= 2
    here_PK = _one_hot(group) * pair_P1
    groups_K = jnp.sum(here_PK, axis=0)
    batch_K = jnp.sum(here_PK * std_P1, axis=0) / jnp.maximum(groups_K, 1.0)
    keep_K = jnp.where(state.seen_K, options.ema_decay, 0.0)
    scale_K = keep_K * state.scale_K + (1.0 - keep_K) * batch_K
    present_K = groups_K > 0
    state = TaskScale(jnp.where(present_K, scale_K, state.scale_K), state.seen_K | present_K)
    scale_P1 = _per_prompt(group, state.scale_K) + options.eps
    return masked.center(group.reward_PG, valid_PG, axis=1) / scale_P1, state


def ema_grpo_onethinker(
    group: Group, state: TaskMoments, options: AdvantageConfig
) -> tuple[PG, TaskMoments]:
    """EMA-GRPO as OneThinker's code has it: s_task from moving moments of all the task's rewards.

    m1, m2 <- decay m + (1 - decay) batch mean of R, R^2 (the batch's on first sight), then
    s = max(sqrt(m2 - m1^2), ema_floor) and A = (R - mean of the prompt) / (s + eps). A group with
    any |A| > ema_guard is divided by its own population std instead. So s holds the variance
    between prompts too, unlike eq. 3. The state is (m1, m2 - m1^2), updated in closed form: in
    float32, m2 - m1^2 would cancel.
    """
    valid_PG = valid_responses(group)
    here_PK = _one_hot(group)
    number_K = jnp.sum(here_PK * masked.count(valid_PG, axis=1, keepdims=True), axis=0)
    divisor_K = jnp.maximum(number_K, 1.0)
    sum_P1 = masked.sum(group.reward_PG, valid_PG, axis=1, keepdims=True)
    mean_K = jnp.sum(here_PK * sum_P1, axis=0) / divisor_K
    square_PG = jnp.square(group.reward_PG - _per_prompt(group, mean_K))
    square_P1 = masked.sum(square_PG, valid_PG, axis=1, keepdims=True)
    variance_K = jnp.sum(here_PK * square_P1, axis=0) / divisor_K

    keep_K = jnp.where(state.seen_K, options.ema_decay, 0.0)
    between_K = keep_K * (1.0 - keep_K) * jnp.square(state.mean_K - mean_K)
    mixed_K = keep_K * state.variance_K + (1.0 - keep_K) * variance_K + between_K
    present_K = number_K > 0
    state = TaskMoments(
        jnp.where(present_K, keep_K * state.mean_K + (1.0 - keep_K) * mean_K, state.mean_K),
        jnp.where(present_K, mixed_K, state.variance_K),
        state.seen_K | present_K,
    )
    scale_K = jnp.maximum(jnp.sqrt(state.variance_K), options.ema_floor)
    centered_PG = masked.center(group.reward_PG, valid_PG, axis=1)
    adv_PG = centered_PG / (_per_prompt(group, scale_K) + options.eps)
    own_P1 = masked.std(group.reward_PG, valid_PG, axis=1, keepdims=True) + options.eps
    wild_P1 = jnp.max(jnp.abs(adv_PG), axis=1, keepdims=True) > options.ema_guard
    return jnp.where(wild_P1, centered_PG / own_P1, adv_PG), state


# Shared parts


def valid_responses(group: Group) -> Valid:
    """valid_PG without those of padding prompts, whose task id is outside 0..num_tasks-1."""
    known_P = (group.task_P >= 0) & (group.task_P < group.num_tasks)
    return group.valid_PG & known_P[:, None]


def _within_group(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    return RANKS[options.ranks].within_group(value_PG, valid_responses(group))


def _second_stage(group: Group, value_PG: PG, options: AdvantageConfig) -> PG:
    rank = RANKS[options.ranks].within_task
    valid_PG = valid_responses(group)
    return rank(value_PG, valid_PG, group.task_P, group.num_tasks, options.unit_variance)


def _z_score(value_PG: PG, valid_PG: Valid, options: AdvantageConfig) -> PG:
    std_P1 = masked.std(value_PG, valid_PG, axis=1, keepdims=True, ddof=options.ddof)
    return masked.center(value_PG, valid_PG, axis=1) / (std_P1 + options.eps)


def _components(group: Group, name: str) -> list[PG]:
    if not group.components:
        raise ValueError(
            f"{name} ranks or scales every reward component apart and got none: pass components,"
            " such as {'accuracy': [P, G], 'format': [P, G], 'structure': [P, G]}"
        )
    return [group.components[key] for key in sorted(group.components)]


def _token_whitening(group: Group, valid_PG: Valid, options: AdvantageConfig) -> tuple[PG, int]:
    if group.length_PG is None:
        raise ValueError(
            "gdpo whitens over tokens and got no response lengths: pass length_PG, or set"
            " gdpo_whitening='responses'"
        )
    return jnp.where(valid_PG, group.length_PG, 0).astype(jnp.float32), 0


def _one_hot(group: Group) -> Float[Array, "P K"]:
    ids_1K = jnp.arange(group.num_tasks, dtype=jnp.int32)[None, :]
    return (group.task_P[:, None] == ids_1K).astype(jnp.float32)


def _per_prompt(group: Group, value_K: Float[Array, " K"]) -> Float[Array, "P 1"]:
    return jnp.sum(_one_hot(group) * value_K[None, :], axis=1, keepdims=True)


def _count_any(condition_PG: Bool[Array, "P G"]) -> Float[Array, ""]:
    return jnp.sum(jnp.max(condition_PG.astype(jnp.float32), axis=1))


# Notebook level


def compute(
    name: str,
    reward_PG,
    valid_PG=None,
    task_P=None,
    components: Mapping[str, Any] | None = None,
    length_PG=None,
    state: State = None,
    num_tasks: int | None = None,
    **options: Any,
) -> tuple[Float[Array, "P G"], State]:
    """Advantages from NumPy or JAX arrays: the notebook form of ESTIMATORS.

    Args:
      name: entry of ESTIMATORS.
      reward_PG: numbers [P, G]; finite where valid.
      valid_PG: bool [P, G]; None: all are.
      task_P: integer task ids [P]; -1 for a padding prompt; None: one task.
      components: rewards [P, G] by component name, for gdpo and gaussian_gdpo.
      length_PG: response lengths in tokens, for gdpo's whitening.
      state: what the last call returned; None starts afresh.
      num_tasks: how many tasks there are; None: those of `state`, else the largest id + 1.
      **options: fields of AdvantageConfig.
    Returns:
      (adv_PG float32, state): the state is () for estimators that carry none.
    Raises:
      ValueError: unknown estimator or option, unlike shapes, a valid reward that is not finite, a
        task id beyond num_tasks, a state of another estimator, missing components or lengths.
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
    for key, value_PG in {"reward_PG": reward_PG, **parts}.items():
        _require_finite(key, value_PG, valid_PG)
    if length_PG is not None:
        length_PG = _shaped("length_PG", length_PG, shape, np.float32)
        _require_finite("length_PG", length_PG, valid_PG)
    num_tasks = _number_of_tasks(task_P, state, num_tasks)
    fresh = init_state(config, num_tasks)
    state = fresh if state is None else state
    if jax.tree.structure(state) != jax.tree.structure(fresh):
        raise ValueError(
            f"state is {type(state).__name__}, but {name} carries {type(fresh).__name__}: pass the"
            f" state that a call of {name} returned, or None"
        )
    group = Group(reward_PG, valid_PG, task_P, parts, length_PG, num_tasks)
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


def _number_of_tasks(task_P: np.ndarray, state: State, num_tasks: int | None) -> int:
    leaves = jax.tree.leaves(state)
    if num_tasks is None:
        num_tasks = leaves[0].shape[0] if leaves else max(1, int(task_P.max(initial=0)) + 1)
    if leaves and leaves[0].shape[0] != num_tasks:
        raise ValueError(
            f"num_tasks={num_tasks}, but the state was made for {leaves[0].shape[0]} tasks: pass"
            " the same number to every call"
        )
    if task_P.max(initial=0) >= num_tasks:
        raise ValueError(
            f"task_P holds id {task_P.max()}, but there are {num_tasks} tasks: pass num_tasks to"
            " the first call, so that its state has room for every id"
        )
    return num_tasks


GPG_SCALES = {
    "none": lambda value_PG, valid_PG, options: masked.center(value_PG, valid_PG, axis=1),
    "std": _z_score,
}

WHITENINGS = {
    "tokens": _token_whitening,
    "responses": lambda group, valid_PG, options: (valid_PG.astype(jnp.float32), options.ddof),
}

ESTIMATORS = {
    "g2rpo": Estimator(g2rpo),
    "g2rpo_release": Estimator(g2rpo_release),
    "gaussian_gdpo": Estimator(gaussian_gdpo),
    "grpo": Estimator(grpo),
    "dr_grpo": Estimator(dr_grpo),
    "ema_grpo": Estimator(
        ema_grpo, lambda num_tasks: TaskScale(jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool))
    ),
    "ema_grpo_onethinker": Estimator(
        ema_grpo_onethinker,
        lambda num_tasks: TaskMoments(
            jnp.zeros(num_tasks), jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool)
        ),
    ),
    "gdpo": Estimator(gdpo),
    "rloo": Estimator(rloo),
    "gpg": Estimator(gpg),
}

# What the fields of AdvantageConfig may hold.
CHOICES = {
    "ranks": tuple(RANKS),
    "gdpo_whitening": tuple(WHITENINGS),
    "gpg_scale": tuple(GPG_SCALES),
}

RANGES = {
    "ddof": (0, 1),
    "eps": (1e-12, 1.0),
    "ema_decay": (0.0, 1.0),
    "ema_floor": (1e-6, 1.0),
    "ema_guard": (0.0, 1e6),
}
