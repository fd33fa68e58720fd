"""Attention of a row: one prompt and its G responses on one sequence axis.

Prompt tokens attend causally to the prompt; the tokens of response g attend to the whole prompt
and causally to response g. The second is two ordinary attentions merged by their log-sum-exp, so
nothing of the prompt is ever repeated G times, and no mask of the whole row exists.
Decoding is the same with one query token.

Head axes: query head q = k * R + r reads key head k; keys and values keep their K heads.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from g2rpo_jax.models.products import product
from g2rpo_jax.models.qwen3_vl import kernels

HIDDEN = -1e9  # a finite mask: an infinity times zero inside a matrix engine would be NaN
# Scores that one pass over the keys may hold for one row and head; more are worked through in
# chunks of queries that the backward pass recomputes. 1024 queries by 1024 keys.
SCORES_PER_PASS = 1024 * 1024


class Partial(NamedTuple):
    """Softmax attention over some of the keys, not yet divided by the sum of its weights."""

    sum_BKRLH: jax.Array  # sum over keys of exp(score - peak) * value
    peak_BKRL: jax.Array  # the largest score, or anything near: it cancels
    total_BKRL: jax.Array  # sum over keys of exp(score - peak)


Visible = Callable[[jax.Array], jax.Array]  # query tags [B | 1, L] -> bool [B | 1, L, keys]


def attend(
    q_BLKRH: jax.Array,
    key_BKHS: jax.Array,
    value_BKSH: jax.Array,
    tag_BL: jax.Array,
    visible: Visible,
    scores_per_pass: int = SCORES_PER_PASS,
) -> Partial:
    """Attention of L queries over S keys, both with K key heads and R query heads on each.

    Args:
      q_BLKRH: queries, not scaled.
      key_BKHS: keys, features before tokens: scores are then a plain matrix product.
      value_BKSH: values.
      tag_BL: int32, first axis B or 1: what `visible` needs to know of each query (its place, or
        its image).
      visible: tags -> which keys a query sees. A query that sees none averages all keys: finite,
        and of no weight once merged with an attention that sees one.
      scores_per_pass: L * S beyond which the queries are worked through in chunks.
    Returns:
      float32 (float64 for float64 queries), to be `merge`d or `finish`ed.
    """
    L, S = q_BLKRH.shape[1], key_BKHS.shape[3]
    if L * S <= scores_per_pass or L == 1:
        return _attend(q_BLKRH, key_BKHS, value_BKSH, visible(tag_BL))
    chunk = max(1, scores_per_pass // S)
    chunks = -(-L // chunk)

    def cut(x: jax.Array) -> jax.Array:
        """[B, L, ...] -> [chunks, B, chunk, ...], padded with zeros behind."""
        pad = [(0, 0), (0, chunks * chunk - L)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, pad).reshape(x.shape[0], chunks, chunk, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    @jax.checkpoint
    def one(part: tuple[jax.Array, jax.Array]) -> Partial:
        return _attend(part[0], key_BKHS, value_BKSH, visible(part[1]))

    parts = jax.lax.map(one, (cut(q_BLKRH), cut(tag_BL)))

    def join(x: jax.Array) -> jax.Array:
        """[chunks, B, K, R, chunk, ...] -> [B, K, R, L, ...]"""
        x = jnp.moveaxis(x, 0, 3)
        return x.reshape(*x.shape[:3], chunks * chunk, *x.shape[5:])[:, :, :, :L]

    return jax.tree.map(join, parts)


def _attend(q_BLKRH, key_BKHS, value_BKSH, visible_BLS) -> Partial:
    B, L, K, R, H = q_BLKRH.shape
    # Plain products of [R * L, H] by [H, S] and [R * L, S] by [S, H], in this order of operands:
    # left to einsum, the first became keys by queries, up to ten times slower on a CPU.
    q_BKAH = q_BLKRH.transpose(0, 2, 3, 1, 4).reshape(B, K, R * L, H)
    score_BKRLS = product(q_BKAH, key_BKHS).reshape(B, K, R, L, -1)
    score_BKRLS = jnp.where(visible_BLS[:, None, None], score_BKRLS * H**-0.5, HIDDEN)
    # A constant for the gradient: the result does not depend on it.
    peak_BKRL = jax.lax.stop_gradient(score_BKRLS.max(-1))
    weight_BKRLS = jnp.exp(score_BKRLS - peak_BKRL[..., None])
    total_BKRL = weight_BKRLS.sum(-1)
    weight_BKAS = weight_BKRLS.astype(value_BKSH.dtype).reshape(B, K, R * L, -1)
    sum_BKAH = product(weight_BKAS, value_BKSH)
    return Partial(sum_BKAH.reshape(B, K, R, L, H), peak_BKRL, total_BKRL)


def merge(a: Partial, b: Partial) -> Partial:
    """Attention over the keys of both, from attention over each."""
    peak = jnp.maximum(a.peak_BKRL, b.peak_BKRL)
    scale_a, scale_b = jnp.exp(a.peak_BKRL - peak), jnp.exp(b.peak_BKRL - peak)
    return Partial(
        a.sum_BKRLH * scale_a[..., None] + b.sum_BKRLH * scale_b[..., None],
        peak,
        a.total_BKRL * scale_a + b.total_BKRL * scale_b,
    )


def finish(part: Partial, dtype: jnp.dtype) -> jax.Array:
    """The attention's output [B, L, K * R * H]."""
    out_BKRLH = (part.sum_BKRLH / part.total_BKRL[..., None]).astype(dtype)
    B, K, R, L, H = out_BKRLH.shape
    return out_BKRLH.transpose(0, 3, 1, 2, 4).reshape(B, L, K * R * H)


