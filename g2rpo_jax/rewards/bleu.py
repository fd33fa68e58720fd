"""Accuracy of open-ended answers by BLEU: how many of the answer's word sequences are right."""

import collections
import itertools
import math
from collections.abc import Sequence

from g2rpo_jax.rewards import rouge

ORDERS = 4


def bleu(answer: str, truth: str, data_type: str = "image") -> float:
    """Smoothed sentence BLEU of lower-case words: how much of the answer stands in the truth.

        R = min(1, exp(1 - right / said)) (p_1 p_2 p_3 p_4)^(1/4)
        p_1 = matches / said,  p_n = (matches + 1) / (n-grams of the answer + 1) for n = 2, 3, 4

    said and right are numbers of words. An answer without a right word gets 0: the smoothing adds
    nothing to p_1 (Lin and Och). The package that the authors call adds one there too, and gives a
    wrong answer of one word to a truth of one word 0.84.
    Raises:
      Unscorable: no_words; too_long; bad_truth, as `rouge.open_ended`.
    Source: BLEUBERI, "BLEU is a surprisingly effective reward" (2025); Lin and Och (2004).
    """
    return sentence_bleu(*rouge.both(answer, truth, rouge.plain_words))


def bleu_and_rouge(answer: str, truth: str, data_type: str = "image") -> float:
    """Harmonic mean of smoothed BLEU and ROUGE-L.

        R = 2 BLEU F_L / (BLEU + F_L)

    Raises:
      Unscorable: as `bleu`.
    Source: BLEUBERI, "BLEU is a surprisingly effective reward" (2025), its second reward.
    """
    precise = bleu(answer, truth, data_type)
    said, right = rouge.words(answer), rouge.words(truth)
    shared = rouge.common_subsequence(right, said)
    recall = rouge.f_measure(shared, len(said), len(right))
    return 2.0 * precise * recall / (precise + recall) if precise and recall else 0.0


def sentence_bleu(said: Sequence[str], right: Sequence[str]) -> float:
    """BLEU-4 of two lists of words that are not empty, in [0, 1]; time is linear in them."""
    product = 1.0
    for order in range(1, ORDERS + 1):
        a, b = (collections.Counter(_grams(words, order)) for words in (said, right))
        matches, smooth = (a & b).total(), order > 1
        product *= (matches + smooth) / (max(0, len(said) - order + 1) + smooth)
    brevity = math.exp(min(0.0, 1.0 - len(right) / len(said)))
    return brevity * product ** (1 / ORDERS)


def _grams(words: Sequence[str], order: int) -> zip:
    return zip(*(itertools.islice(words, i, None) for i in range(order)), strict=False)
