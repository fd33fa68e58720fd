"""Matrix products of narrow numbers, summed in float32; so are those of the backward pass."""

import jax
import jax.numpy as jnp


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a times b, in float32 at least (float64 of float64).

    Where the factors are bfloat16, the gradient that comes back is rounded to it before it is
    multiplied on: JAX would widen the other factor instead, and a product of float32 takes twice to
    four times as long. Nothing is lost where the product itself is rounded at once, as in a layer.
    Args:
      a: [*batch, ..., J].
      b: [*batch, J, O], of the same dtype; its leading axes are a's first.
    Returns:
      [*batch, ..., O].
    """
    return _dot(a, b) if _wide(a) == a.dtype else _narrow(a, b)


def _wide(a: jax.Array) -> jnp.dtype:
    return jnp.promote_types(a.dtype, jnp.float32)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    batch = tuple(range(b.ndim - 2))
    dims = (((a.ndim - 1,), (b.ndim - 2,)), (batch, batch))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=_wide(a))


@jax.custom_vjp
def _narrow(a: jax.Array, b: jax.Array) -> jax.Array:
    return _dot(a, b)


def _forward(a, b):
    return _narrow(a, b), (a, b)


def _backward(saved, grad):
    a, b = saved
    grad = grad.astype(a.dtype)
    batch, free = tuple(range(b.ndim - 2)), tuple(range(b.ndim - 2, a.ndim - 1))
    dims = (((a.ndim - 1,), (b.ndim - 1,)), (batch, batch))
    grad_a = jax.lax.dot_general(grad, b, dims, preferred_element_type=_wide(a))
    dims = ((free, free), (batch, batch))
    grad_b = jax.lax.dot_general(a, grad, dims, preferred_element_type=_wide(a))
    return grad_a.astype(a.dtype), grad_b.astype(b.dtype)


_narrow.defvjp(_forward, _backward)
