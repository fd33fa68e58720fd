"""What an evaluation is asked to do."""

import dataclasses

from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.parallel.mesh import MeshConfig
from g2rpo_jax.rewards import RewardConfig
from g2rpo_jax.rollout.sampler import SamplingConfig

# Fields of the data section that are training's: evaluation reads benchmarks, each row once.
TRAINING_FIELDS = ("train", "test", "workers", "prefetch")


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """One evaluation.

    Attributes:
      model: a Hugging Face Qwen3-VL directory, or the folder of a training run.
      step: which checkpoint of a run; 0 is the newest.
      dtype: what activations are computed in; "auto" asks the back end.
      benchmarks: "NAME:FILE,NAME:FILE;FILE,NAME,..." (evaluate/benchmarks.py); "all" takes every
        benchmark whose usual files are in `data_dir`.
      data_dir: folder of the benchmarks' usual files.
      rows: the first rows of each benchmark that are used; 0 is all.
      samples: G, responses to each prompt and seed.
      seeds: every seed draws its own samples.
      pass_at: k of pass@k, each at most samples x seeds.
      right_from: a response counts as right in pass@k from this score on.
      max_tokens, decode_chunk: tokens of a response at most; of one decoding chunk (0: what suits
        the back end).
      decode_halvings: how often the batch that is being decoded may halve as responses finish. Each
        is a program more to compile for every bucket; 0: all decode until the last has finished.
      prompts: rows decoded together.
      host, hosts: this process takes every hosts-th row, from the host-th on.
      host_devices: on a CPU, devices to divide the host into (0: as XLA_FLAGS says).
      sampling: greedy unless a temperature is set.
      reward: for the metrics "math" and "reward".
    """

    model: str = "models/Qwen3-VL-8B-Instruct"
    step: int = 0
    dtype: str = "auto"
    benchmarks: str = ""
    data_dir: str = ""
    rows: int = 0
    samples: int = 1
    seeds: tuple[int, ...] = (0,)
    pass_at: tuple[int, ...] = (1,)
    right_from: float = 1.0
    max_tokens: int = 4096
    decode_chunk: int = 0
    decode_halvings: int = 3
    prompts: int = 16
    host: int = 0
    hosts: int = 1
    host_devices: int = 0
    sampling: SamplingConfig = SamplingConfig(temperature=0.0)
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    reward: RewardConfig = RewardConfig()

    def __post_init__(self):
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is none of auto, float32, bfloat16")
        for name in ("step", "rows", "decode_chunk", "decode_halvings", "host", "host_devices"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("samples", "max_tokens", "prompts", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.host >= self.hosts:
            raise ValueError(f"host={self.host} must be below hosts={self.hosts}")
        if self.decode_chunk and self.max_tokens % self.decode_chunk:
            raise ValueError(
                f"max_tokens={self.max_tokens} is not a multiple of decode_chunk="
                f"{self.decode_chunk}: responses are decoded in whole chunks"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds} must be different numbers, none below 0")
        made = self.samples * len(self.seeds)
        if self.sampling.temperature == 0 and made > 1:
            raise ValueError(
                f"samples={self.samples} x seeds={self.seeds} at sampling.temperature=0 would all "
                "be equal: set a temperature, or one sample and one seed"
            )
        if any(not 1 <= k <= made for k in self.pass_at):
            raise ValueError(
                f"pass_at={self.pass_at} must lie in 1..{made} (samples x seeds): make more samples"
            )
        if not 0.0 < self.right_from <= 1.0:
            raise ValueError(f"right_from={self.right_from} must lie in (0, 1]")
        for name in TRAINING_FIELDS:
            if getattr(self.data, name) != getattr(DataConfig, name):
                raise ValueError(
                    f"data.{name} is training's: an evaluation reads its rows from "
                    "benchmarks=NAME:FILE"
                )

    def fingerprint(self) -> dict:
        """What decides the responses and their scores, as plain values: predictions made under
        other settings are not mixed with these."""
        data = dataclasses.asdict(self.data)
        for name in (*TRAINING_FIELDS, "max_bad_share", "image_dir"):
            del data[name]
        return {
            "rows": self.rows,
            "samples": self.samples,
            "seeds": list(self.seeds),
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
            "hosts": self.hosts,
            "sampling": dataclasses.asdict(self.sampling),
            "data": {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()},
            "reward": dataclasses.asdict(self.reward),
        }
