"""Hostile answers over all problem types: every score finite and in range, nothing hangs.

    python benchmarks/fuzz_rewards.py [--count 20000] [--mode release] [--deadline_s 1.0]

Prints wall time, failures by kind, the range of each part and the slowest batch; exits with 1 if a
score is out of range or a built-in reward raised an exception.
"""

import argparse
import collections
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from g2rpo_jax import rewards
from g2rpo_jax.rewards import parse

BATCH = 500
CUSTOM = r"""
import os, re, sys

def reward(response, answer, problem_type, data_type):
    "A reward as careless as they come: it does what the response provokes."
    if "explode" in response:
        return bool(re.match(r"(\w+\s?)+$", "a" * 40 + "!"))
    if "exit" in response:
        os._exit(3)
    if "memory" in response:
        return len("x" * (2 << 30))
    print(response)
    return float(response[:9]) if response[:1].isdigit() else None
"""
TRUTHS = {
    ("multiple choice", "image"): ["B", "AC", "yes"],
    ("numerical", "image"): ["3", "1,234.5", "-0.01"],
    ("regression", "image"): ["2.55", "0.0"],
    ("math", "image"): ["60", "\\frac{1}{2}", "$x^2+1$", "(1, 2)"],
    ("OCR", "image"): ["if a < b then c / d", "word " * 50],
    ("open-ended", "text"): ["The cats sat on a mat.", "Paris", "\u6771\u4eac"],
    ("spatial grounding", "image"): ['{"boxes": [35, 227, 437, 932]}'],
    ("temporal grounding", "video"): ['{"time": [12.3, 25.7]}'],
    ("spatial-temporal grounding", "video"): [
        '{"time": [1, 3], "boxes": {"1": [0, 0, 10, 10], "2": [5, 5, 20, 20], "3": [0, 0, 9, 9]}}'
    ],
    ("tracking", "video"): ['{"boxes": {"1": [0, 0, 10, 10], "2": [5, 5, 20, 20]}}'],
    ("segmentation", "image"): [
        '{"boxes": [0, 0, 10, 10], "positive_points": [[1, 1], [2, 2], [3, 3]], '
        '"negative_points": [[4, 4], [5, 5], [6, 6]]}'
    ],
    ("segmentation", "video"): [
        '{"time": 1.5, "boxes": [0, 0, 10, 10], "positive_points": [[1, 1], [2, 2], [3, 3]], '
        '"negative_points": [[4, 4], [5, 5], [6, 6]]}'
    ],
    ("counting", "image"): ["27", "0"],
    ("detection", "image"): ['{"boxes": [[0, 0, 10, 10], [5, 5, 20, 20]], "scores": [1, 1]}'],
    ("trajectory", "image"): ['{"points": [[0, 0], [10, 10], [10, 900]]}'],
    ("label set", "text"): ["sinus rhythm; left axis deviation"],
    ("GUI action", "image"): [
        '{"action": "click", "boxes": [0, 0, 10, 10]}',
        '{"action": "type", "text": "flights to Rome"}',
    ],
    ("tool calls", "text"): ['{"calls": [{"name": "f", "parameters": {"x": [1, true]}}]}'],
}
FRAGMENTS = (
    "NaN Infinity -Infinity 1e400 -1e-400 0 -0 007 1_000 0x10 \uff13 \u0664\u0662 \u00b2 "
    "\u221e null true "
    '[] {} [[]] [1,2,3,4] "" "1" \' ` * $ $$ \\( \\) \\boxed{2} \\frac{1}{0} \\sqrt{-1} \\text{B} '
    "\\left( \\begin{matrix} ^ _ ** // ! % \u202e \u200b \x00 \x1b[31m \ud800 \udfff \ufeff "
    "\r\n < > / & "
    '</answer> <answer> <thinking> </thinking> <think> < answer > {"boxes": {"time": "1": : , '
    "__import__('os')._exit(1) ${7*7} {{7*7}} %s%n ; DROP B A C yes 60 1/2 x y"
).split(" ")
RARE = [  # each provokes another limit; some cost a deadline
    "9**9**9**9",
    "$9^{9^{9^{9}}}$",
    "$10000000!$",
    "\\sum_{n=1}^{10^{9}} n^{n}",
    "$" + "{" * 1000 + "2" + "}" * 1000 + "$",
    "(" * 1200 + "2" + ")" * 1200,
    "x^{" * 300 + "2" + "}" * 300,
    "\\frac{1}{" * 300 + "2" + "}" * 300,
    "+".join(f"x_{{{i}}}^{{{i}}}" for i in range(150)),
    "[" * 40_000,
    '{"boxes":' * 9_000 + "1" + "}" * 9_000,
    '{"boxes": {' + ",".join(f'"{i}": [0, 0, 1, 1]' for i in range(2_500)) + "}}",
    '{"boxes": [' + ",".join(["1e308"] * 10_000) + "]}",
    '{"time": [' + "9" * 4_000 + ", " + "9" * 4_400 + "]}",
    "9" * 100_000,
    "a " * 500_000,
    "\n" * 1_000_000,
    "< " * 400_000,
    "</answer><answer>" * 60_000,
    "</thinking><answer></answer>" * 30_000,
    "aaa " * 90_000 + "!",
    "explode",
    "exit",
    "memory",
]


