"""Which frames of a video are taken, their size and patches: the rules of Qwen3-VL's processor.

What differs from transformers: Pillow's bicubic filter in place of torch's (a pixel differs by one
level of 255 at most), and a clip of one frame is taken.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.images import MAX_ASPECT, ImageSettings, read_json, to_rgb


@dataclasses.dataclass(frozen=True)
class VideoSettings:
    """How clips become frames and patches: a video_preprocessor_config.json and the limits.

    Fields:
      fps: frames sampled per second of video.
      min_frames, max_frames: bounds of their number; never more than the file has.
      min_pixels, max_pixels: bounds of frames x height x width after resizing.
      frame_pixels: bound of height x width after resizing; 0: none but `max_pixels`.
      max_seconds: longer files are refused.
      max_decoded_pixels: bound of the decoder's work, in frames x height x width as they are in the
        file; 4e10 are about 100 seconds of one core.
      outer_marks: keep the chat template's vision marks around the marks of each step, as
        transformers 5 writes a video; without them it is as transformers 4 and vLLM write it.
      image: patch size, merging, mean and so on, as for pictures.
    """

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 4 * 32 * 32
    max_pixels: int = 24576 * 32 * 32
    frame_pixels: int = 768 * 32 * 32
    max_seconds: float = 3600.0
    max_decoded_pixels: float = 4e10
    outer_marks: bool = True
    image: ImageSettings = ImageSettings()


@dataclasses.dataclass(frozen=True)
class Clip:
    """Sampled frames of one video.

    Fields:
      frames: uint8 [F, height, width, 3].
      seconds: float64 [F], when each frame is shown.
      size: height and width of the video itself, in pixels.
    """

    frames: np.ndarray
    seconds: np.ndarray
    size: tuple[int, int]

    @property
    def duration(self) -> float:
        """Seconds from the first to the last sampled frame."""
        return float(self.seconds[-1] - self.seconds[0])


def load_settings(directory: str, image: ImageSettings) -> VideoSettings:
    """Read video_preprocessor_config.json, or its part of processor_config.json.

    Where a model directory has neither, Qwen3-VL's own values hold, with the pictures' patch size.
    Args:
      image: the pictures' settings, for what the file leaves open.
    """
    fields = read_json(os.path.join(directory, "video_preprocessor_config.json"))
    if not fields:
        fields = read_json(os.path.join(directory, "processor_config.json")).get(
            "video_processor", {}
        )
    size = fields.get("size") or {}
    same = ("patch_size", "merge_size", "temporal_patch_size", "rescale_factor", "resample")
    own = {name: fields[name] for name in same if fields.get(name) is not None}
    for name in ("mean", "std"):
        if fields.get(f"image_{name}") is not None:
            own[name] = tuple(fields[f"image_{name}"])
    image = dataclasses.replace(image, **own)
    token = (image.patch_size * image.merge_size) ** 2
    known = {
        "fps": fields.get("fps"),
        "min_frames": fields.get("min_frames"),
        "max_frames": fields.get("max_frames"),
        "min_pixels": size.get("shortest_edge", 4 * token),
        "max_pixels": size.get("longest_edge", 24576 * token),
        # Qwen's own loader caps every frame; transformers does so unless told otherwise soon.
        "frame_pixels": 0
        if fields.get("cap_pixels_per_frame") is False
        else (fields.get("max_video_tokens") or 768) * token,
    }
    known = {name: value for name, value in known.items() if value is not None}
    return VideoSettings(image=image, **known)


def sample(frames: int, rate: float, settings: VideoSettings) -> np.ndarray:
    """Numbers int [F] of the frames to take from a video of `frames` at `rate` per second."""
    wanted = int(frames / rate * settings.fps)
    wanted = min(max(wanted, settings.min_frames), settings.max_frames, frames)
    return np.linspace(0, frames - 1, wanted).round().astype(int)


def fitted_size(frames: int, height: int, width: int, settings: VideoSettings) -> tuple[int, int]:
    """Height and width of every frame after resizing: multiples of patch x merge.

    Raises:
      BadRow: if one edge is more than 200 times the other.
    """
    image = settings.image
    factor = image.patch_size * image.merge_size
    frames = max(frames, image.temporal_patch_size)
    most = settings.max_pixels
    if settings.frame_pixels:
        share = min(settings.frame_pixels, settings.max_pixels // frames)
        most = max(share, int(settings.min_pixels * 1.05)) * frames
    if height < factor or width < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise BadRow(
            "video_aspect", f"video of {width}x{height} pixels: aspect ratio above {MAX_ASPECT}"
        )
    fitted = [round(edge / factor) * factor for edge in (height, width)]
    whole = round(frames / image.temporal_patch_size) * image.temporal_patch_size
    if whole * fitted[0] * fitted[1] > most:
        shrink = math.sqrt(frames * height * width / most)
        fitted = [
            max(factor, math.floor(edge / shrink / factor) * factor) for edge in (height, width)
        ]
    elif whole * fitted[0] * fitted[1] < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (frames * height * width))
        fitted = [math.ceil(edge * grow / factor) * factor for edge in (height, width)]
    return fitted[0], fitted[1]


def to_patches(clip: Clip, settings: VideoSettings) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A clip as flattened patches: pairs of frames are one patch deep, the last frame is repeated.

    Returns:
      float32 [patches, 3 * temporal * patch * patch] and (time, patch rows, patch columns).
    """
    image = settings.image
    height, width = fitted_size(len(clip.frames), *clip.size, settings)
    frames = clip.frames
    if frames.shape[1:3] != (height, width):
        frames = np.stack([resized(frame, height, width, image.resample) for frame in frames])
    depth, patch, merge = image.temporal_patch_size, image.patch_size, image.merge_size
    if short := -len(frames) % depth:
        frames = np.concatenate([frames, np.repeat(frames[-1:], short, axis=0)])
    time, rows, columns = len(frames) // depth, height // patch, width // patch
    values = np.empty(
        (time, rows // merge, columns // merge, merge, merge, 3, depth, patch, patch), np.float32
    )
    for t in range(time):  # one step at a time: the float copy of a whole video is large
        part = _normalised(frames[t * depth : (t + 1) * depth], image)
        part = part.reshape(depth, 3, rows // merge, merge, patch, columns // merge, merge, patch)
        values[t] = part.transpose(2, 5, 3, 6, 1, 0, 4, 7)
    return values.reshape(time * rows * columns, -1), (time, rows, columns)


def _normalised(frames: np.ndarray, image: ImageSettings) -> np.ndarray:
    """Frames uint8 [F, height, width, 3] as float32 [F, 3, height, width] around zero.

    Scale and shift in one, in single precision, as the library's video half does it; its image half
    takes two steps, with other roundings.
    """
    full = np.float32(1 / image.rescale_factor)
    values = np.moveaxis(frames, -1, 1).astype(np.float32, order="C")
    values -= (np.float32(image.mean) * full).reshape(3, 1, 1)
    values /= (np.float32(image.std) * full).reshape(3, 1, 1)
    return values


def timestamps(clip: Clip, settings: VideoSettings) -> list[float]:
    """Seconds of each step in time: the middle between its first and its last frame."""
    depth = settings.image.temporal_patch_size
    seconds = list(clip.seconds)
    seconds += [seconds[-1]] * (-len(seconds) % depth)
    return [(seconds[i] + seconds[i + depth - 1]) / 2 for i in range(0, len(seconds), depth)]


def resized(frame: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """One frame uint8 [height, width, 3] by Pillow's filter number `resample`."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), resample=resample))


def from_frames(
    frames: Sequence | np.ndarray, settings: VideoSettings, fps: float | None = None
) -> Clip:
    """A clip of frames that were sampled before.

    Args:
      frames: PIL images of one size, or uint8 [F, height, width, 3].
      fps: of these frames; default `settings.fps`.
    Raises:
      ValueError: if there are none, or they differ in size, or in their number exceed max_frames.
    """
    if isinstance(frames, np.ndarray):
        stack = frames
    else:
        pictures = [np.asarray(to_rgb(frame)) for frame in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError("the frames of a video differ in size; resize them to one")
        stack = np.stack(pictures) if pictures else np.zeros((0, 1, 1, 3), np.uint8)
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8 or not len(stack):
        raise ValueError(
            "a video of frames is uint8 [frames, height, width, 3], "
            f"not {stack.dtype} {list(stack.shape)}"
        )
    if len(stack) > settings.max_frames:
        raise ValueError(f"{len(stack)} frames; at most {settings.max_frames} are taken")
    seconds = np.arange(len(stack)) / (fps or settings.fps)
    return Clip(stack, seconds, stack.shape[1:3])
