"""Models: load and save Hugging Face directories, and logits for a look in a notebook."""

import functools
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from g2rpo_jax.models import qwen3_vl
from g2rpo_jax.models.qwen3_vl.config import read_json, require_directory
from g2rpo_jax.platform import Backend
from g2rpo_jax.tables import lookup


def load(directory: str | Path, dtype: str = "float32", **options: Any) -> nnx.Module:
    """The model of a Hugging Face directory; its `model_type` chooses the architecture (MODELS).

    Args:
      directory: config.json, *.safetensors, tokenizer and processor files.
      dtype: of weights and matrix products: "float32" or "bfloat16".
      options: of the architecture's own `load`: `param_dtype`, `shardings`.
    Raises:
      ValueError: what is missing or wrong, where, and what is expected.
    """
    directory = Path(directory)
    require_directory(directory)
    kind = read_json(directory / "config.json").get("model_type", "(none)")
    return lookup(MODELS, kind, kind="model_type in config.json").load(directory, dtype, **options)


def suit(model: nnx.Module, backend: Backend, attention: str = "auto") -> None:
    """Chooses, in place, the forms of the same computation that a back end takes best.

    Args:
      attention: kernel of the prompts' attention; "auto": the back end's.
    """
    model.embedding_gradient = backend.embedding_gradient
    model.attention = backend.attention if attention == "auto" else attention
    model.unrolled = model.config.text.num_hidden_layers <= backend.unroll_layers


def save(model: nnx.Module, directory: str | Path, dtype: str | None = None) -> None:
    """Writes a directory that `load` and transformers read: config, weights, and copies of the
    tokenizer and processor files of `model.directory`.

    Args:
      model: any of MODELS.
      directory: made if missing.
      dtype: of the weights on disk; None: as in memory.
    """
    lookup(MODELS, model.model_type, kind="model type").save(model, directory, dtype)


def logits(
    model: nnx.Module,
    input_ids: Any,
    attention_mask: Any,
    pixel_values: Any = None,
    image_grid_thw: Any = None,
    pixel_values_videos: Any = None,
    video_grid_thw: Any = None,
) -> jax.Array:
    """Next-token logits for a processor's batch: float32 [B, L, V].

    For looks and checks: all logits live at once; training and sampling go through rows.
    Args:
      input_ids: int [B, L], padded on either side.
      attention_mask: [B, L], 1 where a token is.
      pixel_values: float [n, C], the patches of all images of the batch, in order; or None.
      image_grid_thw: int [images, 3]; or None.
      pixel_values_videos, video_grid_thw: the same for the videos, whose grids have several steps
        in time, each a run of video tokens of its own.
    Returns:
      logits of token l + 1 at place l; 0 at padding.
    Raises:
      ValueError: if images or videos and their tokens do not match, naming the prompt.
    """
    media = [
        _Media("image", model.config.image_token_id, pixel_values, image_grid_thw),
        _Media("video", model.config.video_token_id, pixel_values_videos, video_grid_thw),
    ]
    prompts, mask = _split_batch(model.config, input_ids, attention_mask, media)
    # A few sizes only, so that calls with other prompts find the program compiled.
    S = 64 * -(-max(len(prompt.input_ids) for prompt in prompts) // 64)
    most = max(0 if prompt.pixel_values is None else len(prompt.pixel_values) for prompt in prompts)
    step = 16 * model.config.vision.merge
    rows = qwen3_vl.pack(prompts, model.config, S, step * -(-most // step))
    graphdef, params = nnx.split(model)
    logits_BSV = np.asarray(_row_logits(graphdef, params, rows))
    logits_BLV = np.zeros((*mask.shape, logits_BSV.shape[-1]), logits_BSV.dtype)
    for b, mask_L in enumerate(mask):
        logits_BLV[b, mask_L] = logits_BSV[b, : mask_L.sum()]
    return jnp.asarray(logits_BLV)


class _Prompt(NamedTuple):
    input_ids: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None


class _Media:
    """All images, or all videos, of a batch, taken one after the other."""

    def __init__(self, kind: str, token: int, pixels: Any, grids: Any):
        self.kind, self.token = kind, token
        self.grids = np.zeros((0, 3), int) if grids is None else np.asarray(grids)
        self.pixels = pixels if pixels is None else np.asarray(pixels)
        self.taken = self.patch = 0

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Grid [3] and patches of the next."""
        if self.taken == len(self.grids):
            raise ValueError(f"more {self.kind} tokens than its {self.taken} {self.kind}s make")
        grid = self.grids[self.taken]
        self.taken, first = self.taken + 1, self.patch
        self.patch += int(grid.prod())
        return grid, self.pixels[first : self.patch]


def _split_batch(config, input_ids, attention_mask, media: list[_Media]):
    """A processor's batch as unpadded prompts, each with its own media; and the mask [B, L]."""
    ids, mask = np.asarray(input_ids), np.asarray(attention_mask).astype(bool)
    if ids.ndim != 2 or ids.shape != mask.shape:
        raise ValueError(f"input_ids {ids.shape} and attention_mask {mask.shape} must be [B, L]")
    prompts = []
    for b in range(len(ids)):
        tokens = ids[b][mask[b]]
        try:
            pixels, grids = _media_of(tokens, config.vision.merge, media)
        except ValueError as error:
            raise ValueError(f"prompt {b} of {len(ids)}: {error}") from None
        prompts.append(_Prompt(tokens, pixels, grids))
    for kind in media:
        if left := len(kind.grids) - kind.taken:
            raise ValueError(f"{left} of {len(kind.grids)} {kind.kind}s have no {kind.kind} tokens")
    return prompts, mask


def _media_of(tokens: np.ndarray, merge: int, media: list[_Media]):
    """Patches and grids of one prompt's media, in the order of its tokens; None where none."""
    visual = tokens[np.isin(tokens, [kind.token for kind in media])]
    found, i = [], 0
    while i < len(visual):
        kind = next(kind for kind in media if kind.token == visual[i])
        grid, pixels = kind.take()
        run = visual[i : i + grid.prod() // merge]
        if (run != kind.token).any() or len(run) * merge != grid.prod():
            raise ValueError(
                f"{(run == kind.token).sum()} {kind.kind} tokens do not match the next {kind.kind} "
                f"of the batch, whose grid {grid.tolist()} makes {grid.prod() // merge}"
            )
        found.append((pixels, grid))
        i += len(run)
    if not found:
        return None, None
    return np.concatenate([pixels for pixels, _ in found]), np.stack([grid for _, grid in found])


@functools.partial(jax.jit, static_argnums=0)
def _row_logits(graphdef, params, rows) -> jax.Array:
    model = nnx.merge(graphdef, params)
    return model.unembed(model.prompt_hidden(rows))


# By Hugging Face's model_type.
MODELS: dict[str, ModuleType] = {"qwen3_vl": qwen3_vl, "qwen3_vl_moe": qwen3_vl}