def mutated(text: str, rng: random.Random) -> str:
    """The text with pieces cut, doubled, replaced by fragments."""
    for _ in range(rng.randint(1, 4)):
        i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        how = rng.random()
        if how < 0.3:
            text = text[:i] + rng.choice(FRAGMENTS) + text[i:]
        elif how < 0.6:
            text = text[:i] + rng.choice(FRAGMENTS) + text[min(j, i + 4) :]
        elif how < 0.8:
            text = text[:i] + text[min(j, i + 6) :]
        else:
            text = text[:j] + text[i:j][:200] + text[j:]
    return text


def answer(truth: str, rng: random.Random) -> str:
    """One hostile answer."""
    how = rng.random()
    if how < 0.45:
        return mutated(truth, rng)
    if how < 0.7:
        return rng.choice(["", " "]).join(rng.choices(FRAGMENTS, k=rng.randint(1, 12)))
    if how < 0.8:
        return "".join(map(chr, rng.choices(range(0x3000), k=rng.randint(0, 60))))
    if how < 0.99:
        return rng.choice([truth, f" {truth} ", truth.lower(), truth + truth, "", "0.5 or so"])
    return rng.choice(RARE)


def response(said: str, rng: random.Random) -> str:
    """The answer in tags that are whole, broken or missing."""
    how = rng.random()
    if how < 0.75:
        return f"<thinking>so</thinking>\n<answer>{said}</answer>"
    return rng.choice(
        [said, f"<answer>{said}", f"< answer >{said}</ answer >", f"{said}</answer>"]
        + [f"<thinking>{said}</thinking><answer>{said}</answer>{said[:40]}"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", default="sound")
    parser.add_argument("--deadline_s", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    kinds, items = list(TRUTHS), []
    for i in range(options.count):
        problem_type, data_type = kinds[i % len(kinds)]
        truth = rng.choice(TRUTHS[problem_type, data_type])
        task = "custom" if rng.random() < 0.05 else ""
        said = response(answer(truth, rng), rng)
        items.append(rewards.Item(said, truth, problem_type, data_type, task))
    print(f"{len(items):,} answers, {sum(len(item.response) for item in items) / 1e6:.0f} MB")

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "careless_reward.py").write_text(CUSTOM)
        os.chdir(folder)
        config = rewards.RewardConfig(
            mode=options.mode, deadline_s=options.deadline_s, workers=options.workers
        )
        by_task = {"custom": rewards.TaskReward(reward="careless_reward:reward")}
        scorer = rewards.Scorer(config, by_task)
        scores, slowest_s, started = [], 0.0, time.perf_counter()
        for start in range(0, len(items), BATCH):
            before = time.perf_counter()
            scores += scorer.score_batch(items[start : start + BATCH])
            slowest_s = max(slowest_s, time.perf_counter() - before)
        wall_s = time.perf_counter() - started
        scorer.close()
        os.chdir("/")

    print(f"wall time {wall_s:.1f} s; slowest batch of {BATCH}: {slowest_s:.1f} s")
    print(f"children replaced {scorer.replaced}; failures by kind:")
    for kind, count in scorer.failures.most_common():
        print(f"  {count:6,} {kind:16} {parse.KINDS[kind]}")
    bad = []
    for name, most in (("accuracy", 1.0), ("format", 1.0), ("structure", 0.5), ("total", 1.5)):
        values = [getattr(score, name) for score in scores]
        bad += [v for v in values if not (math.isfinite(v) and 0.0 <= v <= most)]
        print(f"{name:9} min {min(values):.3f} max {max(values):.3f} mean {mean(values):.3f}")
    right = collections.Counter(
        i.problem_type for i, s in zip(items, scores, strict=True) if s.accuracy
    )
    print("with accuracy above 0:", json.dumps(right))
    print(f"out of range or not finite: {len(bad)}")
    return int(bool(bad) or "internal_error" in scorer.failures or len(scores) != len(items))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
