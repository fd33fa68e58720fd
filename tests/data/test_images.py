"""Pictures of any mode to RGB and to patches: equal to transformers' image processor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from g2rpo_jax.data import images
from g2rpo_jax.data.example import BadRow

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def library(settings):
    """transformers' processor with the same settings."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
        patch_size=settings.patch_size,
        merge_size=settings.merge_size,
        temporal_patch_size=settings.temporal_patch_size,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
    )


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    patch=st.sampled_from([4, 14, 16]),
    low=st.integers(1, 30_000),
    room=st.floats(1.0, 30.0),
    seed=st.integers(0, 9),
)
def test_patches_of_any_size_under_any_limits_equal_the_librarys(
    width, height, patch, low, room, seed
):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    settings = images.ImageSettings(min_pixels=low, max_pixels=int(low * room), patch_size=patch)
    try:
        wanted = library(settings)([image], return_tensors="np")
    except ValueError as error:
        assert "aspect ratio" in str(error)
        with pytest.raises(BadRow, match="aspect ratio") as caught:
            images.to_patches(image, settings)
        assert caught.value.reason == "image_aspect"
        return
    patches, grid = images.to_patches(image, settings)
    assert [list(grid)] == wanted["image_grid_thw"].tolist()
    np.testing.assert_array_equal(patches, wanted["pixel_values"])


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_the_fitted_area_keeps_to_the_limits_of_the_release(width, height):
    settings = images.ImageSettings(min_pixels=3136, max_pixels=1048576, patch_size=16)
    if max(width, height) > 200 * min(width, height):
        return
    fitted = images.fitted_size(height, width, settings)
    assert all(edge % 32 == 0 for edge in fitted)
    # Only an edge that is already at its smallest may go beyond the most.
    assert fitted[0] * fitted[1] <= 1048576 or min(fitted) == 32
    assert fitted[0] * fitted[1] >= 1024


def with_transparency(mode):
    """Noise of a mode, half of it transparent, as Pillow opens such files."""
    if mode == "P":
        image = Image.fromarray(noise(40, 60)).convert("P")
        image.info["transparency"] = bytes(range(256))
        return image
    if mode in ("L", "RGB"):
        image = Image.new(mode, (60, 40), 0)
        image.paste(Image.fromarray(noise(40, 30) | 1).convert(mode), (30, 0))
        image.info["transparency"] = 0 if mode == "L" else (0, 0, 0)
        return image
    return Image.fromarray(noise(40, 60, 4), "RGBA").convert(mode)


SETTINGS = images.ImageSettings(min_pixels=1024, max_pixels=2048, patch_size=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB"])
def test_what_is_transparent_shows_white_as_in_the_library(mode):
    image = with_transparency(mode)
    wanted = library(SETTINGS)([image], return_tensors="np")
    patches, _ = images.to_patches(image, SETTINGS)
    np.testing.assert_array_equal(patches, wanted["pixel_values"])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_are_those_of_the_library(mode):
    image = Image.fromarray(noise(40, 60, 3)).convert(mode)
    wanted = library(SETTINGS)([image], return_tensors="np")
    patches, _ = images.to_patches(image, SETTINGS)
    np.testing.assert_array_equal(patches, wanted["pixel_values"])


def test_white_shows_through_by_the_share_of_transparency():
    image = Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8))
    found = np.asarray(images.to_rgb(image))[0].tolist()
    assert found == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]
    premultiplied = image.convert("RGBa")
    assert np.asarray(images.to_rgb(premultiplied))[0].tolist() == found


def grey(values, dtype):
    return np.asarray(images.to_rgb(Image.fromarray(np.array([values], dtype))))[0, :, 0].tolist()


def test_grey_of_16_bits_is_scaled_not_clipped():
    assert grey([0, 257, 32896, 65535], np.uint16) == [0, 1, 128, 255]
    big = Image.frombytes("I;16B", (2, 1), b"\x80\x80\xff\xff")
    assert np.asarray(images.to_rgb(big))[0, :, 0].tolist() == [128, 255]


def test_wide_integers_and_floats_are_brought_to_8_bits():
    assert grey([0, 3, 255], np.int32) == [0, 3, 255]
    assert grey([-5, 32896, 65535], np.int32) == [0, 128, 255]
    assert grey([0, 1 << 20], np.int32) == [0, 255]
    assert grey([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert grey([-1.0, 100.0, 255.0], np.float32) == [0, 100, 255]
    assert grey([0.0, 500.0, 1000.0], np.float32) == [0, 128, 255]
    assert grey([0.0, 0.0], np.float32) == [0, 0]
    with pytest.raises(ValueError, match="not finite"):
        grey([0.0, np.nan], np.float32)
