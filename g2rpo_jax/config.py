"""The one typed configuration: frozen dataclasses, shown to users as a locked ConfigDict.

    defaults() -> ConfigDict          what a config file starts from; misspelt fields fail there
    resolve(ConfigDict) -> RunConfig  every check once, before anything expensive starts

A default has one home, the dataclass of its section. Modules own the dataclass of their section
(advantages, objectives, shaping, rewards, sampler, mesh); the run's own sections are here.
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
from g2rpo_jax.shaping import ENTROPY_ESTIMATORS

C = typing.TypeVar("C")


def at_least(field: str, value: float, minimum: float) -> None:
    """Raises ValueError naming the field unless value >= minimum."""
    if not value >= minimum:
        raise ValueError(f"{field}={value} must be at least {minimum}")


def within(field: str, value: float, low: float, high: float) -> None:
    """Raises ValueError naming the field unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{field}={value} must lie in [{low}, {high}]")


def one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError naming the field and the nearest choice unless value is a choice."""
    if value not in choices:
        raise ValueError(
            f"{field}={value!r} is none of {', '.join(choices)}{tables.nearest(value, choices)}"
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The policy: a Hugging Face Qwen3-VL directory.

    Attributes:
      directory: where config.json, *.safetensors, tokenizer and processor files are.
      dtype: what activations are computed in; "auto" asks the back end (float32 on a CPU).
      param_dtype: what the trained copy of the weights is kept in.
      remat: what a layer's backward pass computes again: "none", "products" (all but the products
        with weights), "full".
      logprob_chunk: response tokens of a row whose logits exist at one time.
    """

    directory: str = "models/Qwen3-VL-8B-Instruct"
    dtype: str = "auto"
    param_dtype: str = "float32"
    remat: str = "full"
    logprob_chunk: int = 256

    def __post_init__(self):
        one_of("model.dtype", self.dtype, ("auto", "float32", "bfloat16"))
        one_of("model.param_dtype", self.param_dtype, ("float32", "bfloat16"))
        one_of("model.remat", self.remat, ("none", "products", "full"))
        at_least("model.logprob_chunk", self.logprob_chunk, 1)


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How many rows are drawn, kept and trained on.

    Attributes:
      rollout_prompts: prompts sampled in one generation round.
      generate_prompts: prompts decoded together, of like size; divides rollout_prompts (0: all).
      prompts: rows trained on per step, after filtering.
      minibatches: optimiser updates a step; each takes prompts / minibatches rows.
      microbatches: equal parts of a minibatch whose gradients are added up.
    """

    rollout_prompts: int = 128
    generate_prompts: int = 0
    prompts: int = 128
    minibatches: int = 1
    microbatches: int = 8

    def __post_init__(self):
        for field in dataclasses.fields(self):
            minimum = int(field.name != "generate_prompts")
            at_least(f"batch.{field.name}", getattr(self, field.name), minimum)
        if self.generate_prompts and self.rollout_prompts % self.generate_prompts:
            raise ValueError(
                f"batch.generate_prompts={self.generate_prompts} does not divide "
                f"batch.rollout_prompts={self.rollout_prompts}: calls have one size"
            )
        if self.prompts % (self.minibatches * self.microbatches):
            raise ValueError(
                f"batch.prompts={self.prompts} does not divide into batch.minibatches="
                f"{self.minibatches} x batch.microbatches={self.microbatches}: rows are never "
                "split; use a multiple of their product"
            )


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Dynamic filtering on the mean raw accuracy of a row's responses (DAPO; G2RPO's release).

    Attributes:
      enabled: keep only rows with low < mean accuracy < high.
      max_rounds: generation rounds a step may take; then it goes on with what it has.
      max_age: steps for which a surplus row may wait before it is dropped.
    """

    enabled: bool = True
    low: float = 0.01
    high: float = 0.99
    max_rounds: int = 20
    max_age: int = 2

    def __post_init__(self):
        at_least("filter.max_rounds", self.max_rounds, 1)
        at_least("filter.max_age", self.max_age, 0)
        if not self.low < self.high:
            raise ValueError(f"filter.low={self.low} must be below filter.high={self.high}")


