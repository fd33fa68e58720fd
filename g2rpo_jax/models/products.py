"""Matrix products of narrow numbers, summed in float32; so are those of the backward pass."""

import functools

import jax
import jax.numpy as jnp


def product(a: jax.Array, b: jax.Array, narrow: bool = False) -> jax.Array:
    """a times b, in float32 at least (float64 of float64).

    Where the factors are bfloat16, the gradient that comes back is rounded to it before it is
    multiplied on: JAX would widen the other factor instead, and a product of float32 takes twice to
    four times as long. Nothing is lost where the product itself is rounded at once, as in a layer.
    Args:
      a: [*batch, ..., J].
      b: [*batch, J, O], of the same dtype; its leading axes are a's first.
      narrow: the result, and the gradient of a, in the dtype of the factors. A device still sums in
        float32; what devices add to one another's sums is rounded before it travels, and is half.
    Returns:
      [*batch, ..., O].
    """
    return _dot(a, b) if _wide(a) == a.dtype else _narrow(narrow, a, b)


def _wide(a: jax.Array) -> jnp.dtype:
    return jnp.promote_types(a.dtype, jnp.float32)


def _dot(a: jax.Array, b: jax.Array, narrow: bool = False) -> jax.Array:
    batch = tuple(range(b.ndim - 2))
    dims = (((a.ndim - 1,), (b.ndim - 2,)), (batch, batch))
    kind = a.dtype if narrow else _wide(a)
    return jax.lax.dot_general(a, b, dims, preferred_element_type=kind)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow(narrow: bool, a: jax.Array, b: jax.Array) -> jax.Array:
    return _dot(a, b, narrow)


def _forward(narrow, a, b):
    return _narrow(narrow, a, b), (a, b)


def _backward(narrow, saved, grad):
    a, b = saved
    grad = grad.astype(a.dtype)
    batch, free = tuple(range(b.ndim - 2)), tuple(range(b.ndim - 2, a.ndim - 1))
    dims = (((a.ndim - 1,), (b.ndim - 1,)), (batch, batch))
    kind = a.dtype if narrow else _wide(a)
    grad_a = jax.lax.dot_general(grad, b, dims, preferred_element_type=kind)
    dims = ((free, free), (batch, batch))
    grad_b = jax.lax.dot_general(a, grad, dims, preferred_element_type=_wide(a))
    return grad_a.astype(a.dtype), grad_b.astype(b.dtype)


_narrow.defvjp(_forward, _backward)
