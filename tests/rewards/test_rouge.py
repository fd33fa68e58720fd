"""ROUGE against the package that the release calls, and its bounds."""

import random
import time

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards import rouge
from g2rpo_jax.rewards.parse import Unscorable
from g2rpo_jax.rewards.stem import stem

STEMS = ["relat", "happ", "troubl", "ski", "d", "hopp", "fil", "agre", "sensib", "y", "oscill", "a"]
SUFFIXES = (
    "ational tional enci anci izer bli alli entli eli ousli ization ation ator alism iveness "
    "fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance "
    "ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize ed ing eed ied "
    "ies sses ss s y e ll 1"
).split()
IRREGULAR = (
    "sky skies dying lying tying news innings inning outings outing cannings canning howe proceed "
    "exceed succeed died dies cried generously running falling hissing fizzed owned eyeing"
).split()
spelled = st.builds(
    lambda start, middle, ends: start + middle + "".join(ends),
    st.sampled_from(STEMS),
    st.text("aeioubcdlstyz", max_size=4),
    st.lists(st.sampled_from(SUFFIXES), max_size=3),
)
word = st.one_of(spelled, st.sampled_from(IRREGULAR))
text = st.lists(st.one_of(word, st.sampled_from([",", "U.S.A.", "3.5", "-", "The", "the"])))


@hyp.given(word)
@hyp.settings(max_examples=400)
def test_stems_are_nltks(word):
    from nltk.stem.porter import PorterStemmer

    assert stem(word) == PorterStemmer().stem(word)


@hyp.given(text, text)
def test_the_mean_is_rouge_scores(said, right):
    from rouge_score import rouge_scorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    said, right = " ".join(said), " ".join(right)
    theirs = rouge_scorer.RougeScorer(kinds, use_stemmer=True).score(right, said)
    ours = rouge.mean_f(rouge.words(said), rouge.words(right))
    assert ours == pytest.approx(sum(theirs[k].fmeasure for k in kinds) / 3, abs=1e-12)


@hyp.given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_the_bit_parallel_subsequence_is_the_tables(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else longer
    assert rouge.common_subsequence(a, b) == table[-1][-1]


@pytest.mark.parametrize(
    ("said", "truth", "expected"),
    [
        ("The cat sat.", "the cat sat", 1.0),
        ("cats", "cat", 1.0),  # one word: there are no pairs to compare
        ("a cat", "cat", 2 / 3),
        ("the cat", "the dog", (0.5 + 0.0 + 0.5) / 3),
        ("sat cat the", "the cat sat", (1.0 + 0.0 + 1 / 3) / 3),
        ("caf\u00e9", "caf", 0.0),  # a letter is a letter, accented or not
        ("\u4eca\u65e5\u306f", "\u4eca\u65e5\u306f", 1.0),
        ("\u4eca\u65e5", "\u4eca\u65e5\u306f", (4 / 5 + 2 / 3 + 4 / 5) / 3),
        ("dog", "the cat sat", 0.0),
    ],
)
def test_worked_by_hand(said, truth, expected):
    assert rouge.open_ended(said, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "truth", "kind"),
    [
        ("?!", "a cat", "no_words"),
        ("", "a cat", "no_words"),
        ("a " * 10**6, "a cat", "too_long"),
        ("a cat", "...", "bad_truth"),
        ("a cat", "a " * 10_001, "bad_truth"),
    ],
)
def test_what_has_no_score(said, truth, kind):
    with pytest.raises(Unscorable) as caught:
        rouge.open_ended(said, truth)
    assert caught.value.kind == kind


def test_the_longest_texts_take_seconds_at_most():
    rng = random.Random(0)
    truth = " ".join(rng.choices("abcdefgh", k=rouge.MAX_TRUTH_WORDS))
    said = " ".join(rng.choices("abcdefgh", k=rouge.MAX_CHARS // 2))
    start = time.process_time()
    assert 0.0 < rouge.open_ended(said, truth) < 1.0
    rouge.open_ended("x" * rouge.MAX_CHARS, "x" * rouge.MAX_CHARS)  # one word, to be stemmed
    rouge.open_ended("y" * rouge.MAX_CHARS, "y" * rouge.MAX_CHARS)
    assert time.process_time() - start < 10.0
