"""Rows of a table by index, with a backward pass that every backend can run."""

import functools

import jax
import jax.numpy as jnp

from g2rpo_jax.parallel.constrain import constrain, use

TOKENS_PER_PASS = 1024  # rows of the one-hot matrix that live at once


def embed(
    table_VD: jax.Array, index: jax.Array, gradient: str = "scatter", name: str = "embedding"
) -> jax.Array:
    """table[index], [..., D]. An index outside [0, V) takes the nearest row.

    Over several devices each looks up its slice of the width for the rows of all that share the
    table, and what is found moves to the devices that hold the rows: no gather runs along a divided
    axis, and no device holds the table or its gradient whole.
    Args:
      table_VD: any float dtype.
      index: int32, any shape.
      gradient: how the table's gradient is summed, in float32 at least: "scatter" adds row by row;
        "onehot" multiplies by one-hot matrices, 1024 tokens at a time, for a backend without a
        trustworthy scatter-add (Neuron).
      name: the parameter, as the sharding rules know it.
    """
    table_VD = use(name, jnp.asarray(table_VD), None, "lookup_width")
    index = constrain(jnp.asarray(index), "lookup_rows")
    out = _embed(gradient, table_VD.shape[0], table_VD, index)
    whole = (None,) * (index.ndim - 1)
    for rows, width in SLICES:
        out = constrain(out, rows, *whole, width)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _embed(gradient: str, size: int, table_VD: jax.Array, index: jax.Array) -> jax.Array:
    index = jnp.clip(index, 0, size - 1)
    return table_VD.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _forward(gradient, size, table_VD, index):
    # The empty slice carries the table's dtype to the backward pass.
    return _embed(gradient, size, table_VD, index), (index, table_VD[:0])


def _backward(gradient, size, saved, grad):
    index, empty_0D = saved
    D = grad.shape[-1]
    wide = jnp.promote_types(grad.dtype, jnp.float32)
    index_N = jnp.clip(index.reshape(-1), 0, size - 1)
    grad_ND = grad.reshape(-1, D).astype(wide)
    table_VD = constrain(GRADIENTS[gradient](size, index_N, grad_ND), None, "lookup_width")
    return table_VD.astype(empty_0D.dtype), None


_embed.defvjp(_forward, _backward)


def _scatter(size: int, index_N: jax.Array, grad_ND: jax.Array) -> jax.Array:
    zeros_VD = constrain(jnp.zeros((size, grad_ND.shape[1]), grad_ND.dtype), None, "lookup_width")
    at = zeros_VD.at[index_N]
    return at.add(grad_ND, mode="promise_in_bounds", wrap_negative_indices=False)


def _onehot(size: int, index_N: jax.Array, grad_ND: jax.Array) -> jax.Array:
    N, D = grad_ND.shape
    chunk = min(N, TOKENS_PER_PASS)
    chunks = -(-N // chunk)
    # Padding has index 0 and gradient 0.
    index_cn = jnp.pad(index_N, (0, chunks * chunk - N)).reshape(chunks, chunk)
    grad_cnD = jnp.pad(grad_ND, ((0, chunks * chunk - N), (0, 0))).reshape(chunks, chunk, D)

    def add(total_VD, part):
        index_n, grad_nD = part
        onehot_Vn = jnp.arange(size, dtype=index_n.dtype)[:, None] == index_n[None]
        product = jax.lax.dot(
            onehot_Vn.astype(grad_nD.dtype), grad_nD, precision=jax.lax.Precision.HIGHEST
        )
        return constrain(total_VD + product, None, "lookup_width"), None

    total_VD, _ = jax.lax.scan(add, jnp.zeros((size, D), grad_ND.dtype), (index_cn, grad_cnD))
    return total_VD


# How what was found moves, one exchange at a time: gathered over tensor, then from slices of the
# width to slices of the rows. The gradient goes the same way back.
SLICES = (("lookup_rows", "lookup_width"), ("lookup_rows", "lookup_moving"), ("rows", None))
GRADIENTS = {"scatter": _scatter, "onehot": _onehot}
