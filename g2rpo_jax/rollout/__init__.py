"""Rollouts: `generate` for notebooks, `Engine` for loops."""

import dataclasses
import functools

import jax
import numpy as np
from flax import nnx

from g2rpo_jax.data.processor import Processor
from g2rpo_jax.models.qwen3_vl.layout import pack
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.rollout.engine import Engine, Rollout
from g2rpo_jax.rollout.sampler import SamplingConfig

__all__ = ["Engine", "Generation", "Rollout", "SamplingConfig", "generate"]

BUCKET = 32  # prompt tokens, patches and response chunks are rounded up: few programs in a notebook


@dataclasses.dataclass(frozen=True)
class Generation:
    """What `generate` gives back; lists have one entry per response.

    Attributes:
      texts: decoded responses, special tokens left out.
      tokens: int32 arrays of generated token ids, the end token included.
      logps: float32 arrays, log-probability of each token at the sampling temperature.
    """

    texts: list[str]
    tokens: list[np.ndarray]
    logps: list[np.ndarray]


def generate(
    model,
    messages: list[dict],
    responses: int = 8,
    max_tokens: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Generation:
    """Samples responses to one conversation.

    Args:
      model: from `models.load`; its directory holds tokenizer and processor.
      messages: chat messages, e.g. [{"role": "user", "content": [{"type": "image", "image": PIL},
        {"type": "text", "text": "What is this?"}]}]; {"type": "video", "video": path or frames}
        parts likewise (Processor.encode).
      responses: how many to sample.
      max_tokens: at most this many tokens each.
      temperature: 0 is greedy (all responses are then equal).
      seed: the same seed gives the same responses.
    Returns:
      Generation.
    Raises:
      ValueError: if the model has no directory, or an argument is out of range.
    """
    if model.directory is None:
        raise ValueError("this model has no directory, so no tokenizer: use models.load(directory)")
    if responses < 1 or max_tokens < 1:
        raise ValueError(f"{responses=} and {max_tokens=} must be at least 1")
    processor = Processor(model.directory)
    prompt = processor.encode(messages)
    patches = 0 if prompt.pixel_values is None else len(prompt.pixel_values)
    inputs = pack([prompt], model.config, _up(len(prompt.input_ids)), _up(patches))
    graphdef, params = nnx.split(model)
    chunk = min(BUCKET, max_tokens)
    engine = _engine(
        graphdef,
        responses=responses,
        max_tokens=-(-max_tokens // chunk) * chunk,
        chunk=chunk,
        sampling=SamplingConfig(temperature, top_k, top_p),
        eos=processor.eos_ids,
        pad=processor.pad_id,
    )
    out = engine.generate(params, inputs, [0], seed=seed)
    lengths = np.minimum(out.length_PG[0], max_tokens)
    tokens = [out.token_PGT[0, g, :n] for g, n in enumerate(lengths)]
    logps = [out.logp_PGT[0, g, :n] for g, n in enumerate(lengths)]
    return Generation([processor.decode(t) for t in tokens], tokens, logps)


@functools.lru_cache(maxsize=8)  # a second call with the same settings compiles nothing
def _engine(graphdef, **settings) -> Engine:
    return Engine(graphdef, meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1]), **settings)


def _up(n: int) -> int:
    return -(-n // BUCKET) * BUCKET
