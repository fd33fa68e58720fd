"""The one typed configuration: frozen dataclasses, shown to users as a locked ConfigDict.

    defaults() -> ConfigDict          what a config file starts from; misspelt fields fail there
    resolve(ConfigDict) -> RunConfig  every check once, before anything expensive starts

A default has one home, the dataclass of its section. Modules own the dataclass of their section
(advantages, objectives, rewards, sampler, mesh, data); those of the run itself are in `settings`.
"""

import dataclasses
import types
import typing
from typing import Any

import ml_collections
from ml_collections import config_dict

from g2rpo_jax import tables
from g2rpo_jax.advantages import ESTIMATORS, AdvantageConfig
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.objectives import AGGREGATIONS, OBJECTIVES, ObjectiveConfig
from g2rpo_jax.parallel.mesh import MeshConfig
from g2rpo_jax.rewards import TASKS, TYPE_TASKS, RewardConfig
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.selection.prompts import CurriculumConfig
from g2rpo_jax.selection.replay import ReplayConfig
from g2rpo_jax.selection.responses import SelectionConfig
from g2rpo_jax.settings import (
    BatchConfig,
    CheckpointConfig,
    EvalConfig,
    FilterConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    at_least,
    one_of,
    within,
)
from g2rpo_jax.shaping import (
    ENTROPY_ESTIMATORS,
    ENTROPY_FORMS,
    LENGTH_FORMS,
    ShapingConfig,
)

C = typing.TypeVar("C")


