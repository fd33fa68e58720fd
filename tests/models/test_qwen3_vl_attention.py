"""Attention of rows against a plain softmax in float64 NumPy, and in chunks against whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2rpo_jax.models.qwen3_vl.embedding import embed
from g2rpo_jax.models.qwen3_vl.row_attention import (
    attend,
    features_first,
    finish,
    heads_first,
    image_attention,
    merge,
    prompt_attention,
    response_attention,
)

P, G, S, U, K, R, H = 2, 3, 7, 4, 2, 2, 8
RNG = np.random.default_rng(0)
MASK_PS = np.arange(S)[None] < np.array([[S], [4]])


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def softmax_attention(q, k, v, visible):
    """One head in float64: q [L, H], k and v [S, H], visible [L, S] -> [L, H]."""
    score = q.astype(np.float64) @ k.T.astype(np.float64) / np.sqrt(q.shape[-1])
    score = np.where(visible, score, -np.inf)
    weight = np.exp(score - score.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True) @ v.astype(np.float64)


def test_a_row_is_attention_over_one_long_sequence_with_a_mask():
    q, k, v = normal(P, S + G * U, K, R, H), normal(P, S + G * U, K, H), normal(P, S + G * U, K, H)
    # The mask that the implementation never makes: prompt causal, responses see prompt and self.
    group = np.repeat(np.arange(G + 1), [S, *[U] * G])
    place = np.arange(S + G * U)
    same = (group[:, None] == group[None]) | (group[None] == 0)
    mask_PLL = (place[:, None] >= place[None]) & same
    key_mask_PL = np.concatenate([MASK_PS, np.ones((P, G * U), bool)], axis=1)
    prompt_out = prompt_attention(q[:, :S], k[:, :S], v[:, :S], MASK_PS)
    own = [x[:, S:].reshape(P, G, U, *x.shape[2:]) for x in (q, k, v)]
    key, value = features_first(k[:, :S]), heads_first(v[:, :S])
    response_out = response_attention(*own, key, value, MASK_PS)
    found = np.concatenate([prompt_out, response_out], axis=1).reshape(P, S + G * U, K, R, H)
    for p in range(P):
        for head in range(K):
            for r in range(R):
                expected = softmax_attention(
                    q[p, :, head, r], k[p, :, head], v[p, :, head], mask_PLL & key_mask_PL[p]
                )
                np.testing.assert_allclose(found[p, :, head, r], expected, rtol=0, atol=2e-6)


def test_patches_see_their_own_image_only():
    q, k, v = normal(1, 9, K, H), normal(1, 9, K, H), normal(1, 9, K, H)
    segment = np.array([[0, 0, 0, 1, 1, 2, 2, -1, -1]])
    found = np.asarray(image_attention(q, k, v, jnp.asarray(segment))).reshape(9, K, H)
    visible = segment[0][:, None] == segment[0][None]
    for head in range(K):
        expected = softmax_attention(q[0, :, head], k[0, :, head], v[0, :, head], visible)
        np.testing.assert_allclose(found[:, head], expected, rtol=0, atol=2e-6)


def test_attention_over_two_sets_of_keys_merges_to_attention_over_both():
    q, k, v = normal(1, 5, K, R, H), 30 * normal(1, S, K, H), normal(1, S, K, H)

    def over(keys):
        tags = jnp.zeros((1, 5), jnp.int32)
        key, value = features_first(k[:, keys]), heads_first(v[:, keys])
        return attend(q, key, value, tags, lambda tag: jnp.ones((1, 1, key.shape[-1]), bool))

    parts = merge(over(slice(0, 2)), over(slice(2, S)))
    whole = over(slice(0, S))
    np.testing.assert_allclose(
        finish(parts, jnp.float32), finish(whole, jnp.float32), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("scores_per_pass", [S, 3 * S, 4 * S])
def test_chunks_of_queries_change_neither_result_nor_gradient(scores_per_pass):
    q, k, v = normal(P, S, K, R, H), normal(P, S, K, H), normal(P, S, K, H)
    weight = normal(P, S, K * R * H)
    place = jnp.arange(S, dtype=jnp.int32)

    def out(limit, q, k, v):
        def visible(tag):
            return (tag[:, :, None] >= place[None, None]) & MASK_PS[:, None]

        key, value = features_first(k), heads_first(v)
        return finish(attend(q, key, value, place[None], visible, limit), q.dtype)

    def value_and_gradient(limit):
        loss = lambda *args: (out(limit, *args) * weight).sum()  # noqa: E731
        return out(limit, q, k, v), jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    found, expected = value_and_gradient(scores_per_pass), value_and_gradient(S * S)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)


def test_long_prompts_never_hold_all_scores_at_once():
    # 4096 queries by 4096 keys would be 64 MiB per head in float32; a pass holds 4 MiB.
    q = jax.ShapeDtypeStruct((1, 4096, 1, 1, 8), jnp.float32)
    k = jax.ShapeDtypeStruct((1, 4096, 1, 8), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, 4096), bool)
    gradient = jax.grad(lambda *args: prompt_attention(*args).sum(), argnums=(0, 1, 2))
    memory = jax.jit(gradient).lower(q, k, k, mask).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 32 * 2**20


@pytest.mark.parametrize("gradient", ["scatter", "onehot"])
def test_rows_of_a_table_and_their_gradient(gradient):
    table = normal(11, 3)
    index = RNG.integers(0, 11, (2, 1100))  # more than one pass of the one-hot form
    weight = normal(2, 1100, 3)
    found = embed(table, index, gradient)
    np.testing.assert_array_equal(found, table[index])
    grad = jax.grad(lambda t: (embed(t, index, gradient) * weight).sum())(table)
    expected = np.zeros((11, 3))
    np.add.at(expected, index, weight.astype(np.float64))
    np.testing.assert_allclose(grad, expected, rtol=0, atol=2e-4)


def test_an_index_outside_the_table_takes_the_nearest_row():
    table = normal(5, 2)
    np.testing.assert_array_equal(embed(table, np.array([-3, 9, 4])), table[[0, 4, 4]])
