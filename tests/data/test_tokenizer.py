"""The tiny tokenizer: nothing is lost, digits and tags stay whole, transformers reads the same."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.data import embedded, tokenizer
from g2rpo_jax.data.processor import Processor


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tokenizer.build(str(path))
    return str(path)


@pytest.fixture(scope="module")
def processor(directory):
    return Processor(directory)


@pytest.fixture(scope="module")
def reference(directory):
    """transformers' own tokenizer of the same directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def plain(text):
    """Text without special tokens, which decoding drops."""
    return not any(token in text for token in tokenizer.SPECIAL)


TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from([*tokenizer.TAGS, *tokenizer.PIECES, " digit", "7", "é", "\n", "\u2028"])
    ).map("".join),
).filter(plain)


@given(text=TEXTS)
def test_any_text_comes_back(processor, text):
    assert processor.decode(processor.encode_text(text)) == text


@given(text=TEXTS.map(lambda text: unicodedata.normalize("NFC", text)))
def test_transformers_finds_the_same_tokens(processor, reference, text):
    assert processor.encode_text(text) == reference(text)["input_ids"]


def test_every_digit_and_every_tag_is_one_token_and_special_tokens_vanish(processor):
    for piece in [*"0123456789", *tokenizer.TAGS, *tokenizer.PIECES, *tokenizer.SPECIAL]:
        assert len(processor.encode_text(piece)) == 1, piece
    assert len(processor.encode_text("1234567890")) == 10
    assert len(processor.encode_text("x3xx" * 4)) == 16  # one token a cell in the captions
    wrapped = "<|im_start|><thinking>3 + 5 = 8</thinking><answer>8</answer><|im_end|><|endoftext|>"
    assert (
        processor.decode(processor.encode_text(wrapped))
        == "<thinking>3 + 5 = 8</thinking><answer>8</answer>"
    )


def test_the_words_of_the_tasks_are_single_tokens(processor):
    for raw in embedded.rows("train", 120, captions=True):
        for word in (" " + raw["problem_reserved_text"].replace("?", "")).split(" ")[1:]:
            stem = word.strip("0123456789.,:")
            assert len(processor.encode_text(f" {stem}")) == 1, stem
    assert all(len(processor.encode_text(word)) == 1 for word in ("user", "assistant"))


def test_the_vocabulary_is_the_same_every_time_and_no_larger_than_asked():
    first, second = tokenizer.train(320), tokenizer.train(320)
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 320
    with pytest.raises(ValueError, match="256 bytes"):
        tokenizer.train(260)


def test_ids_outside_the_vocabulary_and_broken_utf8_decode_to_something(processor):
    assert processor.decode([processor.vocab_size + 5]) == ""
    half = processor.encode_text("é")[:1]
    assert processor.decode(half) == "\ufffd"
