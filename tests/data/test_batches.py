"""The order of prompts: epochs, seeds, shares, resuming."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.data.batches import PromptStream


class Rows:
    """Rows whose example is their number; `tasks` names the task of each, "" for a bad row."""

    def __init__(self, tasks):
        self.tasks = list(tasks)
        self.usable = np.flatnonzero([task != "" for task in self.tasks])

    def __getitem__(self, row):
        assert self.tasks[row], "a row that is known to be bad was drawn"
        return row

    def groups(self):
        names = sorted(set(self.tasks) - {""})
        return {name: np.flatnonzero([task == name for task in self.tasks]) for name in names}


def plain(count):
    return Rows("x" * count)


TASKS = st.text("abc", min_size=1, max_size=12)
SHARES = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 0.2, 0.5, 1, 1.5, 2, 3.3]))


def stream_of(tasks, shares, seed=0, **kwargs):
    """A stream, or None where the shares leave nothing or name what is not there."""
    try:
        return PromptStream(Rows(tasks), seed, shares=shares, **kwargs)
    except ValueError as error:
        assert "no rows" in str(error) or "nothing is left" in str(error)
        return None


@given(
    tasks=TASKS,
    shares=SHARES,
    seed=st.integers(0, 2**63),
    taken=st.lists(st.integers(0, 11), max_size=6),
    more=st.integers(0, 30),
)
def test_seeking_equals_going_on(tasks, shares, seed, taken, more):
    streams = [stream_of(tasks, shares, seed) for _ in range(2)]
    if streams[0] is None:
        return
    stream, resumed = streams
    ids = [draw[0] for n in taken for draw in stream.take(n)]
    assert ids == list(range(sum(taken)))
    resumed.seek(stream.position)
    sent = pickle.loads(pickle.dumps(stream))
    following = stream.take(more)
    assert resumed.take(more) == following == sent.take(more)
    assert resumed.position == stream.position == sent.position
    assert all(stream.at(prompt_id) == row for prompt_id, row in following)  # without replaying


@given(count=st.integers(1, 20), seed=st.integers(0, 1000), shuffle=st.booleans())
def test_every_epoch_holds_every_row_once(count, seed, shuffle):
    stream = PromptStream(plain(count), seed, shuffle)
    for epoch in range(3):
        assert stream.epoch == epoch
        assert sorted(row for _, row in stream.take(count)) == list(range(count))


@given(tasks=TASKS, seed=st.integers(0, 1000))
def test_shares_of_one_are_a_plain_shuffle(tasks, seed):
    ones = stream_of(tasks, dict.fromkeys("abc", 1.0), seed)
    assert ones.take(40) == PromptStream(plain(len(tasks)), seed).take(40)


@given(tasks=TASKS, shares=SHARES, seed=st.integers(0, 1000))
def test_a_share_says_how_often_a_task_stands_in_an_epoch(tasks, shares, seed):
    stream = stream_of(tasks, shares, seed)
    if stream is None:
        return
    rows = Rows(tasks)
    counts = {name: len(group) for name, group in rows.groups().items()}
    wanted = {
        name: max(1, round(share * counts[name])) if share else 0
        for name, share in (dict.fromkeys(counts, 1.0) | shares).items()
        if name in counts
    }
    assert len(stream) == sum(wanted.values())
    drawn = collections.defaultdict(list)
    for _ in range(5):
        epoch = [row for _, row in stream.take(len(stream))]
        assert collections.Counter(rows.tasks[row] for row in epoch) == {
            name: n for name, n in wanted.items() if n
        }
        for row in sorted(epoch):
            drawn[rows.tasks[row]].append(row)
    for name, group in drawn.items():  # the rows of a task take turns
        times = collections.Counter(group)
        assert len(times) == min(counts[name], len(group))
        assert max(times.values()) - min(times.values()) <= 1


def test_tasks_are_mixed_over_the_epoch_not_one_after_another():
    stream = PromptStream(Rows("a" * 300 + "b" * 700), shares={"a": 2.0})
    kinds = np.array([row < 300 for _, row in stream.take(1300)])
    # 600 of 1,300 draws are a's: in each of ten parts about 60 of 130, within five deviations.
    parts = kinds.reshape(10, 130).sum(1)
    assert abs(parts - 60).max() < 5 * (130 * 0.46 * 0.54) ** 0.5


def test_draws_are_numbered_through_and_cut_anywhere_alike():
    whole = PromptStream(plain(7), seed=1).take(20)
    stream = PromptStream(plain(7), seed=1)
    assert stream.take(3) + stream.take(0) + stream.take(11) + stream.take(6) == whole
    assert [prompt_id for prompt_id, _ in whole] == list(range(20))
    assert [stream.row(prompt_id) for prompt_id, _ in whole] == [row for _, row in whole]


def test_seeds_epochs_and_tasks_shuffle_differently():
    stream = PromptStream(plain(50), seed=0)
    first, second = ([row for _, row in stream.take(50)] for _ in range(2))
    other = PromptStream(plain(50), seed=1)
    third, fourth = ([row for _, row in other.take(50)] for _ in range(2))
    orders = [first, second, third, fourth]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert [e for _, e in PromptStream(plain(50), shuffle=False).take(50)] == list(range(50))
    mixed = [row for _, row in PromptStream(Rows("ab" * 50), shares={"a": 2, "b": 2}).take(100)]
    turns = [[row // 2 for row in mixed if row % 2 == task] for task in (0, 1)]
    assert turns[0][:20] != turns[1][:20]


def test_the_order_of_a_seed_never_changes():
    # Philox (Salmon et al. 2011) as NumPy has it since 1.17, its raw 64-bit numbers sorted.
    bits = np.random.Philox(key=3, counter=[0, 0, 0, 2]).random_raw(6)
    stream = PromptStream(plain(6), seed=3)
    stream.seek(12)
    assert [row for _, row in stream.take(6)] == sorted(range(6), key=lambda i: bits[i])


def test_rows_known_to_be_bad_are_never_drawn():
    rows = Rows(["a", "", "b", "", "a"])
    assert sorted(row for _, row in PromptStream(rows).take(3)) == [0, 2, 4]
    assert {row for _, row in PromptStream(rows, shares={"a": 3.0}).take(50)} == {0, 2, 4}


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "empty"),
        (["", ""], {}, "empty"),
        ("ab", {"seed": -1}, "seed=-1"),
        ("ab", {"shares": {"a": -1.0}}, "share of task 'a' is -1.0: at least 0"),
        ("ab", {"shares": {"a": float("nan")}}, "share of task 'a' is nan"),
        ("ab", {"shares": {"a": 0, "b": 0}}, "all tasks are 0"),
        (["chart", "ocr"], {"shares": {"charts": 2}}, "did you mean 'chart'"),
        ("ab", {"shares": {"a": 2}, "shuffle": False}, "need a shuffled stream"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(tasks, options, message):
    with pytest.raises(ValueError) as caught:
        PromptStream(Rows(tasks), **options)
    assert message in str(caught.value)


def test_shares_of_zero_and_one_may_name_tasks_that_have_no_rows():
    shares = {"a": 1.0, "none": 1.0, "neither": 0.0}
    assert len(PromptStream(Rows("ab"), shares=shares)) == 2


def test_the_fingerprint_names_the_order():
    def of(tasks="ab" * 5, seed=0, **options):
        return PromptStream(Rows(tasks), seed, **options).fingerprint

    assert of() == of(shares={"a": 1})
    others = [of("ab" * 6), of(["a", ""] * 5), of(seed=1), of(seed=2**63), of(shares={"a": 2})]
    assert len({of(), *others}) == 6


def test_negative_positions_are_errors():
    with pytest.raises(ValueError, match="position=-2"):
        PromptStream(plain(3)).seek(-2)
