"""Which responses are kept: against all subsets, by hand, and laws over the whole table."""

import dataclasses
import itertools

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from g2rpo_jax.selection.responses import SELECTIONS, Responses, SelectionConfig

P, G = 2, 6
eighths = hnp.arrays(np.int64, (P, G), elements=st.integers(-8, 8)).map(lambda x: x / 8)


@st.composite
def some_responses(draw):
    return Responses(
        reward_PG=draw(eighths).astype(np.float32),
        length_PG=draw(hnp.arrays(np.int64, (P, G), elements=st.integers(0, 20))),
        ended_PG=draw(hnp.arrays(bool, (P, G))),
        valid_PG=draw(hnp.arrays(bool, (P, G))),
        adv_PG=draw(eighths).astype(np.float32),
    )


def kept(name, responses, **options):
    return SELECTIONS[name](responses, SelectionConfig(name=name, **options))


def one(reward, length=None, ended=None, adv=None):
    """One prompt, all of its responses valid."""
    size = len(reward)
    return Responses(
        np.array([reward], np.float32),
        np.array([length if length is not None else [1] * size]),
        np.array([ended if ended is not None else [True] * size]),
        np.ones((1, size), bool),
        None if adv is None else np.array([adv], np.float32),
    )


def wanted(valid, share):
    return min(valid, max(1, round(share * valid)))


shares = st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])


@hyp.given(some_responses(), shares)
def test_pods_keeps_what_varies_most_of_all_subsets(responses, share):
    keep_PG = kept("pods", responses, share=share)
    for reward_G, valid_G, keep_G in zip(
        responses.reward_PG, responses.valid_PG, keep_PG, strict=True
    ):
        k = wanted(valid_G.sum(), share)
        assert keep_G.sum() == k and not (keep_G & ~valid_G).any()
        if k:
            best = max(np.var(each) for each in itertools.combinations(reward_G[valid_G], k))
            assert np.var(reward_G[keep_G]) == pytest.approx(best, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gfpo", lambda r: np.asarray(r.length_PG, float)),
        ("gfpo_efficiency", lambda r: -r.reward_PG / np.maximum(r.length_PG, 1)),
        ("cppo", lambda r: -np.abs(r.adv_PG)),
    ],
)
@hyp.given(some_responses(), shares)
def test_nothing_left_out_is_better_than_what_is_kept(name, key, responses, share):
    keep_PG, key_PG = kept(name, responses, share=share), key(responses)
    for p in range(P):
        valid_G, keep_G = responses.valid_PG[p], keep_PG[p]
        assert keep_G.sum() == wanted(valid_G.sum(), share) and not (keep_G & ~valid_G).any()
        gone_G = valid_G & ~keep_G
        if gone_G.any():
            assert key_PG[p][keep_G].max() <= key_PG[p][gone_G].min()


def test_each_rule_on_one_prompt():
    rewards, lengths = [1, 0, 1, 0], [40, 10, 20, 30]
    assert kept("all", one(rewards, lengths)).tolist() == [[True] * 4]
    assert kept("gfpo", one(rewards, lengths)).tolist() == [[False, True, True, False]]
    # 1/40, 0, 1/20, 0: of the two zeros neither is needed.
    assert kept("gfpo_efficiency", one(rewards, lengths)).tolist() == [[True, False, True, False]]
    assert kept("gfpo", one([0] * 4, [5] * 4)).tolist() == [[True, True, False, False]]  # ties
    assert kept("pods", one([0, 0, 0, 0, 0, 0, 0, 1])).sum() == 4
    assert kept("pods", one([0, 0, 0, 0, 0, 0, 0, 1]))[0, 7]
    assert kept("cppo", one(rewards, adv=[0.1, -0.9, 0.2, 0.6])).tolist() == [
        [False, True, False, True]
    ]


def test_eframe_leaves_out_what_says_little_and_what_is_praised_though_cut():
    got = kept(
        "eframe",
        one([0] * 5, ended=[True, True, False, False, True], adv=[0.04, -0.05, 2, -2, 0.5]),
    )
    assert got.tolist() == [[False, True, False, True, True]]


@pytest.mark.parametrize("name", SELECTIONS)
@hyp.given(responses=some_responses(), noise=eighths)
def test_what_is_not_valid_is_never_kept_and_moves_nobody(name, responses, noise):
    keep_PG = kept(name, responses)
    assert keep_PG.dtype == bool and not (keep_PG & ~responses.valid_PG).any()
    other = {
        field: np.where(responses.valid_PG, getattr(responses, field), noise.astype(np.float32))
        for field in ("reward_PG", "adv_PG", "length_PG")
    }
    np.testing.assert_array_equal(keep_PG, kept(name, dataclasses.replace(responses, **other)))


@pytest.mark.parametrize("name", SELECTIONS)
@hyp.given(order=st.permutations(range(G)))
def test_keeping_follows_a_permutation_where_nothing_ties(name, order):
    rng = np.random.default_rng(0)
    responses = Responses(
        rng.normal(size=(1, G)),
        np.arange(1, G + 1)[None],
        np.arange(G)[None] % 2 == 0,
        np.ones((1, G), bool),
        rng.normal(size=(1, G)),
    )
    moved = Responses(
        **{f.name: getattr(responses, f.name)[:, order] for f in dataclasses.fields(responses)}
    )
    np.testing.assert_array_equal(kept(name, responses)[:, order], kept(name, moved))


def test_a_share_of_one_keeps_all_and_the_smallest_keeps_one():
    responses = one([1, 0, 0.5], [3, 1, 2], adv=[1, -1, 0])
    for name in ("gfpo", "gfpo_efficiency", "pods", "cppo"):
        assert kept(name, responses, share=1.0).all()
        assert kept(name, responses, share=0.01).sum() == 1


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="unknown selection 'gfop'; did you mean 'gfpo'"):
        SelectionConfig(name="gfop")
    with pytest.raises(ValueError, match="selection.share=0 must lie"):
        SelectionConfig(share=0)
    with pytest.raises(ValueError, match="selection.min_advantage=-1"):
        SelectionConfig(min_advantage=-1)
