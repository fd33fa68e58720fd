"""Accuracy of read-out text: OCR by word error rate."""

from collections.abc import Sequence

from g2rpo_jax.rewards.parse import Unscorable

# 1 - WER is 0 once the answer has twice the words of the truth, so the truth bounds the work:
# 10,000 words against 20,000 take about 0.1 s.
MAX_TRUTH_WORDS = 10_000


def ocr(answer: str, truth: str, data_type: str = "image") -> float:
    """One less the word error rate; words are what white space separates, and case counts.

        R = max(0, 1 - WER),  WER = edit distance of the two lists of words / words of the truth

    For a truth without words: 1 for an answer without words, else 0.
    Raises:
      Unscorable: bad_truth, if the truth has more than MAX_TRUTH_WORDS words.
    Source: the reward of OneThinker's OCR rows (2025).
    """
    right = truth.split()
    if len(right) > MAX_TRUTH_WORDS:
        raise Unscorable("bad_truth")
    # A split that stops where the score is 0 in any case: a megabyte of words costs nothing.
    said = answer.split(None, 2 * len(right))
    if said == right:
        return 1.0
    if len(said) >= 2 * len(right) or not said:
        return 0.0
    return max(0.0, 1.0 - edit_distance(right, said) / len(right))


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance (insert, delete, replace; each costs 1) between two lists of words.

    Bit-parallel: a column of the dynamic programme is two integers of len(a) bits, the rows where
    it steps up and where it steps down; a step to the next column is a dozen integer operations.
    Source: Myers 1999, in the form of Hyyro 2001.
    """
    if not a:
        return len(b)
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    up, down, distance = full, 0, len(a)
    for word in b:
        same = where.get(word, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        right_up = down | ~(diagonal | up) & full
        right_down = up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        # The top row of the programme counts insertions: it steps up by one each column.
        right_up = (right_up << 1 | 1) & full
        right_down = right_down << 1 & full
        up = right_down | ~(diagonal | right_up) & full
        down = right_up & diagonal
    return distance
