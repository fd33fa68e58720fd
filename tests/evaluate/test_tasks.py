"""Held-out accuracy: the same of one process and of several that share the rows out."""

import collections
import types

import numpy as np
import pytest

from g2rpo_jax.data.example import Example
from g2rpo_jax.evaluate import Beside, evaluate
from g2rpo_jax.rewards import Score
from g2rpo_jax.rollout.engine import Rollout
from tests.parallel.together import together

ROWS, TOKENS = 11, 4


class Engine:
    """Answers a prompt with its own number."""

    max_tokens = TOKENS

    def __init__(self):
        self.calls = []

    def generate(self, params, inputs, prompt_ids, *, seed, step, limit_P):
        self.calls.append((len(prompt_ids), int((np.asarray(limit_P) > 0).sum())))
        token_P11 = np.array([-1 if p is None else p for p in inputs])[:, None, None]
        mask_P11 = np.asarray(limit_P)[:, None, None] > 0
        return Rollout(token_P11, mask_P11, 0.0 * token_P11, mask_P11[..., 0])


class Scorer:
    """Even answers are right; those that divide by three cannot be read."""

    def __init__(self):
        self.failures = collections.Counter()

    def score_batch(self, items):
        scores = []
        for item in items:
            number = int(item.response)
            self.failures["no_number"] += number % 3 == 0
            scores.append(Score(float(number % 2 == 0), 0.1 * number, 0.0, 0.0, None))
        return scores


def example(i):
    return Example(str(i), "q", (), "8", "math", ["ocr", "math"][i % 2], "image", ())


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_scores_do_not_depend_on_the_number_of_processes(processes):
    def job(group):
        engine, scorer = Engine(), Scorer()
        # The last process has few rows, and must join the others' calls.
        homes = [min(i, group.count - 1) % group.count if i < 4 else 0 for i in range(ROWS)]
        items = [(example(i), i if homes[i] == group.index else None) for i in range(ROWS)]
        got = evaluate(
            engine,
            types.SimpleNamespace(),
            items,
            lambda prompts, rows: prompts + [None] * (rows - len(prompts)),
            lambda tokens: str(tokens[0]),
            scorer,
            prompts=4,
            limits={"ocr": TOKENS, "math": TOKENS},
            group=group,
        )
        return got, scorer.failures, engine.calls

    (expected, failures, _), *_ = together(1, job)
    assert expected["ocr"].accuracy == 1 and expected["math"].accuracy == 0
    assert expected["ocr"].rows == 6 and failures == {"no_number": 4}
    answered = 0
    calls = set()
    for got, counted, made in together(processes, job):
        assert got == expected and counted == failures
        assert {rows for rows, _ in made} == {4 // processes}
        calls.add(len(made))
        answered += sum(rows for _, rows in made)
    assert answered == ROWS and len(calls) == 1


def test_failures_are_counted_everywhere_once():
    def job(group):
        scorer = Scorer()
        item = example(0).item(str(3 * group.index + group.index % 2))
        for _ in range(2):
            with Beside(scorer, group) as beside:
                beside.add([("one", lambda: item)])
                beside.finish()
        return scorer.failures["no_number"]

    assert together(3, job) == [4, 4, 4]  # processes 0 and 2, twice
