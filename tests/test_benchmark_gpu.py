"""The GPU benchmark's shapes are the releases', and its counts are what they say."""

import dataclasses
import json

import jax
import pytest
from flax import nnx

from benchmarks.speed.gpu import workload_of
from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig
from g2rpo_jax.models.qwen3_vl.sizes import SIZES


@pytest.mark.parametrize("size", ["2B", "4B"])
def test_sizes_are_those_of_the_releases(size, tmp_path):
    workload = workload_of(size, prompts=4)
    (tmp_path / "config.json").write_text(json.dumps(workload.config()))
    read, released = Qwen3VLConfig.read(tmp_path), SIZES[f"Qwen3-VL-{size}-Instruct"]
    assert read.vision == released.vision
    length = released.text.max_position_embeddings
    assert dataclasses.replace(read.text, max_position_embeddings=length) == released.text
    params = nnx.state(nnx.eval_shape(lambda: Qwen3VL(released, None)))
    products = sum(x.size for x in jax.tree.leaves(params["layers"]) if x.ndim == 3)
    assert workload.text_parameters == products + params["embedding"].get_value().size


def test_a_decoded_token_reads_weights_and_caches():
    w = workload_of("2B", prompts=4)
    cache = 2 * 28 * 8 * 128 * 2  # bytes of a token's keys and values
    own, prompt = 4 * 8 * 128 * cache, 4 * w.prompt_tokens * cache
    assert w.decode_bytes(shared=True) == 2 * w.text_parameters + own + prompt
    assert w.decode_bytes(shared=False) == 2 * w.text_parameters + own + 8 * prompt
