"""The mixture of experts against transformers' Qwen3-VL-MoE on torch, on random small weights."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import Qwen3VLMoeForConditionalGeneration

from g2rpo_jax import models
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, TextConfig, pack
from g2rpo_jax.models.qwen3_vl.experts import mixture, route
from g2rpo_jax.models.qwen3_vl.sizes import SIZES
from g2rpo_jax.parallel import constrain, mesh, rules
from tests.models.test_qwen3_vl_weights import assert_same_parameters, assert_same_tensors, tensors
from tests.models.tiny_qwen3_vl import (
    batch,
    greedy_tokens,
    prompt,
    reference,
    torch_greedy_tokens,
    torch_inputs,
    torch_logits,
)

EXPERTS = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24)
TOLERANCE = 2e-4  # absolute, on logits of order one, as for the dense model
GRIDS = [((4, 6),), ((4, 4), (2, 6))]


@pytest.fixture(scope="module")
def theirs():
    return reference(**EXPERTS)


@pytest.fixture(scope="module")
def directory(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("experts")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ours(directory):
    return models.load(directory)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [prompt(rng, grids) for grids in GRIDS]


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_those_of_transformers(theirs, ours, prompts, side):
    arrays = batch(prompts, side)
    expected, mask = torch_logits(theirs, arrays), arrays["attention_mask"].astype(bool)
    assert 1 < np.abs(expected[mask]).max() < 30
    found = np.asarray(models.logits(ours, **arrays))
    np.testing.assert_allclose(found[mask], expected[mask], rtol=0, atol=TOLERANCE)


def test_gradients_of_a_row_are_those_of_transformers(theirs, ours, prompts, tmp_path):
    """Of the summed log-probabilities of a response: compared tensor by tensor, as files."""
    p, response = prompts[1], np.random.default_rng(1).integers(0, 140, 5)
    row = pack([p], ours.config, 64, 32)
    graphdef, params = nnx.split(ours)

    @jax.jit
    @jax.grad
    def gradient(params):
        model = nnx.merge(graphdef, params)
        hidden_PGTD = model.row_hidden(row, jnp.asarray(response)[None, None])
        logp_PGTV = jax.nn.log_softmax(model.unembed(hidden_PGTD))
        return logp_PGTV[0, 0, np.arange(5), response].sum()

    models.save(nnx.merge(graphdef, gradient(params)), tmp_path / "ours")

    whole = type(p)(**vars(p) | {"input_ids": np.append(p.input_ids, response)})
    logp = theirs(**torch_inputs(batch([whole]))).logits[0, -6:-1].log_softmax(-1)
    logp[np.arange(5), response].sum().backward()
    found = tensors(tmp_path / "ours")
    for name, parameter in theirs.named_parameters():
        a, b = found[name], parameter.grad.numpy()
        a = a.swapaxes(1, 2) if ".experts." in name else a  # as releases have them
        assert np.abs(b).max() > 0, name
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max(), name
        parameter.grad = None


def test_greedy_decoding_gives_the_tokens_of_generate(theirs, ours, prompts):
    rows = pack(prompts, ours.config, 64, 64)
    np.testing.assert_array_equal(
        greedy_tokens(ours, rows, 6), torch_greedy_tokens(theirs, prompts, 6)
    )


@pytest.mark.parametrize("axes", [(1, 1, 8), (1, 8, 1), (2, 2, 2)])
def test_weights_of_both_layouts_come_back_bit_for_bit(directory, ours, axes, tmp_path):
    """A new model of transformers has experts [out, in]; ours are saved as releases are."""
    shardings = functools.partial(rules.sharding_of, mesh.make(mesh.MeshConfig(*axes)))
    found = models.load(directory, shardings=shardings)
    assert_same_parameters(found, ours)
    models.save(found, tmp_path / "ours")
    a, b = tensors(tmp_path / "ours"), tensors(directory)
    turned = {
        name: np.ascontiguousarray(x.swapaxes(1, 2)) if ".experts." in name else x
        for name, x in b.items()
    }
    assert_same_tensors(a, turned)
    assert a["model.language_model.layers.0.mlp.experts.gate_up_proj"].shape == (8, 32, 48)
    assert_same_parameters(models.load(tmp_path / "ours", shardings=shardings), ours)
    again = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path / "ours")
    for name, parameter in again.named_parameters():
        assert np.array_equal(parameter.detach().numpy(), b[name]), name


def test_square_experts_are_read_as_transformers_reads_them(tmp_path):
    theirs = reference(**EXPERTS | {"moe_intermediate_size": 16})  # gate and up together: 32
    theirs.save_pretrained(tmp_path / "theirs")
    models.save(models.load(tmp_path / "theirs"), tmp_path / "ours")
    gate_up = "model.language_model.layers.0.mlp.experts.gate_up_proj"
    a, b = (tensors(tmp_path / name)[gate_up] for name in ("ours", "theirs"))
    assert np.array_equal(a, b)
    again = Qwen3VLMoeForConditionalGeneration.from_pretrained(tmp_path / "ours")
    for (name, x), (_, y) in zip(again.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(x, y), name


def test_each_token_takes_k_experts_ties_to_the_lower_number():
    config = TextConfig(**EXPERTS)
    x_PLD = jax.random.normal(jax.random.key(0), (2, 50, 16))
    router_DE = jax.random.normal(jax.random.key(1), (16, 8))
    weight_PLE = np.asarray(route(config, router_DE, x_PLD))
    score_PLE = np.asarray(jax.nn.softmax(x_PLD @ router_DE, axis=-1))
    best_PLk = np.sort(np.argsort(-score_PLE, axis=-1)[..., :3], axis=-1)
    np.testing.assert_array_equal(np.nonzero(weight_PLE)[2].reshape(2, 50, 3), best_PLk)
    picked = np.take_along_axis(score_PLE, best_PLk, axis=-1)
    expected = picked / picked.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        np.take_along_axis(weight_PLE, best_PLk, axis=-1), expected, rtol=1e-5
    )
    tied = np.asarray(route(config, jnp.zeros((16, 8)), x_PLD))
    assert (tied[..., :3] == np.float32(1 / 3)).all() and (tied[..., 3:] == 0).all()


@pytest.mark.parametrize("axes", [(1, 1, 8), (2, 2, 2)])
def test_experts_over_a_mesh_are_those_of_one_device(axes):
    config = TextConfig(**EXPERTS)
    keys = jax.random.split(jax.random.key(0), 4)
    w = {
        "router_proj": jax.random.normal(keys[0], (16, 8)),
        "experts_up_proj": jax.random.normal(keys[1], (8, 16, 48)) / 4,
        "experts_down_proj": jax.random.normal(keys[2], (8, 24, 16)) / 4,
    }
    x_PLD = jax.random.normal(keys[3], (4, 7, 16))

    def loss(w, x_PLD):
        return (mixture(config, jax.nn.silu, w, x_PLD) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(w, x_PLD)
    devices = mesh.make(mesh.MeshConfig(*axes))
    placed = jax.device_put(w, rules.shardings(w, devices))
    assert placed["experts_up_proj"].addressable_shards[0].data.shape[0] == 8 // axes[2]
    found = jax.jit(jax.value_and_grad(constrain.over(devices, loss), argnums=(0, 1)))(
        placed, jax.device_put(x_PLD, mesh.row_sharding(devices))
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_no_sort_gather_or_scatter_is_lowered():
    """Nothing that Neuron's compiler does not take, forward or backward."""
    config = TextConfig(**EXPERTS)
    shapes = {
        "router_proj": (16, 8),
        "experts_up_proj": (8, 16, 48),
        "experts_down_proj": (8, 24, 16),
    }
    w = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}
    x_PLD = jax.ShapeDtypeStruct((2, 5, 16), jnp.bfloat16)
    gradient = jax.grad(lambda w, x: mixture(config, jax.nn.silu, w, x).sum().astype(jnp.float32))
    text = jax.jit(gradient).lower(w, x_PLD).as_text()
    used = set(re.findall(r"(?:stablehlo|chlo)\.(\w+)", text))
    assert "dot_general" in used and "while" in used
    assert not used & {"sort", "top_k", "gather", "scatter", "case", "if"}


