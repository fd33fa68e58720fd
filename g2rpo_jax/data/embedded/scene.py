"""Pictures of the embedded task set: real handwritten digits pasted on a 64x64 canvas of 4x4 cells.

The digits are scikit-learn's copy of the UCI set (1797 images of 8x8 pixels), enlarged twofold.
Held-out rows draw from images that training never shows.
"""

import functools
import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # canvas edge in pixels
CELL = 16  # edge of a cell and of a pasted digit; one merged visual token of the tiny model
GRID = SIZE // CELL
BOX_SCALE = 1000  # boxes are given in thousandths of the canvas
TEST_SHARE = 0.2  # of each digit's images
SPLIT_SEED = 20260410  # fixed for ever: another value would move images between the splits
SPLITS = ("train", "test")

BAR_COLOUR = (64, 128, 255)
GRIDLINE_COLOUR = (48, 48, 48)
BAR_BASE = SIZE - CELL  # bars stand on the row of digits that names them
PIXELS_PER_UNIT = 0.5  # a bar of 90 is 45 pixels high


@dataclass(frozen=True)
class Bank:
    """The digit images of one split.

    Fields:
      tiles: per digit 0..9, uint8 [images, 16, 16].
      sources: per digit, the indices of those images in scikit-learn's set.
    """

    tiles: tuple[np.ndarray, ...]
    sources: tuple[tuple[int, ...], ...]


@functools.cache
def digit_bank(split: str) -> Bank:
    """The digit images of `split` ("train" or "test"), divided by a fixed permutation per class.

    Raises:
      ValueError: if `split` is neither.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: the embedded set has {' and '.join(SPLITS)}")
    images, target = _digits()
    # 0..16 ink levels to 0..255 grey, then every pixel twice in both directions.
    grey = np.round(images * (255 / 16)).astype(np.uint8)
    large = grey.repeat(2, axis=1).repeat(2, axis=2)
    tiles, sources = [], []
    for digit in range(10):
        mine = np.flatnonzero(target == digit).tolist()
        random.Random(SPLIT_SEED * 10 + digit).shuffle(mine)
        held_out = round(TEST_SHARE * len(mine))
        chosen = sorted(mine[:held_out] if split == "test" else mine[held_out:])
        tiles.append(large[chosen])
        sources.append(tuple(chosen))
    return Bank(tuple(tiles), tuple(sources))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8] of ink levels 0..16, and which digit each is: what sklearn's load_digits
    gives, from the same file; to import sklearn takes seconds."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


class Canvas:
    """A black 64x64 RGB picture under construction.

    Attributes:
      pixels: uint8 [64, 64, 3].
    """

    def __init__(self) -> None:
        self.pixels = np.zeros((SIZE, SIZE, 3), np.uint8)

    def paste(
        self,
        rng: random.Random,
        bank: Bank,
        digit: int,
        row: int,
        column: int,
        *,
        level: bool = False,
    ) -> tuple[int, int]:
        """Paste a random image of `digit` into a cell, moved by -1, 0 or 1 pixels each way.

        Args:
          level: keep the vertical position, so that a bar's name does not touch the bar.
        Returns:
          (x, y) of the digit's upper left corner in pixels; the digit covers 16x16 from there.
        """
        tiles = bank.tiles[digit]
        tile = tiles[int(rng.random() * len(tiles))]
        x = column * CELL + int(rng.random() * 3) - 1
        y = row * CELL + (0 if level else int(rng.random() * 3) - 1)
        x = min(max(x, 0), SIZE - CELL)
        y = min(max(y, 0), SIZE - CELL)
        region = self.pixels[y : y + CELL, x : x + CELL]
        # Neighbours may overlap by two pixels: the brighter ink stays.
        np.maximum(region, tile[:, :, None], out=region)
        return x, y

    def gridlines(self, values: tuple[int, ...]) -> None:
        """Faint horizontal lines at chart values, the reader's scale."""
        for value in values:
            self.pixels[BAR_BASE - int(value * PIXELS_PER_UNIT)] = GRIDLINE_COLOUR

    def bar(self, column: int, value: int) -> None:
        """A bar of `value` chart units over the given column's name."""
        top = BAR_BASE - int(value * PIXELS_PER_UNIT)
        left = column * CELL + 3
        self.pixels[top:BAR_BASE, left : left + CELL - 6] = BAR_COLOUR

    def image(self) -> Image.Image:
        """The picture as PIL RGB."""
        return Image.fromarray(self.pixels)


def box_of(corner: tuple[int, int]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 in thousandths of the canvas, of the digit pasted at `corner`."""
    x, y = corner
    edges = (x, y, x + CELL, y + CELL)
    return tuple(round(edge * BOX_SCALE / SIZE) for edge in edges)
