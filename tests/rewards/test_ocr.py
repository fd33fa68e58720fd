"""OCR by word error rate."""

import time

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards.parse import Unscorable
from g2rpo_jax.rewards.text import MAX_TRUTH_WORDS, edit_distance, ocr

word_lists = st.lists(st.sampled_from("abcd"), max_size=40)


def distance_by_table(a, b):
    """Wagner and Fischer's table, cell by cell."""
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (x != y)
            )
    return table[-1][-1]


@hyp.given(word_lists, word_lists)
def test_the_bit_parallel_distance_is_the_tables(a, b):
    assert edit_distance(a, b) == distance_by_table(a, b) == edit_distance(b, a)


@hyp.given(word_lists, word_lists)
def test_ocr_is_one_minus_the_word_error_rate(truth, said):
    rate = distance_by_table(truth, said) / max(1, len(truth))
    assert ocr("  ".join(said), "\n".join(truth)) == max(0.0, 1.0 - rate)


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("the quick brown fox", 1.0),
        (" the\tquick\n brown  fox ", 1.0),
        ("the quick brown", 0.75),  # one word missing
        ("the slow brown fox", 0.75),  # one replaced
        ("the very quick brown fox", 0.75),  # one too many
        ("the quick", 0.5),
        ("The Quick brown fox", 0.5),
        ("fox", 0.25),
        ("", 0.0),
        ("a b c d", 0.0),
        ("the quick brown fox " * 3, 0.0),
    ],
)
def test_ocr_worked_by_hand(said, right):
    assert ocr(said, "the quick brown fox") == right


def test_a_truth_without_words_is_met_by_no_words():
    assert ocr(" ", "") == 1.0
    assert ocr("a", "") == 0.0


def test_the_truth_bounds_the_work():
    words = [str(i) for i in range(MAX_TRUTH_WORDS)]
    truth, said = " ".join(words), " ".join(reversed(words + words[:-1]))
    start = time.process_time()
    assert 0.0 <= ocr(said, truth) <= 1.0  # as much work as there can be
    assert ocr("a " * 10**6, truth) == 0.0
    assert ocr("a" * 10**6, truth) == 0.0
    assert time.process_time() - start < 5.0
    with pytest.raises(Unscorable) as caught:
        ocr("a", truth + " one more")
    assert caught.value.kind == "bad_truth"
