"""OpenVLThinkerV2 on OneThinker's data.

    python launch/train.py --config=configs/onethinker.py:tiny      a laptop, about five minutes
    python launch/train.py --config=configs/onethinker.py           the paper (8B; a cluster)
    python launch/train.py --config=configs/onethinker.py:release   the authors' released settings

Variants:
  paper    batch 128 prompts x 8 responses, one update a rollout batch, sequence mean, one stage of
           ranks, length and entropy shaping in tokens and nats of the whole task.
  release  512 prompts a rollout batch in 4 minibatches of 128, token mean, clip 0.2 / 0.3, dual
           clip 3, two-stage ranks keyed by problem type, sampled-token entropy, no length term.
  tiny     the shipped 0.6 M parameter model and six tasks over handwritten digits.
"""

import ml_collections

from g2rpo_jax.config import defaults

# Response tokens per task (minimum, low, high, maximum), read off the paper's Figure 3: long chains
# for reasoning, short ones for grounding and documents. The paper has six tasks; the others are
# those of OneThinker's rows without a task type, sorted by likeness.
LONG, SHORT = (64, 256, 2048, 4096), (8, 24, 256, 1024)
PERCEPTION = (
    "ocr",
    "spatial_grounding",
    "temporal_grounding",
    "spatial_temporal_grounding",
    "tracking",
    "segmentation_image",
    "segmentation_video",
    "counting",
    "detection",
    "trajectory",
    "label_set",
    "gui_action",
    "tool_calls",
)


def get_config(variant: str = "paper") -> ml_collections.ConfigDict:
    """The configuration of one variant: paper, release or tiny."""
    config = defaults()
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/onethinker.py has no variant {variant!r}; it has {', '.join(VARIANTS)}"
        )
    VARIANTS[variant](config)
    return config


def paper(config: ml_collections.ConfigDict) -> None:
    """Equations 5-10 and 14 with the hyper-parameters of the paper's section on training."""
    config.responses, config.max_tokens = 8, 4096
    config.batch.rollout_prompts = config.batch.prompts = 128
    config.batch.generate_prompts = 32
    config.batch.minibatches, config.batch.microbatches = 1, 16
    config.batch.packed_shares = (0.25, 0.5)
    config.model.rollout_copy = True
    config.data.prompt_tokens = (1024, 2048, 4096, 8192, 16384)
    config.data.patches = (0, 1024, 4096, 8192, 16384)
    config.data.min_pixels, config.data.max_pixels = 3136, 1048576
    config.optim.lr, config.optim.weight_decay, config.optim.clip_norm = 2e-6, 0.01, 1.0
    config.objective.aggregation = "sequence_mean"
    config.objective.dual_clip = 0.0
    config.objective.clip_high = 0.2
    for task in config.tasks:
        config.tasks[task].length = SHORT if task in PERCEPTION else LONG


def release(config: ml_collections.ConfigDict) -> None:
    """What the authors' code of 2026-04 runs by default."""
    paper(config)
    config.batch.rollout_prompts = config.batch.prompts = 512
    config.batch.minibatches = 4
    config.advantage.name = "g2rpo_release"
    config.advantage_task = "problem_type"
    config.objective.aggregation = "token_mean"
    config.objective.clip_high, config.objective.dual_clip = 0.3, 3.0
    config.reward.mode = "release"
    config.shaping.length_weight = 0.0
    config.shaping.entropy_weight, config.shaping.entropy_estimator = 0.02, "sampled"


def tiny(config: ml_collections.ConfigDict) -> None:
    """Two CPU cores, a few minutes: the shipped model on the embedded digits."""
    config.steps = 230
    config.host_devices = 2
    config.responses, config.max_tokens, config.decode_halvings = 8, 28, 1
    config.model.directory, config.model.remat = "assets/tiny", "none"
    config.data.train = "embedded:train?rows=8192&seed=1"
    config.data.test = "embedded:test?rows=2160&seed=0"
    config.data.template = "plain"
    config.data.prompt_tokens, config.data.patches = (48,), (64,)
    config.batch.rollout_prompts, config.batch.prompts = 56, 32
    config.batch.microbatches, config.batch.packed_shares = 1, (0.5,)
    config.filter.max_rounds = 1
    config.optim.lr, config.optim.warmup_steps = 3e-4, 10
    config.optim.schedule, config.optim.final_lr = "linear", 0.2
    config.optim.b2, config.optim.weight_decay = 0.98, 0.0
    config.shaping.length_weight, config.shaping.entropy_weight = 0.0, 0.05
    for task in config.tasks:
        config.tasks[task].entropy = (0.15, 0.6)
    config.eval.every, config.eval.prompts = 115, 216
    config.eval.final_count, config.eval.final_every = 3, 10
    config.checkpoint.every = 40


VARIANTS = {"paper": paper, "release": release, "tiny": tiny}