@dataclasses.dataclass(frozen=True)
class ShapingConfig:
    """Task-level shaping (OpenVLThinkerV2 eqs. 9 and 10); the bands stand in `tasks`.

    Attributes:
      length_weight: share of the accuracy weight that goes to the length reward.
      length_min_accuracy: responses less accurate than this get no length reward (0: all get it, as
        in the paper; 1: only wholly right ones).
      entropy_weight: weight of the entropy envelope in the loss.
      entropy_estimator: exact, sampled (the release's; zero expected gradient on-policy), score.
    """

    length_weight: float = 0.1
    length_min_accuracy: float = 0.0
    entropy_weight: float = 0.02
    entropy_estimator: str = "exact"

    def __post_init__(self):
        within("shaping.length_weight", self.length_weight, 0.0, 1.0)
        within("shaping.length_min_accuracy", self.length_min_accuracy, 0.0, 1.0)
        at_least("shaping.entropy_weight", self.entropy_weight, 0.0)
        tables.lookup(ENTROPY_ESTIMATORS, self.entropy_estimator, kind="entropy estimator")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A row of the task table: what is asked of one task.

    Attributes:
      reward: what scores its responses: empty for the reward of each row's problem type, the name
        of another problem type, or "module:function" of your own (docs/rewards.md).
      format_weight: share of the accuracy weight that goes to the format; None: as
        reward.format_weight.
      length_weight: the same for the length reward; None: as shaping.length_weight.
      length: (minimum, low, high, maximum) response tokens of the trapezoid, eq. 9.
      entropy: (minimum, maximum) nats per token of the envelope, eq. 10.
      share: how often its rows are drawn, relative to how many there are (0: never).
      max_tokens: tokens of a response at most; 0: as the run's max_tokens.
    """

    reward: str = ""
    format_weight: float | None = None
    length_weight: float | None = None
    length: tuple[int, ...] = (0, 0, 1_000_000, 1_000_000)
    entropy: tuple[float, ...] = (0.2, 0.6)
    share: float = 1.0
    max_tokens: int = 0

    def __post_init__(self):
        if len(self.length) != 4 or list(self.length) != sorted(self.length):
            raise ValueError(f"tasks.*.length={self.length} must be four rising token counts")
        if len(self.entropy) != 2 or self.entropy[0] > self.entropy[1]:
            raise ValueError(f"tasks.*.entropy={self.entropy} must be (minimum, maximum)")
        for name in ("format_weight", "length_weight"):
            if getattr(self, name) is not None:
                within(f"tasks.*.{name}", getattr(self, name), 0.0, 1.0)
        at_least("tasks.*.share", self.share, 0.0)
        at_least("tasks.*.max_tokens", self.max_tokens, 0)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW under a schedule.

    Attributes:
      lr: peak learning rate.
      warmup_steps: updates of linear warm-up from 0.
      schedule: "constant", "linear" or "cosine" after warm-up, down to lr * final_lr.
      clip_norm: global gradient norm above which the gradient is scaled down.
    """

    lr: float = 2e-6
    warmup_steps: int = 0
    schedule: str = "constant"
    final_lr: float = 0.0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self):
        at_least("optim.lr", self.lr, 0.0)
        at_least("optim.warmup_steps", self.warmup_steps, 0)
        at_least("optim.weight_decay", self.weight_decay, 0.0)
        one_of("optim.schedule", self.schedule, ("constant", "linear", "cosine"))
        if self.clip_norm <= 0:
            raise ValueError(f"optim.clip_norm={self.clip_norm} must be above 0")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation, greedy, inside the run.

    Attributes:
      every: steps between evaluations (also before the first and after the last step); 0: never.
      rows: test rows of every task in one evaluation; 0 takes all.
      final_every, final_count: near the end evaluate every `final_every` steps so that `after`
        is the mean of the last `final_count` evaluations.
      prompts: rows decoded together.
    """

    every: int = 10
    rows: int = 0
    final_every: int = 1
    final_count: int = 1
    prompts: int = 64

    def __post_init__(self):
        for field in dataclasses.fields(self):
            minimum = 1 if field.name in ("final_every", "final_count", "prompts") else 0
            at_least(f"eval.{field.name}", getattr(self, field.name), minimum)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Orbax checkpoints: written every `every` steps (0: only at the end), the last `keep` kept."""

    every: int = 20
    keep: int = 2

    def __post_init__(self):
        at_least("checkpoint.every", self.every, 0)
        at_least("checkpoint.keep", self.keep, 1)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written beside metrics.jsonl.

    Attributes:
      tensorboard: also write TensorBoard event files.
      samples_every: steps between entries of samples.jsonl (rows with all responses and rewards).
      samples: rows in one entry.
    """

    tensorboard: bool = True
    samples_every: int = 10
    samples: int = 6

    def __post_init__(self):
        at_least("log.samples_every", self.samples_every, 1)
        at_least("log.samples", self.samples, 0)


def _default_tasks() -> dict[str, TaskConfig]:
    return {task: TaskConfig() for task in (*TASKS, *TYPE_TASKS)}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run. `steps=0` means `epochs` passes over the training rows.

    Attributes:
      responses: G, responses sampled for each prompt.
      max_tokens: T, tokens of a response at most.
      decode_chunk: tokens decoded between two looks at which responses have finished.
      advantage_task: what groups rows where an estimator works per task: "task", or
        "problem_type" (segmentation split by data type; the key of the release's second stage).
      host_devices: on a CPU, devices to divide the host into (0: as XLA_FLAGS says).
    """

    seed: int = 0
    steps: int = 0
    epochs: int = 1
    responses: int = 8
    max_tokens: int = 4096
    decode_chunk: int = 32
    advantage_task: str = "task"
    host_devices: int = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    batch: BatchConfig = BatchConfig()
    sampling: SamplingConfig = SamplingConfig()
    filter: FilterConfig = FilterConfig()
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
            ("decode_chunk", 1),
            ("host_devices", 0),
        ):
            at_least(name, getattr(self, name), minimum)
        one_of("advantage_task", self.advantage_task, ("task", "problem_type"))
        tables.lookup(ESTIMATORS, self.advantage.name, kind="advantage.name")
        tables.lookup(OBJECTIVES, self.objective.name, kind="objective.name")
        tables.lookup(AGGREGATIONS, self.objective.aggregation, kind="objective.aggregation")
        asked = {"release": "thinking", "onethinker": "think"}.get(self.data.template)
        if asked not in (None, self.reward.think_tag):
            raise ValueError(
                f"data.template={self.data.template!r} asks for <{asked}> tags, but "
                f"reward.think_tag={self.reward.think_tag!r} would find no response well formed: "
                f"set reward.think_tag={asked}"
            )
        if self.max_tokens % self.decode_chunk:
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