def test_the_config_of_experts_goes_out_and_in(theirs, ours):
    raw = theirs.config.to_dict()
    config = Qwen3VLConfig.from_dict(raw)
    assert config == ours.config and config.text.num_experts == 8
    assert Qwen3VLConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["model_type"] == "qwen3_vl_moe"
    dense = Qwen3VLConfig.from_dict(reference().config.to_dict()).to_dict()
    assert "num_experts" not in dense["text_config"] and dense["model_type"] == "qwen3_vl"
    for change, message in (
        ({"mlp_only_layers": [1]}, "every layer must have experts"),
        ({"norm_topk_prob": False}, "weights add up to one"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok=9 of num_experts=8"),
        ({"num_experts": None, "num_local_experts": None}, "must have num_experts"),
    ):
        with pytest.raises(ValueError, match=message):
            Qwen3VLConfig.from_dict(raw | {"text_config": raw["text_config"] | change})


def test_a_new_model_of_ours_trains_every_expert_it_uses(ours):
    fresh = Qwen3VL(ours.config, nnx.Rngs(0))
    assert fresh.layers.experts_up_proj.get_value().shape == (3, 8, 32, 48)
    assert not hasattr(fresh.layers, "gate_proj")
    assert SIZES["Qwen3-VL-30B-A3B-Instruct"].text.num_experts_per_tok == 8
