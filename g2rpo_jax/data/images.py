"""Pictures to patches, bit for bit as transformers' torch-free Qwen2-VL image processor does it.

Own NumPy and Pillow code because importing the library's costs seconds at every start; a parity
test holds the two together.
"""

import json
import math
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image

from g2rpo_jax.data.example import BadRow

MAX_ASPECT = 200  # the library's own limit


@dataclass(frozen=True)
class ImageSettings:
    """The fields of a preprocessor_config.json that decide the patches.

    Fields:
      min_pixels, max_pixels: area that an image is resized into, keeping its aspect ratio.
      patch_size: edge of a patch in pixels.
      merge_size: patches per edge of a merged visual token.
      temporal_patch_size: frames per patch; a still image is repeated.
      mean, std: per channel, applied after `rescale_factor`.
      resample: Pillow's filter number (3 is bicubic).
    """

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    rescale_factor: float = 1 / 255
    resample: int = 3


def read_json(path: str) -> dict:
    """The JSON object of a model directory's file, empty where there is no such file.

    Raises:
      ValueError: naming the file, if it is not JSON.
    """
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None


def load_settings(directory: str) -> ImageSettings:
    """Read preprocessor_config.json, or processor_config.json as newer transformers write it.

    Raises:
      ValueError: if neither is there, or a size is missing or not positive.
    """
    path = os.path.join(directory, "preprocessor_config.json")
    if os.path.exists(path):
        fields = read_json(path)
    else:
        path = os.path.join(directory, "processor_config.json")
        if not os.path.exists(path):
            raise ValueError(
                f"{directory}: no preprocessor_config.json and no processor_config.json to say how "
                "images become patches; copy one from the model's repository"
            )
        fields = read_json(path).get("image_processor", {})
    size = fields.get("size") or {}
    known = {
        "min_pixels": fields.get("min_pixels", size.get("shortest_edge")),
        "max_pixels": fields.get("max_pixels", size.get("longest_edge")),
        "mean": fields.get("image_mean"),
        "std": fields.get("image_std"),
    }
    for name in ("patch_size", "merge_size", "temporal_patch_size", "rescale_factor", "resample"):
        known[name] = fields.get(name)
    known = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in known.items()
        if value is not None
    }
    settings = ImageSettings(**known)
    if min(settings.patch_size, settings.merge_size, settings.temporal_patch_size) < 1:
        raise ValueError(f"{path}: patch, merge and temporal sizes must be at least 1: {settings}")
    return settings


def fitted_size(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """Height and width in pixels after resizing: multiples of patch x merge, area in the limits.

    Raises:
      BadRow: if one edge is more than 200 times the other (Qwen's rule).
    """
    factor = settings.patch_size * settings.merge_size
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise BadRow(
            "image_aspect",
            f"image of {width}x{height} pixels: aspect ratio above {MAX_ASPECT}; crop it",
        )
    fitted = [round(edge / factor) * factor for edge in (height, width)]
    if fitted[0] * fitted[1] > settings.max_pixels:
        shrink = math.sqrt(height * width / settings.max_pixels)
        fitted = [
            max(factor, math.floor(edge / shrink / factor) * factor) for edge in (height, width)
        ]
    elif fitted[0] * fitted[1] < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (height * width))
        fitted = [math.ceil(edge * grow / factor) * factor for edge in (height, width)]
    return fitted[0], fitted[1]


def to_patches(
    image: Image.Image, settings: ImageSettings
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """One picture as flattened patches, in the order in which 2x2 neighbours stand together.

    Args:
      image: any mode; converted to RGB.
    Returns:
      float32 [patches, 3 * temporal * patch * patch] and (1, patch rows, patch columns).
    """
    image = to_rgb(image)
    height, width = fitted_size(image.height, image.width, settings)
    # The library resizes always; without a change of size Pillow's result is the same picture.
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), resample=settings.resample)
    # The same roundings as the library's: double for the scale, single from there on. Channels
    # first, so that the inner loops are long.
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float64, order="C")
    values = (pixels * settings.rescale_factor).astype(np.float32)
    values -= np.float32(settings.mean).reshape(3, 1, 1)
    values /= np.float32(settings.std).reshape(3, 1, 1)
    patch, merge, frames = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    rows, columns = height // patch, width // patch
    values = values.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    values = values.transpose(
        1, 4, 2, 5, 0, 3, 6
    )  # rows, columns, row in, column in, channel, y, x
    values = np.broadcast_to(values[:, :, :, :, :, None], (*values.shape[:5], frames, patch, patch))
    return values.reshape(rows * columns, 3 * frames * patch * patch), (1, rows, columns)


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB: what is transparent shows white, as Qwen's loader has it.

    Grey of 16 bits is divided by 257, so that white stays white. Wider integers and floats hold
    no scale of their own: integers up to 255 and floats up to 1 are taken as the full range, floats
    up to 255 as they are, integers up to 65535 as 16 bits, anything else is scaled by its largest.
    Raises:
      ValueError: for pixels that are not finite, or a mode that Pillow cannot convert.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # RGBa and La hold colours already multiplied; Pillow divides on the way to RGBA and LA.
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """uint8 [height, width] of a picture of wide integers or floats; see `to_rgb`."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds pixels that are not finite")
    most = values.max()
    if image.mode.startswith("I;16"):
        full = 65535.0
    elif image.mode == "F" and most <= 1:
        full = 1.0
    elif most <= 255:
        full = 255.0
    elif image.mode == "I" and most <= 65535:
        full = 65535.0
    else:
        full = most
    return (values.clip(0, full) * (255 / full) + 0.5).astype(np.uint8)
