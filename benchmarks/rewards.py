"""Scores per second of every problem type.

    python benchmarks/rewards.py [--seconds 1.0]

One Scorer as the trainer has it (batches of 448 responses), right, partly
right and wrong answers behind 600 characters of thinking. Rows: built-in rewards in the training
process; symbolic comparison by math-verify and a custom reward in two children.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from g2rpo_jax import rewards

BATCH = 448
THINKING = "<thinking>" + "because of this, I say " * 26
CUSTOM = "def reward(response, answer, problem_type, data_type):\n    return 0.5\n"


def boxes(frames: int, shift: int = 0) -> dict[str, list[int]]:
    """One box for each of `frames` seconds."""
    return {str(i): [10 * i + shift, 20, 300 + shift, 400] for i in range(1, frames + 1)}


def cases() -> dict[str, tuple[str, str, list[str]]]:
    """name -> (problem type, truth, answers)."""
    sentence = "The quick brown fox jumped over the lazy dogs near the river bank at noon"
    paragraph = " ".join([sentence + "."] * 7)  # about 100 words
    points = {"positive_points": [[90, 300], [200, 500], [300, 800]]}
    points["negative_points"] = [[10, 10], [600, 300], [900, 950]]
    segment = {"boxes": [35, 227, 437, 932], **points}
    when = {"time": [1.0, 12.5]}

    def as_json(*values):
        return [json.dumps(value) for value in values]

    return {
        "multiple choice": ("multiple choice", "B", ["B", "(B)", "C"]),
        "numerical": ("numerical", "1234.5", ["1,234.50", "12", "many"]),
        "regression": ("regression", "2.55", ["2.5", "3.1", "9"]),
        "math, plain numbers": ("math", "60", ["60", "$60$", "61"]),
        "OCR, 15 words": ("OCR", sentence, [sentence, sentence[9:], "no"]),
        "OCR, 100 words": ("OCR", paragraph, [paragraph, paragraph[99:], "no"]),
        "open-ended, 15 words": ("open-ended", sentence, [sentence, sentence[9:], "no"]),
        "open-ended, 100 words": ("open-ended", paragraph, [paragraph, paragraph[99:], "no"]),
        "spatial grounding": (
            "spatial grounding",
            '{"boxes": [35, 227, 437, 932]}',
            as_json({"boxes": [35, 227, 437, 932]}, {"boxes": [30, 200, 400, 900]}, {}),
        ),
        "temporal grounding": (
            "temporal grounding",
            json.dumps(when),
            as_json(when, {"time": [2, 9.5]}, {}),
        ),
        "spatial-temporal, 12 frames": (
            "spatial-temporal grounding",
            json.dumps(when | {"boxes": boxes(12)}),
            as_json(when | {"boxes": boxes(12)}, when | {"boxes": boxes(9, 20)}, when),
        ),
        "tracking, 30 frames": (
            "tracking",
            json.dumps({"boxes": boxes(30)}),
            as_json({"boxes": boxes(30)}, {"boxes": boxes(20, 20)}, {"boxes": {}}),
        ),
        "segmentation, image": (
            "segmentation",
            json.dumps(segment),
            as_json(segment, segment | {"boxes": [30, 200, 400, 900]}, {}),
        ),
        "segmentation, video": (
            "segmentation",
            json.dumps(segment | {"time": 1.5}),
            as_json(segment | {"time": 1.5}, segment | {"time": 3.0}, {}),
        ),
    }


def rate(scorer: rewards.Scorer, problem_type: str, row: tuple[str, list[str]], least_s: float):
    """(scores a second, milliseconds of one batch), the best of the batches in `least_s`."""
    truth, answers = row
    data_type = "video" if "time" in truth else "image"
    items = []
    for i in range(BATCH):
        # No two texts are equal: what is read once is remembered.
        answer = answers[i % len(answers)].replace("{", "{" + " " * (i % 97 + 1), 1)
        said = f"{THINKING}{i}</thinking>\n<answer>{answer}</answer>"
        items.append(rewards.Item(said, truth, problem_type, data_type))
    scorer.score_batch(items[:8])  # starts children, if any
    best, stop = float("inf"), time.perf_counter() + least_s
    while time.perf_counter() < stop:
        start = time.perf_counter()
        scorer.score_batch(items)
        best = min(best, time.perf_counter() - start)
    return len(items) / best, 1000.0 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each row")
    least_s = parser.parse_args().seconds
    print(f"{len(os.sched_getaffinity(0))} cores; batches of {BATCH} responses\n")
    print("| problem type | sound, scores/s | release, scores/s | ms a batch (sound) |")
    print("| --- | ---: | ---: | ---: |")
    for name, (problem_type, truth, answers) in cases().items():
        found = []
        for mode in ("sound", "release"):
            scorer = rewards.Scorer(rewards.RewardConfig(mode=mode))
            found.append(rate(scorer, problem_type, (truth, answers), least_s))
            scorer.close()
        print(f"| {name} | {found[0][0]:,.0f} | {found[1][0]:,.0f} | {found[0][1]:.1f} |")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "benchmark_reward.py").write_text(CUSTOM)
        os.chdir(folder)
        scorer = rewards.Scorer(rewards.RewardConfig(custom="benchmark_reward:reward"))
        scores, batch_ms = rate(scorer, "OCR", ("a", ["a"]), least_s)
        print(f"| custom reward (2 children) | {scores:,.0f} | | {batch_ms:.1f} |")
        scorer.close()
        os.chdir("/")
    # Distinct pairs: equal ones would be asked once. No repetition: they would be remembered.
    scorer = rewards.Scorer()
    scorer.score_batch([(f"<answer>1/{i}</answer>", "0.3", "math") for i in (2, 3, 5, 7)])
    items = [
        (f"<answer>\\frac{{{i}}}{{{i + 3}}}</answer>", f"{i}/{i + 3}", "math") for i in range(300)
    ]
    start = time.perf_counter()
    scores = scorer.score_batch(items)
    assert all(score.accuracy == 1.0 for score in scores)
    scores_per_s = len(items) / (time.perf_counter() - start)
    print(f"| math, distinct fractions (2 children) | {scores_per_s:,.0f} | | |")
    scorer.close()


if __name__ == "__main__":
    main()
