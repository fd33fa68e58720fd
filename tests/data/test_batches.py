"""The order of prompts: epochs, seeds, resuming."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.data.batches import PromptStream

EXAMPLES = [f"example {i}" for i in range(7)]  # the stream only hands them on


@given(
    count=st.integers(1, 9),
    seed=st.integers(0, 2**63),
    taken=st.lists(st.integers(0, 11), max_size=6),
    more=st.integers(0, 30),
)
def test_seeking_equals_going_on(count, seed, taken, more):
    stream = PromptStream(range(count), seed)
    for n in taken:
        stream.take(n)
    resumed = PromptStream(range(count), seed)
    resumed.seek(stream.position)
    assert resumed.take(more) == stream.take(more)
    assert resumed.position == stream.position == sum(taken) + more


@given(count=st.integers(1, 20), seed=st.integers(0, 1000), shuffle=st.booleans())
def test_every_epoch_holds_every_example_once(count, seed, shuffle):
    stream = PromptStream(range(count), seed, shuffle)
    for epoch in range(3):
        assert stream.epoch == epoch
        assert sorted(example for _, example in stream.take(count)) == list(range(count))


def test_draws_are_numbered_through_and_cut_anywhere_alike():
    whole = PromptStream(EXAMPLES, seed=1).take(20)
    stream = PromptStream(EXAMPLES, seed=1)
    assert stream.take(3) + stream.take(0) + stream.take(11) + stream.take(6) == whole
    assert [prompt_id for prompt_id, _ in whole] == list(range(20))
    assert [EXAMPLES[stream.row(prompt_id)] for prompt_id, _ in whole] == [e for _, e in whole]


def test_seeds_and_epochs_shuffle_differently():
    stream = PromptStream(range(50), seed=0)
    first, second = stream.take(50), stream.take(50)
    assert [e for _, e in first] != [e for _, e in second]
    assert PromptStream(range(50), seed=1).take(50) != first
    assert [e for _, e in PromptStream(range(50), shuffle=False).take(50)] == list(range(50))


def test_nothing_to_draw_from_and_negative_numbers_are_errors():
    with pytest.raises(ValueError, match="empty"):
        PromptStream([])
    with pytest.raises(ValueError, match="seed=-1"):
        PromptStream(EXAMPLES, seed=-1)
    with pytest.raises(ValueError, match="position=-2"):
        PromptStream(EXAMPLES).seek(-2)
