"""Videos, alone and among images: positions and logits are those of transformers' Qwen3-VL."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax import models
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig, pack
from tests.models.tiny_qwen3_vl import (
    END,
    IMAGE,
    MERGE,
    PATCH_FEATURES,
    START,
    VIDEO,
    padded,
    reference,
)

TOLERANCE = 2e-4  # absolute, on logits of order one, as for images
SIDE = st.sampled_from([2, 4, 6])
IMAGES = st.tuples(st.just("image"), st.just(1), SIDE, SIDE)
VIDEOS = st.tuples(st.just("video"), st.integers(1, 4), SIDE, SIDE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(transformers' model, ours loaded from what it saved)."""
    theirs = reference()
    directory = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(directory)
    return theirs, models.load(directory)


def words(rng):
    return rng.integers(0, 140, rng.integers(1, 6))


def conversation(rng, media):
    """A prompt as the processor lays it out: `media` is (kind, steps, rows, columns) in order."""
    runs, pixels = [], []
    for kind, t, h, w in media:
        token = IMAGE if kind == "image" else VIDEO
        runs.append(words(rng))
        for _ in range(t):  # each step of a video has its seconds before it
            seconds = words(rng) if kind == "video" else []
            runs += [seconds, [START], [token] * (h * w // MERGE**2), [END]]
        pixels.append(rng.normal(size=(t * h * w, PATCH_FEATURES)).astype(np.float32))
    runs.append(words(rng))
    return SimpleNamespace(
        input_ids=np.concatenate(runs).astype(np.int64),
        pixel_values=np.concatenate(pixels) if pixels else None,
        image_grid_thw=np.array([grid for _, *grid in media]) if media else None,
        media=[(kind, grid, p) for (kind, *grid), p in zip(media, pixels, strict=True)],
    )


def batch(prompts, side="left"):
    """What transformers' processor returns for them: images and videos apart."""
    arrays = padded(prompts, side)
    every = [medium for p in prompts for medium in p.media]
    for kind, values, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        if of_kind := [(grid, pixels) for k, grid, pixels in every if k == kind]:
            arrays[grids] = np.array([grid for grid, _ in of_kind])
            arrays[values] = np.concatenate([pixels for _, pixels in of_kind])
    return arrays


def torch_inputs(arrays):
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    ids = inputs["input_ids"]
    return inputs | {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


BATCH = [
    [("video", 2, 4, 4)],
    [("image", 1, 4, 2), ("video", 3, 2, 4), ("image", 1, 2, 2)],
    [],
    [("video", 1, 2, 2), ("video", 2, 4, 2)],
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_videos_images_and_text_are_those_of_transformers(pair, side):
    theirs, ours = pair
    rng = np.random.default_rng(0)
    arrays = batch([conversation(rng, media) for media in BATCH], side)
    with torch.no_grad():
        expected = theirs(**torch_inputs(arrays)).logits.numpy()
    found = np.asarray(models.logits(ours, **arrays))
    mask = arrays["attention_mask"].astype(bool)
    assert 1 < np.abs(expected[mask]).max() < 30  # or the tolerance would say nothing
    np.testing.assert_allclose(found[mask], expected[mask], rtol=0, atol=TOLERANCE)


CONFIG = Qwen3VLConfig.from_dict(reference().config.to_dict())


@given(
    media=st.lists(st.one_of(IMAGES, VIDEOS), max_size=4),
    seed=st.integers(0, 99),
    side=st.sampled_from(["left", "right"]),
)
def test_positions_are_those_of_transformers(pair, media, seed, side):
    theirs, _ = pair
    rng = np.random.default_rng(seed)
    prompts = [conversation(rng, media), conversation(rng, [("video", 2, 2, 4)])]
    rows = pack(prompts, CONFIG, 320, 640)
    inputs = torch_inputs(batch(prompts, side))
    for name in ("pixel_values", "pixel_values_videos"):
        inputs.pop(name, None)
    position_3BL, delta_B1 = theirs.model.get_rope_index(**inputs)
    for b, p in enumerate(prompts):
        n = len(p.input_ids)
        expected = position_3BL[:, b, inputs["attention_mask"][b].bool()].numpy()
        np.testing.assert_array_equal(rows.position_P3S[b, :, :n], expected)
        assert rows.next_position_P[b] == n + delta_B1[b, 0]


def test_the_steps_of_a_video_do_not_see_each_other_in_the_tower():
    rng = np.random.default_rng(0)
    rows = pack([conversation(rng, [("image", 1, 2, 2), ("video", 3, 2, 4)])], CONFIG, 64, 64)
    assert rows.segment_PN[0].tolist() == [0] * 4 + [1] * 8 + [2] * 8 + [3] * 8 + [-1] * 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(video_grid_thw=np.array([[2, 4, 2]])),
            r"prompt 0 of 1: 3 video tokens do not .* grid \[2, 4, 2\] makes 4",
        ),
        (dict(video_grid_thw=None), "prompt 0 of 1: more video tokens than its 0 videos make"),
        (dict(video_grid_thw=np.array([[3, 2, 2]] * 2)), "1 of 2 videos have no video tokens"),
        (
            dict(image_grid_thw=np.array([[1, 2, 2]]), pixel_values=np.zeros((4, PATCH_FEATURES))),
            "1 of 1 images have no image tokens",
        ),
    ],
)
def test_videos_and_tokens_that_differ_are_named(pair, change, message):
    arrays = batch([conversation(np.random.default_rng(0), [("video", 3, 2, 2)])])
    with pytest.raises(ValueError, match=message):
        models.logits(pair[1], **arrays | change)
