"""Answers scored beside the device: the same scores, no waiting, errors where they can be seen."""

import collections
import threading

import numpy as np
import pytest

from g2rpo_jax.evaluate import Beside, Finished
from g2rpo_jax.rewards import Item, Scorer

ITEMS = {
    (p, g): Item(f"<think>x</think><answer>{7 + (p + g) % 3}</answer>", "8", "math")
    for p in range(3)
    for g in range(4)
}


class Slow:
    """Scores one batch at a time, when it is let; remembers the sizes of batches."""

    def __init__(self):
        self.failures, self.sizes = collections.Counter(), []
        self.let, self.begun = threading.Event(), threading.Event()

    def score_batch(self, items):
        self.begun.set()
        assert self.let.wait(30)
        self.sizes.append(len(items))
        if "bad" in items:
            raise RuntimeError("no child can be started")
        return [len(item) for item in items]


def answer(text):
    return text, lambda: text


def test_scores_are_those_of_one_batch():
    scorer, other = Scorer(), Scorer()
    with Beside(scorer) as beside:
        for key, item in ITEMS.items():
            beside.add([(key, lambda item=item: item)])
        found = beside.finish()
    assert list(found) == list(ITEMS)
    assert [score for _, score in found.values()] == other.score_batch(ITEMS.values())
    assert [item for item, _ in found.values()] == list(ITEMS.values())
    assert scorer.failures == other.failures


def test_the_caller_goes_on_and_what_waits_is_scored_together():
    scorer = Slow()
    with Beside(scorer) as beside:
        beside.add([answer("a")])
        assert scorer.begun.wait(30)
        for text in ("bb", "ccc", "dddd"):
            beside.add([answer(text)])
        scorer.let.set()
        found = beside.finish()
    assert scorer.sizes == [1, 3] and found["ccc"] == ("ccc", 3) and beside.seconds > 0


def test_an_error_of_a_reward_reaches_the_caller():
    scorer = Slow()
    scorer.let.set()
    with Beside(scorer) as beside:
        beside.add([answer("bad")])
        with pytest.raises(RuntimeError, match="no child"):
            beside.finish()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_every_response_is_named_once_when_it_ends(chunk):
    """By an end token, or by its row's limit; filler (limit 0) never."""
    P, G, T, eos = 5, 4, 7, 9
    limit_P = np.array([7, 3, 5, 1, 0])
    rng = np.random.default_rng(chunk)
    token_PGT = rng.choice([1, 2, eos], size=(P, G, T), p=[0.4, 0.4, 0.2]).astype(np.int32)
    length_PG = np.minimum((token_PGT == eos).argmax(-1) + 1, limit_P[:, None])
    length_PG = np.where((token_PGT == eos).any(-1), length_PG, limit_P[:, None])
    mask_PGT = np.arange(T) < length_PG[..., None]
    finished, named = Finished(limit_P, (eos,), G), {}
    for start in range(0, T, chunk):
        upto = mask_PGT & (np.arange(T) < start + chunk)
        for p, g, length in finished.new(token_PGT, upto, slice(start, start + chunk)):
            assert (p, g) not in named and start < length <= start + chunk
            named[p, g] = length
    assert named == {(p, g): length_PG[p, g] for p in range(4) for g in range(G)}
