"""samples.jsonl and the pictures beside it: what the model was asked and what it said."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from g2rpo_jax import metrics

EDGE = 512  # pixels of a thumbnail's longer edge, at most
FRAMES = 8  # frames of a video that are kept, at most
LOSSLESS_BYTES = 24_000  # pictures that are this small as PNG stay exact


class SampleLog:
    """samples.jsonl: whole rows, prompt to rewards, every few steps; pictures under samples/.

    Opening it for a resumed run drops entries of `start` and later. Pictures are named by their
    content, so a picture that is logged again is written once.
    """

    def __init__(self, workdir: Path, start: int):
        self._folder = Path(workdir)
        self._lines = metrics.Lines(self._folder / "samples.jsonl", start=start)
        self._waiting: dict[Path, bytes] = {}  # pictures that could not be written yet

    def write(self, step: int, entries: list[dict]) -> None:
        """Adds one line per entry; what a full disk refuses is kept and written later."""
        self._lines.write({"step": step, **entry} for entry in entries)

    def sync(self) -> None:
        """Puts lines and pictures on the disk; raises OSError if that cannot be."""
        for path in list(self._waiting):
            _put(path, self._waiting[path])
            del self._waiting[path]
        self._lines.sync()

    def image(self, image: Image.Image) -> dict:
        """Keeps a thumbnail of an RGB picture; returns what an entry's `media` says of it.

        Returns:
          {"kind": "image", "width", "height": of the picture in pixels, "file": the thumbnail's
          path from the run folder}.
        """
        return {
            "kind": "image",
            "width": image.width,
            "height": image.height,
            "file": self._keep(image),
        }

    def video(
        self, frame_FHWC: np.ndarray, time_F: Sequence[float], wanted: Sequence[float] = ()
    ) -> dict:
        """Keeps a few frames of a clip.

        Args:
          frame_FHWC: uint8 RGB frames.
          time_F: their times, seconds, rising.
          wanted: times that matter (those the row's answer names): their nearest frames come
            first, frames at even distances fill up to FRAMES.
        Returns:
          {"kind": "video", "width", "height": pixels, "count": frames of the clip,
          "frames": [{"time": seconds, "file": path from the run folder}]}.
        """
        chosen = choose_frames(time_F, wanted)
        return {
            "kind": "video",
            "width": int(frame_FHWC.shape[2]),
            "height": int(frame_FHWC.shape[1]),
            "count": int(frame_FHWC.shape[0]),
            "frames": [
                {"time": float(time_F[f]), "file": self._keep(Image.fromarray(frame_FHWC[f]))}
                for f in chosen
            ],
        }

    def close(self) -> None:
        """Closes the file."""
        try:
            self.sync()
        except OSError as error:
            logging.error("%s: %d pictures are lost (%s)", self._folder, len(self._waiting), error)
        self._lines.close()

    def _keep(self, image: Image.Image) -> str:
        content, ending = encode(image)
        name = f"samples/{hashlib.sha256(content).hexdigest()[:20]}.{ending}"
        path = self._folder / name
        if not path.exists():
            try:
                _put(path, content)
            except OSError:  # the lines' own complaint says enough
                self._waiting[path] = content
        return name


def _put(path: Path, content: bytes) -> None:
    """Writes a picture in one move."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def choose_frames(time_F: Sequence[float], wanted: Sequence[float]) -> list[int]:
    """Indices of at most FRAMES frames, rising: nearest to `wanted` times, then evenly spaced."""
    time_F = np.asarray(time_F, np.float64)
    if not len(time_F):
        return []
    if len(wanted) > FRAMES:
        wanted = [wanted[i] for i in np.linspace(0, len(wanted) - 1, FRAMES).round().astype(int)]
    near = [int(np.abs(time_F - t).argmin()) for t in wanted]
    even = np.linspace(0, len(time_F) - 1, min(FRAMES, len(time_F))).round().astype(int).tolist()
    return sorted(list(dict.fromkeys([*near, *even]))[:FRAMES])


def encode(image: Image.Image) -> tuple[bytes, str]:
    """A thumbnail as file content and file ending: PNG where that is small, else JPEG."""
    image = image.convert("RGB")
    if max(image.size) > EDGE:
        # Very long and thin pictures would round to no pixels at all.
        scale = EDGE / max(image.size)
        size = [max(1, round(edge * scale)) for edge in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    exact = io.BytesIO()
    image.save(exact, "PNG", optimize=True)
    if exact.tell() <= LOSSLESS_BYTES:
        return exact.getvalue(), "png"
    lossy = io.BytesIO()
    image.save(lossy, "JPEG", quality=82)
    return min((exact.getvalue(), "png"), (lossy.getvalue(), "jpg"), key=lambda kind: len(kind[0]))


def write_json(path: Path, content: dict) -> None:
    """Writes a JSON file in one move: a reader sees the old one or the new one."""
    temporary = Path(path).with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
