"""Rows are spread evenly over packs, within their minibatch."""

import dataclasses

import jax
import numpy as np
import pytest

from g2rpo_jax import config as configs
from g2rpo_jax.models.qwen3_vl.packing import by_pack, fed, layout
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.parallel.processes import Group
from g2rpo_jax.settings import BatchConfig
from g2rpo_jax.train.packs import Packs, sizes

P, G, T = 32, 4, 21
BATCH = BatchConfig(rollout_prompts=P, prompts=P, minibatches=2, microbatches=2)


def packs(*shares, group=None):
    config = dataclasses.replace(
        configs.resolve(configs.defaults()),
        responses=G,
        max_tokens=T,
        decode_chunk=T,
        batch=dataclasses.replace(BATCH, packed_shares=shares),
    )
    mesh = make(MeshConfig(data=2), jax.devices()[:2])
    return Packs(config, mesh, group or Group()), sizes(config, mesh)


def lengths(seed=0):
    """Rows of few and of many tokens, in the order of their tasks."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(1, T + 1, (P, 1)), axis=0).repeat(G, axis=1)


def test_packs_hold_about_the_same_and_rows_keep_their_minibatch():
    made, _ = packs(0.5)
    length_PG = lengths()
    order_P = made.even(length_PG)
    for k in range(2):
        assert sorted(order_P[k::2]) == list(range(k, P, 2))
        held = fed(length_PG)[order_P[k::2]].sum(1)[by_pack(P // 2, 2, 2)].sum(1)
        plain = fed(length_PG)[k::2].sum(1)[by_pack(P // 2, 2, 2)].sum(1)
        assert np.ptp(held) <= 0.1 * held.mean() < np.ptp(plain)


def test_without_shares_no_row_moves_and_nothing_is_packed():
    made, known = packs()
    assert known == () and (made.even(lengths()) == np.arange(P)).all()
    length_PG = lengths()
    tokens = np.zeros((P, G, T), np.int32)
    mask = np.arange(T)[None, None] < length_PG[..., None]
    found = made.layouts(tokens, mask, np.zeros(P, np.int32))
    assert found.minibatches == [None, None]
    assert (found.used, found.slots) == (fed(length_PG).sum(), P * G * (T - 1))


class Other(Group):
    """Another process beside this one, which has longer responses in its second minibatch."""

    def __init__(self):
        super().__init__(count=2)

    def gather(self, value, name):
        (first, second), used = value
        return [value, ([first, 2 * second], used + second)]


def test_all_processes_take_the_smallest_size_that_holds_what_any_of_them_has():
    length_PG = np.full((P // 2, G), 5)  # four of 20 slots
    tokens = np.zeros((P // 2, G, T), np.int32)
    mask = np.arange(T)[None, None] < length_PG[..., None]
    made, known = packs(0.25, 0.5, group=Other())
    assert known == (80, 160)  # of 4 rows x 4 responses x 20
    found = made.layouts(tokens, mask, np.zeros(P // 2, np.int32))
    assert [each.token_BL.shape for each in found.minibatches] == [(2, 80), (2, 160)]
    assert found.slots == 2 * 2 * (80 + 160)


def test_a_full_row_fits_no_share_and_a_pack_that_does_not_fit_is_refused():
    made, _ = packs(0.9)
    mask = np.ones((P, G, T), bool)
    tokens, position = np.zeros((P, G, T), np.int32), np.zeros(P, np.int32)
    assert made.layouts(tokens, mask, position).minibatches == [None, None]
    with pytest.raises(ValueError, match="in 80 places"):
        layout(tokens, mask.sum(-1), position, 2, 2, 80)


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.5, 0.5), (0.0,), (1.0,)])
def test_shares_rise_between_0_and_1(shares):
    with pytest.raises(ValueError, match="batch.packed_shares"):
        BatchConfig(packed_shares=shares)
