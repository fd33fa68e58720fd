"""Prompts -> the arrays of a batch of rows, on the host, in NumPy.

Everything that depends on how many images a prompt has and how large they are is worked out here
and becomes an array (positions, interpolation weights, placement), so that the model itself is
compiled once per bucket (S, N) and never asks.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig, VisionConfig


class Prompt(Protocol):
    """What Hugging Face's Qwen3-VL processor returns for one conversation."""

    input_ids: Any  # int [s]
    pixel_values: Any  # float [n, C], or None
    image_grid_thw: Any  # int [images, 3]: frames, patch rows, patch columns; or None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowInputs:
    """The prompts of P rows. Every array leads with P, so rows shard and micro-batch alike.

    N may be 0 (a batch of text); then no vision tower is compiled.
    """

    tokens_PS: jax.Array  # int32, padded on the right
    mask_PS: jax.Array  # bool, True where a token is
    position_P3S: jax.Array  # int32, M-RoPE (time, height, width); 0 at padding
    next_position_P: jax.Array  # int32, largest position + 1: where a response begins
    patches_PNC: jax.Array  # normalised pixels, float32 or what they are computed in; 0 at padding
    patch_hw_PN2: jax.Array  # int32, row and column in the image
    pos_index_PN4: jax.Array  # int32, corners in the grid of learned positions
    pos_weight_PN4: jax.Array  # float32, bilinear weights; 0 at padding
    segment_PN: jax.Array  # int32, image within the row; -1 at padding
    image_index_PS: jax.Array  # int32, which merged image token stands here; -1 for text


def empty(config: Qwen3VLConfig, P: int, S: int, N: int, dtype: Any = np.float32) -> RowInputs:
    """P rows of nothing but padding; patches are kept in `dtype`."""
    return RowInputs(
        tokens_PS=np.zeros((P, S), np.int32),
        mask_PS=np.zeros((P, S), bool),
        position_P3S=np.zeros((P, 3, S), np.int32),
        next_position_P=np.zeros(P, np.int32),
        patches_PNC=np.zeros((P, N, config.vision.patch_features), dtype),
        patch_hw_PN2=np.zeros((P, N, 2), np.int32),
        pos_index_PN4=np.zeros((P, N, 4), np.int32),
        pos_weight_PN4=np.zeros((P, N, 4), np.float32),
        segment_PN=np.full((P, N), -1, np.int32),
        image_index_PS=np.full((P, S), -1, np.int32),
    )


def pack(
    prompts: Sequence[Prompt],
    config: Qwen3VLConfig,
    prompt_tokens: int,
    patches: int,
    dtype: Any = np.float32,
) -> RowInputs:
    """Lays prompts out as rows of `prompt_tokens` tokens and `patches` patches (S and N).

    Images take their places in the order of `image_grid_thw`. A grid of several frames stands at
    video tokens, one run of tokens per frame, as the processor writes them.
    Args:
      prompts: one per row; token ids without padding.
      config: the model's.
      prompt_tokens: S; every prompt must fit.
      patches: N, a multiple of the patches per image token (4); 0 for text only.
      dtype: of the patches: the model's, which rounds them to it at once, takes less memory.
    Raises:
      ValueError: which prompt has no token, too many tokens or patches, a wrong patch size, a grid
        that does not merge, or image tokens that do not match its images.
    """
    merge = config.vision.merge
    if patches % merge:
        raise ValueError(f"patches={patches} must be a multiple of {merge}, one image token each")
    rows = empty(config, len(prompts), prompt_tokens, patches, dtype)
    for p, prompt in enumerate(prompts):
        try:
            _fill_row(rows, p, prompt, config)
        except ValueError as error:
            raise ValueError(f"prompt {p} of {len(prompts)}: {error}") from error
    return rows


def _fill_row(rows: RowInputs, p: int, prompt: Prompt, config: Qwen3VLConfig) -> None:
    tokens = np.asarray(prompt.input_ids).reshape(-1)
    S, N = rows.tokens_PS.shape[1], rows.segment_PN.shape[1]
    if not 0 < len(tokens) <= S:
        raise ValueError(
            f"{len(tokens)} tokens do not fit into a row of 1 to {S}; use a longer bucket "
            "(prompt_tokens), smaller images, or leave the row out"
        )
    grids, pixels = _images(prompt, config.vision)
    if len(pixels) > N:
        raise ValueError(
            f"{len(pixels)} image patches do not fit into {N}; use a larger bucket (patches), "
            "smaller images, or leave the row out"
        )
    n, s = len(pixels), len(tokens)
    visual = (tokens == config.image_token_id) | (tokens == config.video_token_id)
    if visual.sum() * config.vision.merge != n:
        raise ValueError(
            f"{visual.sum()} image tokens, but its images make {n // config.vision.merge}; the "
            "text must hold one run of image tokens per image, as the processor writes it"
        )
    rows.tokens_PS[p, :s] = tokens
    rows.mask_PS[p, :s] = True
    rows.position_P3S[p, :, :s] = mrope_positions(visual, grids, config.vision.spatial_merge_size)
    rows.next_position_P[p] = rows.position_P3S[p].max() + 1
    rows.image_index_PS[p, :s][visual] = np.arange(visual.sum())
    rows.patches_PNC[p, :n] = pixels
    start = 0
    for image, (h, w) in enumerate(grids):
        here = slice(start, start + h * w)
        rows.segment_PN[p, here] = image
        hw, index, weight = _placed(h, w, config.vision.spatial_merge_size, config.vision.grid_side)
        rows.patch_hw_PN2[p, here] = hw
        rows.pos_index_PN4[p, here], rows.pos_weight_PN4[p, here] = index, weight
        start += h * w


