"""The whole model against transformers' Qwen3-VL on torch, in float32, on random small weights."""

import functools

import numpy as np
import pytest
import torch
from flax import nnx

from g2rpo_jax import models
from g2rpo_jax.models.qwen3_vl import pack
from tests.models.tiny_qwen3_vl import (
    VIDEO,
    batch,
    greedy_tokens,
    prompt,
    reference,
    torch_greedy_tokens,
    torch_inputs,
    torch_logits,
)

TOLERANCE = 2e-4  # absolute, on logits of order one; what is seen is about 1e-5

GRIDS = {
    0: [(), ()],
    1: [((4, 6),), ((8, 2),)],
    2: [((4, 4), (2, 6)), ((6, 4), (2, 2))],
    5: [((2, 2), (4, 2), (2, 6), (4, 4), (2, 4)), ((6, 2), (2, 2), (2, 2), (2, 4), (4, 4))],
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Makes, once each: (transformers' model, the directory it was saved to), untied and tied."""

    @functools.cache
    def make(tied: bool):
        theirs = reference(tied)
        directory = tmp_path_factory.mktemp("model")
        theirs.save_pretrained(directory)
        return theirs, directory

    return make


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def pair(request, saved):
    """(transformers' model, ours loaded from what it saved)."""
    theirs, directory = saved(request.param)
    return theirs, models.load(directory)


@pytest.fixture(scope="module")
def untied(saved):
    theirs, directory = saved(False)
    return theirs, models.load(directory)


def prompts_with(images, seed=0):
    rng = np.random.default_rng(seed)
    return [prompt(rng, grids) for grids in GRIDS[images]]


@nnx.jit
def jitted_logits(model, rows):
    return model.unembed(model.prompt_hidden(rows))


def logits(model, rows):
    return np.asarray(jitted_logits(model, rows))


def assert_same_logits(theirs, ours, prompts, side):
    arrays = batch(prompts, side)
    expected = torch_logits(theirs, arrays)
    mask = arrays["attention_mask"].astype(bool)
    assert 1 < np.abs(expected[mask]).max() < 30  # or the tolerance would say nothing
    found = np.asarray(models.logits(ours, **arrays))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[mask], expected[mask], rtol=0, atol=TOLERANCE)
    assert (found[~mask] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("images", [0, 1, 2, 5])
def test_logits_are_those_of_transformers(pair, images, side):
    assert_same_logits(*pair, prompts_with(images), side)


def test_a_batch_may_mix_prompts_with_any_number_of_images(pair):
    prompts = [prompts_with(5)[0], prompts_with(0)[0]]
    assert_same_logits(*pair, prompts, "left")


def test_every_layer_of_text_and_vision_is_that_of_transformers(untied):
    theirs, ours = untied
    prompts = prompts_with(5)
    blocks, layers = [], []
    visual, language = theirs.model.visual, theirs.model.language_model
    hooks = [b.register_forward_hook(lambda m, i, out: blocks.append(out)) for b in visual.blocks]
    # What enters layer i + 1 (or the final norm) is layer i's output with DeepStack added.
    hooks += [
        m.register_forward_pre_hook(lambda m, inputs: layers.append(inputs[0]))
        for m in [*language.layers[1:], language.norm]
    ]
    with torch.no_grad():
        theirs(**torch_inputs(batch(prompts)))
    for hook in hooks:
        hook.remove()

    rows = pack(prompts, ours.config, 64, 64)
    found_blocks, found_layers = nnx.jit(lambda model, rows: model.layer_outputs(rows))(ours, rows)
    assert len(blocks) == len(found_blocks) == 4 and len(layers) == len(found_layers) == 3
    for expected, found in zip(blocks, np.asarray(found_blocks), strict=True):
        real = rows.segment_PN >= 0  # transformers strings all patches of the batch together
        np.testing.assert_allclose(found[real], expected.numpy(), rtol=0, atol=TOLERANCE)
    for expected, found in zip(layers, np.asarray(found_layers), strict=True):
        for row, p in enumerate(prompts):
            n = len(p.input_ids)
            np.testing.assert_allclose(
                found[row, :n], expected[row, :n].numpy(), rtol=0, atol=TOLERANCE
            )


def test_image_tokens_and_deepstack_features_are_those_of_transformers(untied):
    theirs, ours = untied
    prompts = prompts_with(5)
    arrays = torch_inputs(batch(prompts))
    with torch.no_grad():
        expected = theirs.model.visual(arrays["pixel_values"], grid_thw=arrays["image_grid_thw"])
    rows = pack(prompts, ours.config, 64, 64)
    tower = nnx.jit(lambda model, rows: model.vision(rows, model.dtype)[:2])
    merged, deepstack = tower(ours, rows)
    real = rows.segment_PN[:, ::4] >= 0
    found = [np.asarray(merged)[real], *np.asarray(deepstack)[:, real]]
    assert len(found) == 1 + len(expected.deepstack_features) == 3
    for a, b in zip(found, [expected.pooler_output, *expected.deepstack_features], strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=TOLERANCE)


def test_the_frames_of_a_video_stand_at_its_runs_of_video_tokens(untied):
    theirs, ours = untied
    rng = np.random.default_rng(3)
    p = prompt(rng, [(4, 6), (4, 6)], token=VIDEO)
    ids, pixels = torch.from_numpy(p.input_ids)[None], torch.from_numpy(p.pixel_values)
    p.image_grid_thw = np.array([[2, 4, 6]])  # one video of two frames
    with torch.no_grad():
        expected = theirs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels,
            video_grid_thw=torch.from_numpy(p.image_grid_thw),
            mm_token_type_ids=2 * (ids == VIDEO).int(),
        ).logits
    found = logits(ours, pack([p, p], ours.config, 64, 64))[:1, : len(p.input_ids)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE)


def test_greedy_decoding_gives_the_tokens_of_generate(untied):
    theirs, ours = untied
    prompts = prompts_with(2)
    rows = pack(prompts, ours.config, 64, 64)
    np.testing.assert_array_equal(
        greedy_tokens(ours, rows, 6), torch_greedy_tokens(theirs, prompts, 6)
    )


def test_bfloat16_products_stay_near_float32(saved):
    # bfloat16 keeps 8 bits: about 0.4 % a rounding, and some dozens of them add up.
    _, directory = saved(False)
    narrow, wide = (
        models.load(directory, d, param_dtype="float32") for d in ("bfloat16", "float32")
    )
    rows = pack(prompts_with(2), wide.config, 64, 64)
    found, expected = logits(narrow, rows), logits(wide, rows)
    assert narrow.embedding.dtype == wide.embedding.dtype == "float32"
    assert found.dtype == "float32"  # whatever the products, logits are float32
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
