"""Adapters: nothing at first, then W + alpha / r A B, merged into weights for transformers."""

import jax
import numpy as np
import pytest
from flax import nnx
from transformers import Qwen3VLForConditionalGeneration

from g2rpo_jax import models
from g2rpo_jax.models import trained
from g2rpo_jax.models.qwen3_vl import Qwen3VL, lora, pack
from tests import tiny
from tests.models import tiny_qwen3_vl as theirs

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def prompts():
    rng = np.random.default_rng(0)
    return [theirs.prompt(rng, [(4, 6)]), theirs.prompt(rng)]


def logits(model):
    rows = pack(prompts(), model.config, 24, 24)
    return np.asarray(model.unembed(model.prompt_hidden(rows)))[np.asarray(rows.mask_PS)]


def drawn(model, std: float = 0.3):
    """Random numbers in place of B's zeros."""
    rng = np.random.default_rng(1)
    for name, param in vars(model.layers).items():
        if name.endswith("_lora_b"):
            param.set_value(np.float32(std * rng.normal(size=param.get_value().shape)))


@pytest.fixture
def directory(tmp_path):
    theirs.reference().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_an_adapted_model_begins_as_the_model_it_adapts(directory):
    model = models.load(directory)
    before = logits(model)
    lora.add(model, 4, 8.0, TARGETS)
    np.testing.assert_array_equal(logits(model), before)


def test_merged_adapters_give_the_same_logits_to_transformers_too(directory, tmp_path):
    model = models.load(directory)
    before = logits(model)
    lora.add(model, 4, 8.0, TARGETS)
    drawn(model)
    adapted = logits(model)
    assert np.abs(adapted - before).max() > 0.1
    base = np.asarray(model.layers.q_proj.get_value())
    a, b = model.layers.q_proj_lora_a.get_value(), model.layers.q_proj_lora_b.get_value()
    lora.merge(model)
    want = base + 2.0 * np.einsum("nir,nro->nio", a, b)  # alpha / r = 2
    np.testing.assert_allclose(model.layers.q_proj.get_value(), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits(model), adapted, rtol=2e-4, atol=2e-4)
    models.save(model, tmp_path / "merged")
    opened = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    arrays = theirs.batch(prompts())
    their = theirs.torch_logits(opened, arrays)[arrays["attention_mask"].astype(bool)]
    np.testing.assert_allclose(their, adapted, rtol=1e-3, atol=1e-3)


def test_only_adapters_are_trained_and_shapes_alone_will_do():
    model = nnx.merge(*tiny.model())
    options = dict(lora_rank=4, lora_alpha=8.0, lora_targets=("q_proj", "down_proj"))
    graphdef, params, frozen = trained.split(model, **options)
    names = {".".join(path): leaf.get_value().shape for path, leaf in nnx.to_flat_state(params)}
    assert names == {
        "layers.q_proj_lora_a": (2, 32, 4),
        "layers.q_proj_lora_b": (2, 4, 32),
        "layers.down_proj_lora_a": (2, 48, 4),
        "layers.down_proj_lora_b": (2, 4, 32),
    }
    shapes = nnx.eval_shape(lambda: Qwen3VL(tiny.CONFIG, None))
    abstract = trained.split(shapes, **options)
    same = jax.tree.map(lambda x, y: x.shape == y.shape and x.dtype == y.dtype, params, abstract[1])
    assert all(jax.tree.leaves(same))
    whole = nnx.to_flat_state(nnx.state(nnx.merge(graphdef, params, frozen)))
    assert len(whole) == len(nnx.to_flat_state(tiny.model()[1])) + 4


def test_what_cannot_be_adapted_is_an_error():
    model = nnx.merge(*tiny.model())
    with pytest.raises(ValueError, match="model.lora_targets: 'p_proj' is none of .*q_proj"):
        lora.add(model, 4, 8.0, ("p_proj",))
    lora.add(model, 4, 8.0, ("q_proj",))
    with pytest.raises(ValueError, match="q_proj has an adapter already"):
        lora.add(model, 4, 8.0, ("q_proj",))
