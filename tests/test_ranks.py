"""Rank quantiles: parity with a torch transcription, and equal ranks to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import ranks

GROUP_RANK = jax.jit(ranks.RANKS["comparison"].within_group, static_argnums=2)
TRANSPORT = jax.jit(ranks.RANKS["erfinv"].within_group, static_argnums=2)


def torch_algorithm_1(reward):
    """The paper's Algorithm 1: sort, quantiles, equal rewards share their mean, put back."""
    n = len(reward)
    if n <= 1:
        return torch.zeros(n, dtype=torch.float64)
    ordered, index = torch.sort(reward)
    p = (torch.arange(1, n + 1, dtype=torch.float64) - 0.5) / n
    q = torch.sqrt(torch.tensor(2.0, dtype=torch.float64)) * torch.erfinv(2 * p - 1)
    _, tie, size = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    mean = torch.zeros(len(size), dtype=torch.float64).scatter_add_(0, tie, q) / size
    return torch.empty(n, dtype=torch.float64).scatter_(0, index, mean[tie])


def test_ten_thousand_vectors_against_torch():
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 8, 16):
        tied = rng.integers(0, rng.integers(1, 6, (1400, 1)), (1400, size)) / 4
        graded = rng.random((600, size))
        reward = np.concatenate([tied, graded]).astype(np.float32)
        expected = np.stack([torch_algorithm_1(torch.tensor(row)).numpy() for row in reward])
        everyone = np.ones(reward.shape, bool)
        for ranking in (GROUP_RANK, TRANSPORT):
            assert_allclose(ranking(reward, everyone, False), expected, atol=3e-6)


def test_variance_of_untied_quantiles_and_its_rescaling():
    for n, variance in {2: 0.455, 5: 0.767, 8: 0.851, 32: 0.961}.items():
        reward = np.random.default_rng(n).permutation(n)[None].astype(np.float32)
        everyone = np.ones((1, n), bool)
        assert_allclose(np.var(GROUP_RANK(reward, everyone, False)), variance, atol=0.0006)
        assert_allclose(np.var(GROUP_RANK(reward, everyone, True)), 1.0, rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 8), (33, 5), (64, 16)])
def test_equal_rank_counts_give_identical_bits_in_every_group(shape):
    rng = np.random.default_rng(1)
    reward = rng.integers(0, 4, shape).astype(np.float32) * rng.random((shape[0], 1))
    reward = reward.astype(np.float32)
    valid = rng.random(shape) > 0.25
    peer = valid[:, None, :]
    below = np.sum((reward[:, None, :] < reward[:, :, None]) & peer, -1)
    upto = np.sum((reward[:, None, :] <= reward[:, :, None]) & peer, -1)
    count = np.broadcast_to(valid.sum(1, keepdims=True), shape)
    value = np.asarray(GROUP_RANK(reward, valid, False)).view(np.uint32)
    seen = {}
    for key, mine in zip(
        zip(count[valid], below[valid], upto[valid], strict=True), value[valid], strict=True
    ):
        assert seen.setdefault(key, mine) == mine


def test_whole_batch_ranks_are_accurate_and_do_not_depend_on_the_block_size(monkeypatch):
    rng = np.random.default_rng(3)
    value = jnp.asarray(rng.integers(0, 900, (128, 8)), jnp.float32)
    valid = jnp.asarray(rng.random((128, 8)) > 0.1)
    task = jnp.asarray(rng.integers(0, 2, 128), jnp.int32)
    whole = np.asarray(ranks.task_rank(value, valid, task, 2))
    monkeypatch.setattr(ranks, "COMPARISONS_AT_ONCE", 150 * 1024)  # seven blocks, the last short
    assert_array_equal(ranks.task_rank(value, valid, task, 2), whole)
    for k in range(2):
        here = np.asarray(valid & (task == k)[:, None])
        expected = torch_algorithm_1(torch.tensor(np.asarray(value)[here])).numpy()
        assert_allclose(whole[here], expected, atol=3e-6)
