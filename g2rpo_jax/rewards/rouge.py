"""Accuracy of open-ended answers: ROUGE, the overlap of words, pairs of words and their order."""

import collections
import re
from collections.abc import Callable, Sequence

from g2rpo_jax.rewards.parse import Unscorable
from g2rpo_jax.rewards.stem import stem

# The longest common subsequence costs words of the answer x words of the truth / 30 steps: these
# take about half a second.
MAX_TRUTH_WORDS = 10_000
MAX_CHARS = 200_000

# Kana and Han are written without spaces: each is a word.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]++")


def open_ended(answer: str, truth: str, data_type: str = "image") -> float:
    """Mean of the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, on stemmed words.

        R = (F_1 + F_2 + F_L) / 3,  F = 2 shared / (said + right)

    For a truth of one word ROUGE-2 does not exist and is left out (the release counts it as 0, so
    that no answer to such a row gets more than 2/3). Words may be of any script (the release knows
    a-z and 0-9 alone).
    Raises:
      Unscorable: no_words; too_long; bad_truth: no words in the truth, or more than
        MAX_TRUTH_WORDS.
    Source: Lin, "ROUGE" (2004); the reward of OneThinker's open-ended rows (2025); equal to the
    package rouge-score with its stemmer, on ASCII.
    """
    said, right = both(answer, truth, words)
    return mean_f(said, right, pairs=len(right) > 1)


def both(answer: str, truth: str, read: Callable[[str], list[str]]) -> tuple[list[str], list[str]]:
    """The words of an answer and of its truth, as `read` finds them, neither empty.

    Raises:
      Unscorable: no_words; too_long; bad_truth: no words in the truth, or more than
        MAX_TRUTH_WORDS.
    """
    right = read(truth) if len(truth) <= MAX_CHARS else []
    if not 0 < len(right) <= MAX_TRUTH_WORDS:
        raise Unscorable("bad_truth")
    if len(answer) > MAX_CHARS:
        raise Unscorable("too_long")
    said = read(answer)
    if not said:
        raise Unscorable("no_words")
    return said, right


def plain_words(text: str) -> list[str]:
    """Lower-case words as they stand."""
    return _WORD.findall(text.lower())


def words(text: str) -> list[str]:
    """Stemmed lower-case words; stemmed are those of more than 3 letters a-z and digits."""
    return [stem(word) if len(word) > 3 and word.isascii() else word for word in plain_words(text)]


def mean_f(said: Sequence[str], right: Sequence[str], pairs: bool = True) -> float:
    """Mean of the F-measures of ROUGE-1, ROUGE-2 (if `pairs`) and ROUGE-L, in [0, 1]."""
    if not said or not right:
        return 0.0
    parts = [
        f_measure(_shared(said, right), len(said), len(right)),
        f_measure(common_subsequence(right, said), len(said), len(right)),
    ]
    if pairs:
        a, b = (list(zip(x, x[1:], strict=False)) for x in (said, right))
        parts.append(f_measure(_shared(a, b), len(a), len(b)))
    return min(1.0, sum(parts) / len(parts))


def f_measure(shared: int, said: int, right: int) -> float:
    """Harmonic mean of precision shared / said and recall shared / right."""
    return 2.0 * shared / (said + right) if shared else 0.0


def _shared(a: Sequence, b: Sequence) -> int:
    return (collections.Counter(a) & collections.Counter(b)).total()


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    Bit-parallel: one integer of len(a) bits holds a column of the dynamic programme, a cleared bit
    where it steps up. Source: Hyyro 2004.
    """
    full = (1 << len(a)) - 1
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    flat = full
    for word in b:
        same = flat & where.get(word, 0)
        flat = ((flat + same) | (flat - same)) & full
    return len(a) - flat.bit_count()
