"""Parameters and moments in bfloat16, updated as if there were more bits: rounded by chance.

A step of 2e-6 on a weight of 0.02 is a sixtieth of bfloat16's spacing there, and a second moment
with b2 = 0.999 moves by a quarter of it: rounded to the nearest neither would ever move. Rounded up
or down with the right odds they are right on average. The odds come from the numbers themselves and
the count of updates: the same run gives the same bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


def rounded(x: jax.Array, dtype: jnp.dtype, salt: jax.Array) -> jax.Array:
    """x in `dtype`. To bfloat16, up or down by chance: x on average; to others, to the nearest.

    Args:
      x: float32.
      salt: uint32 scalar, another for each update (`salt`).
    """
    dtype = jnp.dtype(dtype)
    if dtype != jnp.bfloat16:
        return x.astype(dtype)
    # A bfloat16 is the upper half of a float32: what is added to the lower half carries with the
    # right odds over the salts. The product spreads the draws of one update over the numbers.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    draw = (bits * jnp.uint32(0x85EBCA6B) + salt) & jnp.uint32(0xFFFF)
    bits = (bits + draw) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def salt(count: jax.Array) -> jax.Array:
    """A uint32; each of its bits depends on all of the count (MurmurHash3's last step)."""
    x = count.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def apply(params, updates, count: jax.Array):
    """params + updates, in the parameters' dtypes.

    Args:
      updates: float32.
      count: int32 scalar, updates so far.
    """
    one = salt(count)
    return jax.tree.map(
        lambda p, u: rounded(p.astype(jnp.promote_types(p.dtype, u.dtype)) + u, p.dtype, one),
        params,
        updates,
    )


class Moments(NamedTuple):
    """State of `adam`; named as optax's."""

    count: jax.Array
    mu: object
    nu: object


def adam(b1: float, b2: float, eps: float, dtype: str) -> optax.GradientTransformation:
    """optax.scale_by_adam with both moments kept in `dtype`; it works in float32.

    Args:
      dtype: "float32" or "bfloat16".
    """
    inner = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)
        return Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params=None):
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (state.mu, state.nu))
        updates, new = inner.update(grads, optax.ScaleByAdamState(state.count, *wide), params)
        one = salt(new.count)
        mu, nu = jax.tree.map(lambda x: rounded(x, dtype, one), (new.mu, new.nu))
        return updates, Moments(new.count, mu, nu)

    return optax.GradientTransformation(init, update)
