"""BLEU against NLTK's, its limits, and the harmonic mean with ROUGE-L."""

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards.bleu import bleu, bleu_and_rouge, sentence_bleu
from g2rpo_jax.rewards.parse import Unscorable

words = st.lists(st.sampled_from("abcd"), min_size=4, max_size=12)


@hyp.given(words, words)
def test_bleu_is_nltks_with_one_added_from_pairs_on(said, right):
    nltk = pytest.importorskip("nltk.translate.bleu_score")
    smooth = nltk.SmoothingFunction().method2
    theirs = nltk.sentence_bleu([right], said, smoothing_function=smooth)
    assert sentence_bleu(said, right) == pytest.approx(theirs, abs=1e-12)


@hyp.given(st.lists(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("cdef")))
def test_bounds(right, said):
    truth, answer = " ".join(right), " ".join(["c", *said])
    assert bleu(truth, truth) == bleu_and_rouge(truth, truth) == 1.0
    assert 0.0 <= bleu_and_rouge(answer, truth) <= 1.0
    if not set(right) & {"c", *said}:
        assert bleu(answer, truth) == bleu_and_rouge(answer, truth) == 0.0


def test_worked_by_hand():
    # "a b" of "a b c d": p = 2/2, 2/2, 1/1, 1/1; half as long: exp(1 - 2)
    assert bleu("A b.", "a b c d") == pytest.approx(2.718281828**-1)
    # "a x" of "a b": p = 1/2, (0 + 1) / (1 + 1), 1, 1; ROUGE-L: one of two and two
    assert bleu("a x", "a b") == pytest.approx(0.25**0.25)
    assert bleu_and_rouge("a x", "a b") == pytest.approx(2 * 0.25**0.25 * 0.5 / (0.25**0.25 + 0.5))
    assert bleu("no", "Paris") == 0.0


def test_what_has_no_words():
    for function in (bleu, bleu_and_rouge):
        with pytest.raises(Unscorable, match="no words"):
            function("?!", "a b")
        with pytest.raises(Unscorable) as caught:
            function("a", "?!")
        assert caught.value.kind == "bad_truth"
        with pytest.raises(Unscorable, match="longer"):
            function("a " * 200_000, "a b")
