"""A small OneThinker-format data set: every problem type, pictures and clips on disk."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

POINTS = (
    '"positive_points": [[20, 30], [40, 50], [60, 70]], "negative_points": [[1, 2], [3, 4], [5, 6]]'
)
# problem, problem type, data type, media, answer, options
KINDS = (
    ("<image> Which is larger?", "multiple choice", "image", 1, "A", ["A. left", "B. right"]),
    ("Six and seven?", "numerical", "text", 0, "13", []),
    ("<image> How far is it?", "regression", "image", 1, "2.5", []),
    ("What is x?", "math", "text", 0, "$$\\frac{1}{2}$$", []),
    ("<image> Read it.", "OCR", "image", 1, "Hello World", []),
    ("<image><image><image> Compare.", "open-ended", "image", 3, "They are alike.", []),
    ("<image> Box it.", "spatial grounding", "image", 1, '{"boxes": [10, 20, 300, 400]}', []),
    ("<video> When?", "temporal grounding", "video", 1, '{"time": [0.5, 1.5]}', []),
    (
        "<video> When and where?",
        "spatial-temporal grounding",
        "video",
        1,
        '{"time": [0.5, 1.5], "boxes": {"1": [10, 20, 300, 400]}}',
        [],
    ),
    (
        "<video> Follow it.",
        "tracking",
        "video",
        1,
        '{"boxes": {"0": [10, 20, 300, 400], "1": [20, 30, 310, 410]}}',
        [],
    ),
    (
        "<image> Outline it.",
        "segmentation",
        "image",
        1,
        f'{{"boxes": [10, 20, 300, 400], {POINTS}}}',
        [],
    ),
    (
        "<video> Outline it.",
        "segmentation",
        "video",
        1,
        f'{{"boxes": [10, 20, 300, 400], {POINTS}, "time": 1.0}}',
        [],
    ),
)


def picture(path: Path, rng: np.random.Generator, low: int = 16, high: int = 48) -> None:
    """A PNG of random pixels and size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(low, high, 2)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def clip(path: Path, rng: np.random.Generator, seconds: int = 2, rate: int = 4) -> None:
    """An MPEG-4 film of 32 x 48 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(seconds * rate):
            pixels = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def rows(folder: Path, count: int = len(KINDS), seed: int = 0) -> list[dict]:
    """`count` rows, the kinds in turn; their media are written below `folder`."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        problem, problem_type, data_type, media, answer, options = KINDS[i % len(KINDS)]
        row = {
            "problem_id": i,
            "problem": problem,
            "problem_reserved_text": problem,
            "data_type": data_type,
            "problem_type": problem_type,
            "options": options,
            "answer": f"<answer>{answer}</answer>",
            "data_source": "made",
        }
        if data_type == "video":
            row["videos"] = [f"./clips/{i}.mp4"]
            clip(folder / row["videos"][0], rng)
        elif media:
            row["images"] = [f"./pictures/{i}_{k}.png" for k in range(media)]
            for name in row["images"]:
                picture(folder / name, rng)
        made.append(row)
    return made


def write(folder: Path, count: int = len(KINDS), seed: int = 0) -> Path:
    """rows.json with its media, in `folder`."""
    path = Path(folder) / "rows.json"
    path.write_text(json.dumps(rows(Path(folder), count, seed)))
    return path
