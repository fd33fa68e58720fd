"""What the host works out, against transformers' own helpers."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig, pack
from tests.models.tiny_qwen3_vl import IMAGE, batch, prompt, reference, torch_inputs

THEIRS = reference()
CONFIG = Qwen3VLConfig.from_dict(THEIRS.config.to_dict())
SIDE = st.sampled_from([2, 4, 6, 10])


@given(
    grids=st.lists(st.tuples(SIDE, SIDE), max_size=5),
    seed=st.integers(0, 99),
    side=st.sampled_from(["left", "right"]),
)
def test_positions_are_those_of_transformers(grids, seed, side):
    rng = np.random.default_rng(seed)
    prompts = [prompt(rng, grids, words=(1, 6)), prompt(rng, [(2, 4)])]  # the other pads it
    rows = pack(prompts, CONFIG, 256, 512)
    inputs = torch_inputs(batch(prompts, side))
    del inputs["pixel_values"]
    position_3BL, delta_B1 = THEIRS.model.get_rope_index(**inputs)
    for b, p in enumerate(prompts):
        n = len(p.input_ids)
        expected = position_3BL[:, b, inputs["attention_mask"][b].bool()].numpy()
        np.testing.assert_array_equal(rows.position_P3S[b, :, :n], expected)
        # The first generated token stands at the number of tokens plus transformers' delta.
        assert rows.next_position_P[b] == n + delta_B1[b, 0]


@given(grids=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_patch_places_and_interpolation_are_those_of_transformers(grids, seed):
    p = prompt(np.random.default_rng(seed), grids)
    rows = pack([p], CONFIG, 256, 512)
    n = len(p.pixel_values)
    thw = torch.from_numpy(p.image_grid_thw)
    index, weight = get_vision_interpolation_indices_and_weights(
        thw, num_grid_per_side=7, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    table = np.random.default_rng(seed).normal(size=49)
    # Weights of one may sit on either of two equal corners: what is looked up must be equal.
    found = (table[rows.pos_index_PN4[0, :n]] * rows.pos_weight_PN4[0, :n]).sum(1)
    np.testing.assert_allclose(found, (table[index] * weight.numpy()).sum(1), rtol=0, atol=1e-5)
    places = get_vision_position_ids(thw, 2)
    np.testing.assert_array_equal(rows.patch_hw_PN2[0, :n], places.numpy())
    sizes = [h * w for h, w in grids]
    np.testing.assert_array_equal(rows.segment_PN[0, :n], np.repeat(np.arange(len(grids)), sizes))
    assert (rows.segment_PN[0, n:] == -1).all() and (rows.pos_weight_PN4[0, n:] == 0).all()


def test_image_tokens_are_numbered_in_order_and_text_is_none():
    rows = pack([prompt(np.random.default_rng(0), [(4, 4), (2, 6)])], CONFIG, 64, 64)
    here = rows.tokens_PS == IMAGE
    np.testing.assert_array_equal(rows.image_index_PS[here], np.arange(4 + 3))
    assert (rows.image_index_PS[~here] == -1).all()


def one(grids=((4, 4),), **changes):
    return SimpleNamespace(**vars(prompt(np.random.default_rng(0), grids)) | changes)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (one(input_ids=np.arange(65)), "prompt 1 of 2: 65 tokens do not fit into a row of 1 to 64"),
        (one(input_ids=np.arange(0)), "prompt 1 of 2: 0 tokens do not fit"),
        (one([(8, 10)]), "prompt 1 of 2: 80 image patches do not fit into 64"),
        (one(input_ids=np.arange(9)), "prompt 1 of 2: 0 image tokens, but its images make 4"),
        (one(input_ids=np.full(5, IMAGE)), "5 image tokens, but its images make 4"),
        (one(pixel_values=np.zeros((16, 95))), r"pixel_values has shape \(16, 95\).* \[n, 96\]"),
        (one(pixel_values=np.zeros((12, 96))), r"\[\[1, 4, 4\]\] does not describe 12 patches"),
        (one(image_grid_thw=[[1, 16, 1]]), "a grid of 16 x 1 patches does not merge by 2"),
        (one(input_ids=[IMAGE, 1, IMAGE, IMAGE, IMAGE]), "2 x 2 tokens is cut off at token 0"),
    ],
)
def test_a_prompt_that_does_not_fit_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        pack([one(), bad], CONFIG, 64, 64)


def test_patches_must_be_whole_image_tokens():
    with pytest.raises(ValueError, match="patches=10 must be a multiple of 4"):
        pack([one()], CONFIG, 64, 10)


def test_patches_packed_in_the_dtype_of_the_model_are_what_it_would_round_them_to():
    rng = np.random.default_rng(0)
    prompts = [prompt(rng, [(2, 4)])]
    wide, narrow = (pack(prompts, CONFIG, 64, 8, dtype) for dtype in (np.float32, jnp.bfloat16))
    assert narrow.patches_PNC.dtype == jnp.bfloat16
    rounded = jax.jit(lambda x: x.astype(jnp.bfloat16))(wide.patches_PNC)
    np.testing.assert_array_equal(narrow.patches_PNC, rounded)