@functools.lru_cache(maxsize=256)  # pictures of a few sizes, a packing of all prompts a step
def _placed(h: int, w: int, merge: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What an image's size says of its patches: `patch_positions` and `_interpolation`."""
    hw = patch_positions(h, w, merge).astype(np.int32)
    index, weight = _interpolation(hw, h, w, side)
    return hw, index.astype(np.int32), weight


def _images(prompt: Prompt, vision: VisionConfig) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Grids (patch rows, patch columns) of its frames, and all their patches [n, C]."""
    C = vision.patch_features
    if prompt.pixel_values is None or prompt.image_grid_thw is None:
        return [], np.zeros((0, C), np.float32)
    pixels = np.asarray(prompt.pixel_values, np.float32)
    grids = np.asarray(prompt.image_grid_thw).reshape(-1, 3).astype(np.int64).tolist()
    if pixels.ndim != 2 or pixels.shape[1] != C:
        raise ValueError(
            f"pixel_values has shape {pixels.shape}; this model's patches are [n, {C}]: "
            f"{vision.in_channels} channels x {vision.temporal_patch_size} frames x "
            f"{vision.patch_size}^2 pixels. The processor must be the model's own"
        )
    if sum(t * h * w for t, h, w in grids) != len(pixels):
        raise ValueError(f"image_grid_thw {grids} does not describe {len(pixels)} patches")
    for _, h, w in grids:
        if h < 1 or w < 1 or h % vision.spatial_merge_size or w % vision.spatial_merge_size:
            raise ValueError(
                f"a grid of {h} x {w} patches does not merge by {vision.spatial_merge_size}"
            )
    return [(h, w) for t, h, w in grids for _ in range(t)], pixels


def mrope_positions(visual: np.ndarray, grids: Sequence[tuple[int, int]], merge: int) -> np.ndarray:
    """M-RoPE positions int [3, s] of one prompt.

    Text counts on by one in all three. An image that begins at position p has time p, height
    p + row, width p + column of the merged token; the text behind it goes on at
    p + max(rows, columns).
    Args:
      visual: bool [s], True at image tokens.
      grids: (patch rows, patch columns) of each image, in order.
      merge: spatial_merge_size.
    """
    position = np.zeros((3, len(visual)), np.int64)
    images = iter(grids)
    s = current = 0
    while s < len(visual):
        if not visual[s]:
            text = int(visual[s:].argmax()) or len(visual) - s  # up to the next image, or all
            position[:, s : s + text] = np.arange(current, current + text)
            s, current = s + text, current + text
            continue
        h, w = next(images)
        h, w = h // merge, w // merge
        here = slice(s, s + h * w)
        if not visual[here].all() or len(visual[here]) < h * w:
            raise ValueError(
                f"an image of {h} x {w} tokens is cut off at token {s}: fewer image tokens there"
            )
        position[0, here] = current
        position[1, here] = current + np.repeat(np.arange(h), w)
        position[2, here] = current + np.tile(np.arange(w), h)
        s, current = s + h * w, current + max(h, w)
    return position


def patch_positions(h: int, w: int, merge: int) -> np.ndarray:
    """Row and column int [h * w, 2] of an image's patches, in the processor's order: block by
    block, so that the `merge`^2 patches of one image token are neighbours."""
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1)
    blocks = grid.reshape(h // merge, merge, w // merge, merge, 2)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(h * w, 2)


def _interpolation(hw: np.ndarray, h: int, w: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The four learned positions around each patch and their bilinear weights, [n, 4] each.

    The image is stretched over the whole side x side grid, corner on corner; in float32, as
    transformers does it.
    """
    taps, weights = [], []
    for axis, size in enumerate((h, w)):
        place = hw[:, axis].astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
        low = np.floor(place)
        tap = low.astype(np.int64)[:, None] + np.arange(2)
        taps.append(np.clip(tap, 0, side - 1))
        upper = place - low
        weights.append(np.stack([1 - upper, upper], axis=1))
    index = taps[0][:, :, None] * side + taps[1][:, None, :]
    weight = weights[0][:, :, None] * weights[1][:, None, :]
    return index.reshape(-1, 4), weight.reshape(-1, 4)
