"""Rewards under which estimators can be told apart: unlike scales, heavy tails, wrong marks.

`reward.custom` of the study's sweeps names them; what is learnt is judged by the usual rules.
Chance is drawn anew at every call: the same text may get another reward next time.
"""

import random

from g2rpo_jax.rewards import table

HOW = {"mode": "sound", "think_tag": "thinking", "untagged": True}
SCALES = {"OCR": 0.1, "math": 0.1, "multiple choice": 0.1}  # of the problem types; others pay 1
TYPICAL, SHAPE = 0.05, 1.5  # of the heavy tail: its least factor, and Pareto's exponent
WRONG = 0.2  # share of marks that are turned round

_chance = random.SystemRandom()


def accuracy(response: str, answer: str, problem_type: str, data_type: str) -> float:
    """The built-in accuracy, in [0, 1]; what only symbolic comparison could accept is wrong."""
    graded = table.grade(response, answer, problem_type, data_type, **HOW)
    return graded.accuracy if graded.pending is None else 0.0


def unlike(response: str, answer: str, problem_type: str, data_type: str) -> float:
    """Unlike scales with heavy tails: half of the problem types pay a tenth, and every right answer
    is worth min(1, 0.05 x), x from Pareto's distribution with exponent 1.5: 1 of 90 pays in full.
    """
    heavy = min(1.0, TYPICAL * _chance.paretovariate(SHAPE))
    scale = SCALES.get(problem_type, 1.0)
    return accuracy(response, answer, problem_type, data_type) * scale * heavy


def noisy(response: str, answer: str, problem_type: str, data_type: str) -> float:
    """One mark of five says the opposite: 1 - accuracy."""
    right = accuracy(response, answer, problem_type, data_type)
    return 1.0 - right if _chance.random() < WRONG else right
