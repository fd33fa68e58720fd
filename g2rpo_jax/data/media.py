"""Media files to decoded pictures and clips; whatever cannot be used is a `BadRow` with its reason.

Paths come from data files and so are untrusted: they stay inside their folder, sizes are read from
the header before anything is decoded, and only formats that decode without other programs are
opened.
"""

import io
import os
import stat
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from g2rpo_jax.data import images, video
from g2rpo_jax.data.example import BadRow, Example, Media
from g2rpo_jax.data.video import Clip, VideoSettings

# Formats that Pillow decodes by itself (JPEG includes MPO). Not among them: EPS and PDF, which
# start Ghostscript, and formats without a signature of their own.
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP",
)  # fmt: skip
MOST_PIXELS = 89_478_485  # above it Pillow itself complains on opening
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Limits:
    """What may be decoded, and how much of it.

    Fields:
      max_image_pixels: height x width of a picture as its header says; at most MOST_PIXELS.
      video: frames per second and the limits of clips.
    """

    max_image_pixels: int = 2**26
    video: VideoSettings = VideoSettings()


@dataclass(frozen=True)
class Opened:
    """The decoded media of a row, in the order of their markers."""

    images: tuple[Image.Image, ...]
    videos: tuple[Clip, ...]


def resolve(
    path: str, root: str, allow_outside: bool = False, kind: str = "image", where: str = ""
) -> str:
    """The real path of a media file that a row names.

    Args:
      path: as the row has it; relative ones start from `root`.
      root: the folder of the data set's media; "" is the working directory.
      allow_outside: take absolute paths, "..", and links that lead out of `root`.
      kind: "image" or "video", for the reason.
      where: file and row, for the message.
    Raises:
      BadRow: missing_image / missing_video, path_outside, not_a_file (a folder or a device).
    """
    start = f"{where}: {kind} {_shown(path)}"
    if not path or "\0" in path:
        raise BadRow(f"missing_{kind}", f"{start} is no path")
    base = os.path.realpath(root or ".")
    found = os.path.realpath(os.path.join(base, path))
    # The path as written first: whether an outside file exists is not for a data file to learn.
    if not allow_outside and (os.path.isabs(path) or not _inside(found, base)):
        raise BadRow(
            "path_outside",
            f"{start} leads out of the folder {base}; move the file there, or allow it with "
            "data.allow_outside_paths=True",
        )
    try:
        mode = os.stat(found).st_mode
    except OSError:
        raise BadRow(
            f"missing_{kind}",
            f"{start} does not exist in {base}; check the media folder (data.image_dir)",
        ) from None
    if not stat.S_ISREG(mode):
        raise BadRow("not_a_file", f"{start} is a folder or a device, not a file")
    return found


def _inside(path: str, base: str) -> bool:
    return path.startswith(base.rstrip(os.sep) + os.sep)


def open_media(example: Example, limits: Limits) -> Opened:
    """Decodes all media of a row, each once.

    Raises:
      BadRow: for the first that is missing, broken, or over a limit.
    """
    return Opened(
        tuple(open_image(image, limits, example.where) for image in example.images),
        tuple(open_video(clip, limits, example.where) for clip in example.videos),
    )


