"""Every program that a configuration runs, abstract, for the Neuron back end."""

import dataclasses

from jax.sharding import Mesh

from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig
from g2rpo_jax.platform import BACKENDS
from g2rpo_jax.train.programs import Call, abstract
from g2rpo_jax.train.sft import NLL


def buckets(config: RunConfig) -> list[tuple[int, int]]:
    """(prompt tokens, patches) of every bucket of a config, the smallest with images first.

    A bucket without patches has no vision tower, so it is a part of the others.
    """
    patches = sorted(n for n in config.data.patches if n) or [0]
    return [(tokens, n) for tokens in sorted(config.data.prompt_tokens) for n in patches]


def calls(
    config: RunConfig, model_config: Qwen3VLConfig, mesh: Mesh, tokens: int, patches: int
) -> list[Call]:
    """A training run's programs, and the step of supervised warm-up, for one bucket."""
    programs = abstract(config, model_config, mesh, BACKENDS["neuron"])
    supervised = dataclasses.replace(
        config,
        responses=1,
        objective=NLL,
        shaping=dataclasses.replace(config.shaping, entropy_weight=0.0),
    )
    warm_up = abstract(supervised, model_config, mesh, BACKENDS["neuron"])
    update = {call.name: call for call in warm_up.calls(tokens, patches)}["update"]
    return [*programs.calls(tokens, patches), dataclasses.replace(update, name="sft_update")]
