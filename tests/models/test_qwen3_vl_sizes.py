"""The table of releases: shapes and parameter counts as transformers has them, without weights."""

import math
from pathlib import Path

import jax
import pytest
import torch
from flax import nnx
from transformers import AutoConfig, AutoModelForImageTextToText

from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.models.qwen3_vl.sizes import SIZES, config_of
from g2rpo_jax.models.qwen3_vl.tensor_names import leaves

# What the files of each release hold, as the hub counts it.
RELEASED = {
    "Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen3-VL-30B-A3B-Instruct": 31_070_754_032,
    "Qwen3-VL-32B-Instruct": 33_357_390_064,
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_are_those_of_transformers(name):
    config = config_of(name)
    shapes = nnx.state(nnx.eval_shape(lambda: Qwen3VL(config, None)))
    ours = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    with torch.device("meta"):
        raw = config.to_dict()
        theirs = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(raw.pop("model_type"), **raw)
        )
    assert ours == sum(parameter.numel() for parameter in theirs.parameters()) == RELEASED[name]
    names = {tensor for leaf in leaves(config).values() for tensor in leaf.names}
    assert names == {tensor for tensor, _ in theirs.named_parameters()}


def test_a_release_is_found_by_the_last_part_of_a_path(tmp_path):
    for path in ("Qwen/Qwen3-VL-8B-Instruct", tmp_path / "Qwen3-VL-8B-Thinking"):
        assert config_of(path) == SIZES["Qwen3-VL-8B-Instruct"]


def test_files_come_before_the_name():
    config = config_of(Path(__file__).parents[2] / "assets" / "tiny")
    assert config.text.hidden_size == 128 and config not in SIZES.values()


def test_an_unknown_name_says_what_is_known(tmp_path):
    with pytest.raises(ValueError, match="has no config.json.*'Qwen3-VL-9B' is no release.*32B-In"):
        config_of(tmp_path / "Qwen3-VL-9B")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not readable JSON"):
        config_of(tmp_path)