def open_image(source: Media, limits: Limits, where: str = "") -> Image.Image:
    """One picture, upright and as RGB; the first frame of an animation.

    Args:
      source: a path, a file's bytes, or a PIL image.
    Raises:
      BadRow: missing_image, unreadable_image, empty_image, not_an_image, image_too_large,
        image_aspect, truncated_image, broken_image.
    """
    name = f"{where}: image {_shown(source)}"
    try:
        if isinstance(source, Image.Image):
            _check_size(source, limits, name)
            return _upright_rgb(source, name)
        with Image.open(_file(source, "image", name), formats=FORMATS) as file:
            _check_size(file, limits, name)
            return _upright_rgb(file, name)
    except BadRow:
        raise
    except UnidentifiedImageError:
        raise BadRow(
            "not_an_image", f"{name} is no image of a known format ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadRow("image_too_large", f"{name}: {error}") from None
    except OSError as error:
        reason = "truncated_image" if "truncated" in str(error) else "broken_image"
        raise BadRow(reason, f"{name} cannot be decoded ({error}); fetch it again") from None
    # A damaged file makes Pillow's parsers fail in any way: struct.error, IndexError, KeyError, ...
    except Exception as error:
        raise BadRow(
            "broken_image",
            f"{name} cannot be decoded ({type(error).__name__}: {error}); fetch it again",
        ) from None


def _file(source: str | bytes, kind: str, name: str) -> str | io.BytesIO:
    """What a decoder opens, after a look whether there is anything in it."""
    if isinstance(source, bytes):
        if not source:
            raise BadRow(f"empty_{kind}", f"{name} has no bytes")
        return io.BytesIO(source)
    try:
        found = os.stat(source)
    except (OSError, ValueError):
        raise BadRow(f"missing_{kind}", f"{name} does not exist") from None
    if not stat.S_ISREG(found.st_mode):
        raise BadRow("not_a_file", f"{name} is a folder or a device, not a file")
    if not found.st_size:
        raise BadRow(f"empty_{kind}", f"{name} is an empty file; fetch it again")
    if not os.access(source, os.R_OK):
        raise BadRow(f"unreadable_{kind}", f"{name} may not be read by this user")
    return source


def _check_size(image: Image.Image, limits: Limits, name: str) -> None:
    """Refuses by the header's size, before any pixel is decoded."""
    width, height = image.size
    if width * height > limits.max_image_pixels:
        raise BadRow(
            "image_too_large",
            f"{name} has {width} x {height} pixels; data.max_image_pixels is "
            f"{limits.max_image_pixels}: shrink the file, or raise the limit",
        )
    if min(width, height) < 1:
        raise BadRow("broken_image", f"{name} has {width} x {height} pixels")
    if max(width, height) / min(width, height) > images.MAX_ASPECT:
        raise BadRow(
            "image_aspect",
            f"{name} has {width} x {height} pixels: one edge is more than {images.MAX_ASPECT} "
            "times the other, which Qwen's models refuse; crop it",
        )


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    try:
        rgb = images.to_rgb(image)
    except ValueError as error:
        message = f"{name} of mode {image.mode} has no RGB form: {error}"
        raise BadRow("image_mode", message) from None
    turn = TURNS.get(_orientation(image))
    rgb = rgb if turn is None else rgb.transpose(turn)
    # Not the file's own object, which loses its pixels when it is closed.
    return image.copy() if rgb is image else rgb


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or the tags are damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    # Damaged tags say nothing of the pixels, and make the parser fail in many ways.
    except Exception:
        return 1


def open_video(source: Media | tuple, limits: Limits, where: str = "") -> Clip:
    """One clip: sampled, resized frames.

    Args:
      source: a path, a file's bytes, or a tuple of pictures: frames that were sampled before, at
        `limits.video.fps`.
    Raises:
      BadRow: missing_video, empty_video, and what `video_file.read` and, for frames, `open_image`
        give.
    """
    if isinstance(source, tuple | list):
        return _open_frames(source, limits, where)
    name = f"{where}: video {_shown(source)}"
    if not isinstance(source, str | bytes):
        raise BadRow("not_a_video", f"{name} is neither a path nor a file's bytes")
    _file(source, "video", name)
    from g2rpo_jax.data import video_file  # PyAV takes a while to load, and few data sets need it

    return video_file.read(source, limits.video, name)


def _open_frames(source: tuple, limits: Limits, where: str) -> Clip:
    """A clip of pictures, `limits.video.fps` of them a second; each is resized when opened."""
    settings = limits.video
    numbers = video.sample(len(source), settings.fps, settings)
    frames, size, fitted = [], None, None
    for number in numbers.tolist():
        frame = np.asarray(open_image(source[number], limits, f"{where}: frame {number + 1}"))
        if size is None:
            size = frame.shape[:2]
            fitted = video.fitted_size(len(numbers), *size, settings)
        elif frame.shape[:2] != size:
            raise BadRow(
                "broken_video",
                f"{where}: frame {number + 1} of a video has {_by(frame)} pixels, the first "
                f"{size[1]} x {size[0]}; resize them to one size",
            )
        frames.append(video.resized(frame, *fitted, settings.image.resample))
    if not frames:
        raise BadRow("empty_video", f"{where}: a video is a list of no frames")
    return Clip(np.stack(frames), numbers / settings.fps, size)


def _by(frame: np.ndarray) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


def _shown(source: object) -> str:
    if isinstance(source, bytes):
        return f"of {len(source)} bytes"
    if isinstance(source, Image.Image):
        return f"of mode {source.mode}"
    text = str(source)
    return text if len(text) <= 120 else text[:117] + "..."