def prompt_attention(q_PSKRH, k_PSKH, v_PSKH, mask_PS, kernel: str = "none") -> jax.Array:
    """Causal attention of prompts padded behind: [P, S, K * R * H]; `kernel`: of `KERNELS`."""
    if kernels.use(kernel, q_PSKRH.dtype):
        return kernels.causal_attention(q_PSKRH, k_PSKH, v_PSKH, kernel)
    place_S = jnp.arange(q_PSKRH.shape[1], dtype=jnp.int32)

    def visible(place_1L: jax.Array) -> jax.Array:
        return (place_1L[:, :, None] >= place_S[None, None]) & mask_PS[:, None]

    part = attend(q_PSKRH, features_first(k_PSKH), heads_first(v_PSKH), place_S[None], visible)
    return finish(part, q_PSKRH.dtype)


def response_attention(q_PGUKRH, k_PGUKH, v_PGUKH, key_PKHS, value_PKSH, mask_PS) -> jax.Array:
    """Responses over their prompt, densely, and over themselves, causally: [P, G * U, K * R * H].

    Args:
      q_PGUKRH, k_PGUKH, v_PGUKH: U tokens of each response.
      key_PKHS, value_PKSH: the prompt's, once per row.
      mask_PS: True where a prompt token is.
    """
    P, G, U, K, R, H = q_PGUKRH.shape
    place_U = jnp.arange(U, dtype=jnp.int32)

    def causal(place_1L: jax.Array) -> jax.Array:
        return place_1L[:, :, None] >= place_U[None, None]

    def prompt(place_1L: jax.Array) -> jax.Array:
        return mask_PS[:, None]

    over_prompt = attend(
        q_PGUKRH.reshape(P, G * U, K, R, H),
        key_PKHS,
        value_PKSH,
        jnp.zeros((1, G * U), jnp.int32),
        prompt,
    )
    over_self = attend(
        q_PGUKRH.reshape(P * G, U, K, R, H),
        features_first(k_PGUKH.reshape(P * G, U, K, H)),
        heads_first(v_PGUKH.reshape(P * G, U, K, H)),
        place_U[None],
        causal,
    )

    def rows(x: jax.Array) -> jax.Array:
        """[P * G, K, R, U, ...] -> [P, K, R, G * U, ...]"""
        x = jnp.moveaxis(x.reshape(P, G, *x.shape[1:]), 1, 3)
        return x.reshape(P, K, R, G * U, *x.shape[5:])

    return finish(merge(over_prompt, jax.tree.map(rows, over_self)), q_PGUKRH.dtype)


def decode_attention(
    q_PGKRH, own_key_BKHT, own_value_BKTH, key_PKHS, value_PKSH, mask_PS, t
) -> jax.Array:
    """One query token per response over its prompt and its own first t + 1 tokens: [P * G, Q * H].

    Args:
      q_PGKRH: the queries of the token fed now.
      own_key_BKHT, own_value_BKTH: the caches of all P * G responses; what lies behind t is hidden.
      key_PKHS, value_PKSH: the prompt's cache, once per row.
      mask_PS: True where a prompt token is.
      t: scalar int32, the index of the token fed now.
    """
    P, G, K, R, H = q_PGKRH.shape
    T = own_key_BKHT.shape[-1]
    seen_11T = (jnp.arange(T, dtype=jnp.int32) <= t)[None, None]
    over_prompt = _attend(q_PGKRH, key_PKHS, value_PKSH, mask_PS[:, None])
    over_self = _attend(
        q_PGKRH.reshape(P * G, 1, K, R, H),
        own_key_BKHT,
        own_value_BKTH,
        seen_11T,
    )

    def rows(x: jax.Array) -> jax.Array:
        """[P * G, K, R, 1, ...] -> [P, K, R, G, ...]"""
        return jnp.moveaxis(x.reshape(P, G, K, R, *x.shape[4:]), 1, 3)

    out_PGA = finish(merge(over_prompt, jax.tree.map(rows, over_self)), q_PGKRH.dtype)
    return out_PGA.reshape(P * G, K * R * H)


def image_attention(q_PNAH, k_PNAH, v_PNAH, segment_PN) -> jax.Array:
    """Patches attend to all patches of their own image (segment): [P, N, A * H]."""

    def visible(segment_PL: jax.Array) -> jax.Array:
        return segment_PL[:, :, None] == segment_PN[:, None]

    part = attend(
        q_PNAH[:, :, :, None], features_first(k_PNAH), heads_first(v_PNAH), segment_PN, visible
    )
    return finish(part, q_PNAH.dtype)


def features_first(k_BSKH: jax.Array) -> jax.Array:
    """Keys as they are cached: [B, K, H, S]. Scores from this layout were three times faster."""
    return k_BSKH.transpose(0, 2, 3, 1)


def heads_first(v_BSKH: jax.Array) -> jax.Array:
    """Values as they are cached: [B, K, S, H]."""
    return v_BSKH.transpose(0, 2, 1, 3)