def _default_tasks() -> dict[str, TaskConfig]:
    return {task: TaskConfig() for task in (*TASKS, *TYPE_TASKS)}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run. `steps=0` means `epochs` passes over the training rows.

    Attributes:
      responses: G, responses sampled for each prompt.
      max_tokens: T, tokens of a response at most.
      decode_chunk: tokens decoded between two looks at which responses have finished; 0: what suits
        the back end (platform.Backend).
      decode_halvings: how often the batch that is being decoded may halve as responses finish. Each
        is a program more to compile for every bucket; 0: all decode until the last has finished.
      advantage_task: what groups rows where an estimator works per task: "task", or
        "problem_type" (segmentation split by data type; the key of the release's second stage).
      host_devices: on a CPU, devices to divide the host into (0: as XLA_FLAGS says).
    """

    seed: int = 0
    steps: int = 0
    epochs: int = 1
    responses: int = 8
    max_tokens: int = 4096
    decode_chunk: int = 0
    decode_halvings: int = 3
    advantage_task: str = "task"
    host_devices: int = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    batch: BatchConfig = BatchConfig()
    sampling: SamplingConfig = SamplingConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    filter: FilterConfig = FilterConfig()
    selection: SelectionConfig = SelectionConfig()
    replay: ReplayConfig = ReplayConfig()
    reward: RewardConfig = RewardConfig()
    shaping: ShapingConfig = ShapingConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    tasks: dict[str, TaskConfig] = dataclasses.field(default_factory=_default_tasks)

    def __post_init__(self):
        for name, minimum in (
            ("steps", 0),
            ("epochs", 1),
            ("responses", 1),
            ("max_tokens", 1),
            ("decode_chunk", 0),
            ("decode_halvings", 0),
            ("host_devices", 0),
        ):
            at_least(name, getattr(self, name), minimum)
        one_of("advantage_task", self.advantage_task, ("task", "problem_type"))
        tables.lookup(ESTIMATORS, self.advantage.name, kind="advantage estimator")
        tables.lookup(OBJECTIVES, self.objective.name, kind="objective.name")
        tables.lookup(AGGREGATIONS, self.objective.aggregation, kind="objective.aggregation")
        tables.lookup(LENGTH_FORMS, self.shaping.length_form, kind="shaping.length_form")
        tables.lookup(ENTROPY_FORMS, self.shaping.entropy_form, kind="shaping.entropy_form")
        tables.lookup(ENTROPY_ESTIMATORS, self.shaping.entropy_estimator, kind="entropy estimator")
        asked = {"release": "thinking", "onethinker": "think"}.get(self.data.template)
        if asked not in (None, self.reward.think_tag):
            raise ValueError(
                f"data.template={self.data.template!r} asks for <{asked}> tags, but "
                f"reward.think_tag={self.reward.think_tag!r} would find no response well formed: "
                f"set reward.think_tag={asked}"
            )
        if self.decode_chunk and self.max_tokens % self.decode_chunk:
            raise ValueError(
                f"max_tokens={self.max_tokens} is not a multiple of decode_chunk="
                f"{self.decode_chunk}: responses are decoded in whole chunks"
            )


@dataclasses.dataclass(frozen=True)
class ShapeConfig:
    """Size of a Qwen3-VL model made from nothing; names are Hugging Face's where it has them."""

    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    head_dim: int = 32
    vision_hidden_size: int = 48
    vision_intermediate_size: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    patch_size: int = 8
    grid_side: int = 8
    deepstack_layers: tuple[int, ...] = (0,)
    initializer_range: float = 0.05


@dataclasses.dataclass(frozen=True)
class SftConfig:
    """Supervised warm-up: makes a small model from nothing, up to where RL has something to do.

    Attributes:
      directory: the Hugging Face directory to write.
      model: a Hugging Face directory to go on from, with its tokenizer; "" makes a new one of
        `shape`.
      rows: training rows made of every task.
      caption_steps: first updates, on captions of the grid's cells alone.
      caption_share: share of captions afterwards.
      think_share: share of rows with a thinking text; the rest answer at once.
      steps: updates at most.
      ceiling: a task whose held-out accuracy is above this is drawn `cooled` times as often.
      stop: training ends when the mean held-out accuracy over tasks reaches this.
      eval_rows: held-out rows of all tasks together.
    """

    seed: int = 0
    directory: str = "assets/tiny"
    model: str = ""
    rows: int = 4000
    steps: int = 2000
    caption_steps: int = 250
    caption_share: float = 0.15
    think_share: float = 0.4
    prompts: int = 64
    microbatches: int = 4
    max_tokens: int = 28
    prompt_tokens: int = 48
    patches: int = 64
    ceiling: float = 0.5
    cooled: float = 0.02
    stop: float = 0.45
    eval_every: int = 100
    eval_rows: int = 600
    host_devices: int = 2
    shape: ShapeConfig = ShapeConfig()
    optim: OptimConfig = OptimConfig(lr=2e-3, warmup_steps=100, b2=0.98)

    def __post_init__(self):
        for name in ("rows", "steps", "prompts", "max_tokens", "eval_every", "eval_rows"):
            at_least(name, getattr(self, name), 1)
        for name in ("caption_share", "think_share", "ceiling", "stop"):
            within(name, getattr(self, name), 0.0, 1.0)


def defaults(kind: type = RunConfig) -> ml_collections.ConfigDict:
    """All defaults as a locked, typed ConfigDict: what every config file starts from."""
    return _to_dict(kind()).lock()


def resolve(config: ml_collections.ConfigDict, kind: type[C] = RunConfig) -> C:
    """The checked, frozen configuration of a run (RunConfig or SftConfig).

    Raises:
      ValueError: unknown field (with the nearest name), missing field, wrong type, value out of
        range, or sections that contradict one another; the message names the field.
    """
    return _from_dict(config, kind, "")


def to_plain(config: Any) -> Any:
    """A resolved configuration as plain dicts and lists, for JSON."""
    return dataclasses.asdict(config)


def _to_dict(section: Any) -> ml_collections.ConfigDict:
    out = ml_collections.ConfigDict()
    items = (
        section.items()
        if isinstance(section, dict)
        else ((f.name, getattr(section, f.name)) for f in dataclasses.fields(section))
    )
    hints = {} if isinstance(section, dict) else typing.get_type_hints(type(section))
    for name, value in items:
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            out[name] = _to_dict(value)
        elif value is None:
            out[name] = config_dict.placeholder(_bare(hints[name]))
        else:
            out[name] = value
    return out


def _from_dict(config: Any, cls: type, path: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    given = dict(config.items())
    for name in given:
        if name not in names:
            raise ValueError(f"unknown field {path}{name}{tables.nearest(name, names)}")
    values = {}
    for name in names:
        where = f"{path}{name}"
        if name not in given:
            raise ValueError(f"missing field {where}")
        values[name] = _value(given[name], hints[name], where)
    return cls(**values)


def _value(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _from_dict(value, hint, where + ".")
    if typing.get_origin(hint) is dict:
        inner = typing.get_args(hint)[1]
        return {key: _value(item, inner, f"{where}.{key}") for key, item in value.items()}
    if value is None and types.NoneType in typing.get_args(hint):
        return None
    bare = _bare(hint)
    if bare is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, tuple | list):
            raise ValueError(f"{where}={value!r} must be a list of {inner.__name__}")
        return tuple(_value(item, inner, where) for item in value)
    if bare is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, bare) or (bare is int and isinstance(value, bool)):
        raise ValueError(f"{where}={value!r} must be of type {bare.__name__}")
    return value


def _bare(hint: Any) -> type:
    """The class behind `X | None` and `tuple[X, ...]`."""
    args = [a for a in typing.get_args(hint) if a is not types.NoneType]
    if isinstance(hint, types.UnionType):
        return _bare(args[0])
    return typing.get_origin(hint) or hint
