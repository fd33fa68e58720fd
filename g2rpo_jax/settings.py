"""The sections of a run's configuration that no module of their own stands behind.

Every field, its default and its check; `config.RunConfig` puts them together.
"""

import dataclasses
import itertools

from g2rpo_jax import tables
from g2rpo_jax.selection.rows import CRITERIA


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


LAYER_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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
      freeze: parameters that are not trained, by path: "vision", "embedding", "layers.*_norm" ...;
        they get no gradient, no optimiser state and no backward pass of their own.
      lora_rank: above 0, trains low-rank adapters of the language model's layers and nothing else.
      lora_alpha: their product is weighted with lora_alpha / lora_rank.
      lora_targets: the matrices of a layer that get one.
      rollout_copy: sample from a copy of the weights that is made once a step in the dtype of the
        activations and divided over tensor alone, instead of gathering them for every token.
      attention: kernel of the prompts' attention in bfloat16: "cudnn", "none" (XLA's own), or
        "auto", the back end's (`platform.Backend.attention`).
    """

    directory: str = "models/Qwen3-VL-8B-Instruct"
    dtype: str = "auto"
    param_dtype: str = "float32"
    remat: str = "full"
    logprob_chunk: int = 256
    freeze: tuple[str, ...] = ()
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = LAYER_MATRICES
    rollout_copy: bool = False
    attention: str = "auto"

    def __post_init__(self):
        one_of("model.attention", self.attention, ("auto", "none", "cudnn"))
        at_least("model.lora_rank", self.lora_rank, 0)
        if not self.lora_alpha > 0:
            raise ValueError(f"model.lora_alpha={self.lora_alpha} must be above 0")
        for name in self.lora_targets:
            one_of("model.lora_targets", name, LAYER_MATRICES)
        if self.lora_rank and not self.lora_targets:
            raise ValueError(
                f"model.lora_rank={self.lora_rank} without model.lora_targets trains nothing"
            )
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
      packed_shares: rising shares of all responses x (max_tokens - 1) token slots. What responses
        use of the rows that a device works through together (its rows of a micro-batch) is packed
        into the smallest share that holds it, and no padding passes through the layers. Each share
        is a program to compile once it is first used. What fits none is not packed.
    """

    rollout_prompts: int = 128
    generate_prompts: int = 0
    prompts: int = 128
    minibatches: int = 1
    microbatches: int = 8
    packed_shares: tuple[float, ...] = ()

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name != "packed_shares":
                minimum = int(field.name != "generate_prompts")
                at_least(f"batch.{field.name}", getattr(self, field.name), minimum)
        shares = (0.0, *self.packed_shares, 1.0)
        if not all(a < b for a, b in itertools.pairwise(shares)):
            raise ValueError(
                f"batch.packed_shares={self.packed_shares} must rise and lie between 0 and 1"
            )
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
    """Dynamic filtering of rows that carry no signal (DAPO; G2RPO's release), and of responses that
    were cut.

    Attributes:
      enabled: keep only rows that the criterion keeps.
      criterion: entry of CRITERIA.
      low, high: bounds of mean_accuracy.
      valid_share: share of a step's rows that must be kept ones before it stops sampling; at 1 only
        kept rows train (DAPO), below 1 others fill the step up (GPG: 0.6, with advantage.name=gpg).
      max_rounds: generation rounds a step may take; then it goes on with what it has.
      max_age: steps for which a surplus row may wait before it is dropped.
      overlong: what becomes of responses cut at the limit of tokens: "train"; "mask": they count in
        the statistics of their prompt and not in the loss (DAPO's overlong filtering); "drop":
        neither.
    """

    enabled: bool = True
    criterion: str = "mean_accuracy"
    low: float = 0.01
    high: float = 0.99
    valid_share: float = 1.0
    max_rounds: int = 20
    max_age: int = 2
    overlong: str = "train"

    def __post_init__(self):
        tables.lookup(CRITERIA, self.criterion, kind="filter criterion")
        one_of("filter.overlong", self.overlong, ("train", "mask", "drop"))
        if not 0 < self.valid_share <= 1:
            raise ValueError(f"filter.valid_share={self.valid_share} must lie in (0, 1]")
        if self.valid_share < 1 and not self.enabled:
            raise ValueError(
                f"filter.valid_share={self.valid_share} with filter.enabled=False: without a "
                "filter all rows count as valid"
            )
        at_least("filter.max_rounds", self.max_rounds, 1)
        at_least("filter.max_age", self.max_age, 0)
        if not self.low < self.high:
            raise ValueError(f"filter.low={self.low} must be below filter.high={self.high}")


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A row of the task table: what is asked of one task.

    Attributes:
      reward: what scores its responses: empty for the reward of each row's problem type, the name
        of another reward ("giou", "worst(OCR, bleu)"), or "module:function" of your own
        (docs/rewards.md).
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
      state_dtype: what both moments are kept in: "float32", or "bfloat16" (rounded by chance, right
        on average: half the memory).
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
    state_dtype: str = "float32"

    def __post_init__(self):
        at_least("optim.lr", self.lr, 0.0)
        at_least("optim.warmup_steps", self.warmup_steps, 0)
        at_least("optim.weight_decay", self.weight_decay, 0.0)
        one_of("optim.state_dtype", self.state_dtype, ("float32", "bfloat16"))
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
    """Orbax checkpoints.

    Attributes:
      every: steps between checkpoints; 0: only at the end (and for keep_best).
      keep: the newest this many are kept.
      keep_best: so many more are kept: those with the highest mean held-out accuracy. A step whose
        evaluation is among the best so far is saved, whatever `every` says.
    """

    every: int = 20
    keep: int = 2
    keep_best: int = 1

    def __post_init__(self):
        at_least("checkpoint.every", self.every, 0)
        at_least("checkpoint.keep", self.keep, 1)
        at_least("checkpoint.keep_best", self.keep_best, 0)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written beside metrics.jsonl.

    Attributes:
      tensorboard: also write TensorBoard event files.
      samples_every: steps between entries of samples.jsonl (rows with all responses and rewards).
      samples: rows in one entry.
      ledger_every: steps between looks at each task's part of the gradient (`ledger/...`, see
        train/ledger.py); a look takes a gradient pass for each task of the step's first minibatch
        and one for all. 0: never.
    """

    tensorboard: bool = True
    samples_every: int = 10
    samples: int = 6
    ledger_every: int = 0

    def __post_init__(self):
        at_least("log.samples_every", self.samples_every, 1)
        at_least("log.samples", self.samples, 0)
        at_least("log.ledger_every", self.ledger_every, 0)
