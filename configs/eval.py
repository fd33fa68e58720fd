"""Evaluation of a model directory, or of a training run, on benchmark files.

    python launch/eval.py --config=configs/eval.py:tiny      assets/tiny on the embedded test set
    python launch/eval.py --config=configs/eval.py --config.model=models/Qwen3-VL-8B-Instruct \\
        --config.benchmarks=chartqa:LMUData/ChartQA_TEST.tsv,refcoco:eval/eval_refcoco_val.json
    python launch/eval.py --config=configs/eval.py --config.benchmarks=all --config.data_dir=LMUData

Variants:
  greedy   one greedy response of at most 4096 tokens to each row (default).
  sampled  8 samples at temperature 1, pass@1, 4 and 8.
  tiny     the shipped small model; two CPU cores, about a minute.
"""

import ml_collections

from g2rpo_jax.config import defaults
from g2rpo_jax.evaluate.settings import EvalSettings

# Benchmarks of your own machine can stand here, name -> file: joined below as the flag has them.
FILES: dict[str, str] = {}


def get_config(variant: str = "greedy") -> ml_collections.ConfigDict:
    """The configuration of one variant: greedy, sampled or tiny."""
    if variant not in VARIANTS:
        raise ValueError(
            f"configs/eval.py has no variant {variant!r}; it has {', '.join(VARIANTS)}"
        )
    config = defaults(EvalSettings)
    config.benchmarks = ",".join(f"{name}:{file}" for name, file in FILES.items())
    VARIANTS[variant](config)
    return config


def greedy(config: ml_collections.ConfigDict) -> None:
    """Prompts and pixels as in training (configs/onethinker.py)."""
    config.data.prompt_tokens = (1024, 2048, 4096, 8192, 16384)
    config.data.patches = (0, 1024, 4096, 8192, 16384)
    config.data.min_pixels, config.data.max_pixels = 3136, 1048576


def sampled(config: ml_collections.ConfigDict) -> None:
    """pass@k from 8 samples."""
    greedy(config)
    config.samples, config.pass_at = 8, (1, 4, 8)
    config.sampling.temperature = 1.0


def tiny(config: ml_collections.ConfigDict) -> None:
    """The same rows as the tiny training run holds out."""
    config.model = "assets/tiny"
    config.benchmarks = "rows:embedded:test?rows=2160&seed=0"
    config.host_devices, config.prompts = 2, 216
    config.max_tokens, config.decode_halvings = 28, 1
    config.data.template = "plain"
    config.data.prompt_tokens, config.data.patches = (48,), (64,)


VARIANTS = {"greedy": greedy, "sampled": sampled, "tiny": tiny}
