"""Reductions under a mask, once for the whole package.

A mask is boolean, or float weights >= 0 (tokens per response, say). Where the mask is 0 the value
may be anything, NaN and infinity included: it is replaced before any arithmetic, so neither results
nor gradients see it. An empty mask gives 0, never NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

AnyArray = Array | np.ndarray
Axis = int | tuple[int, ...] | None
Values = Real[AnyArray, "..."]
Mask = Bool[AnyArray, "..."] | Float[AnyArray, "..."]
Result = Float[Array, "..."]


def sum(x: Values, mask: Mask, axis: Axis = None, keepdims: bool = False) -> Result:
    """Sum of mask * x.

    Args:
      x: numbers of any shape; any value at all where `mask` is 0.
      mask: bool or weights >= 0, the shape of `x`.
      axis: axes to reduce; None reduces all.
      keepdims: keep the reduced axes with length 1.
    Returns:
      float32 (float64 if `x` is); 0 where the mask is empty.
    """
    return jnp.sum(_weighted(x, mask), axis=axis, keepdims=keepdims)


def mean(x: Values, mask: Mask, axis: Axis = None, keepdims: bool = False) -> Result:
    """Weighted mean of x; 0 where the mask is empty. Arguments as in `sum`."""
    total = jnp.sum(_weighted(x, mask), axis=axis, keepdims=keepdims)
    return _divide(total, count(mask, axis, keepdims))


def center(x: Values, mask: Mask, axis: Axis = None) -> Result:
    """x minus its masked mean along `axis`; exactly 0 where all are equal, and where the mask is 0.

    The mean of n equal floats need not be that float (five times 0.1, say), and GRPO divides what
    is left by 1e-6.
    So the smallest masked value is taken off first: equal values become exact zeros.
    """
    x = _float(x)
    inside = jnp.asarray(mask) != 0
    top = jnp.finfo(x.dtype).max  # finite: no infinities in device code
    lowest = jax.lax.stop_gradient(jnp.min(jnp.where(inside, x, top), axis=axis, keepdims=True))
    raised = jnp.where(inside, x - jnp.where(lowest == top, 0.0, lowest), 0.0)
    return jnp.where(inside, raised - mean(raised, mask, axis, keepdims=True), 0.0)


def std(x: Values, mask: Mask, axis: Axis = None, keepdims: bool = False, ddof: int = 0) -> Result:
    """Standard deviation under the mask: sqrt(sum(mask * (x - mean)^2) / (sum(mask) - ddof)).

    Args:
      x, mask, axis, keepdims: as in `sum`.
      ddof: 0 for the population's, 1 for the sample's.
    Returns:
      >= 0; exactly 0 where all masked values are equal or sum(mask) <= ddof, with gradient 0 there.
    """
    square = jnp.square(center(x, mask, axis))
    total = jnp.sum(_weighted(square, mask), axis=axis, keepdims=keepdims)
    variance = _divide(total, count(mask, axis, keepdims) - ddof)
    # sqrt has an infinite slope at 0, which a `where` behind it would turn into NaN.
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def count(mask: Mask, axis: Axis = None, keepdims: bool = False) -> Result:
    """Sum of the mask, in float: integer reductions are lossy on some devices."""
    return jnp.sum(_float(mask), axis=axis, keepdims=keepdims)


def _float(x: Values | Mask) -> Result:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)


def _weighted(x: Values, mask: Mask) -> Result:
    x, mask = _float(x), jnp.asarray(mask)
    if x.shape != mask.shape:
        raise ValueError(
            f"values have shape {x.shape} but their mask {mask.shape}: broadcast the mask first"
        )
    kept = jnp.where(mask != 0, x, 0.0)
    return kept if mask.dtype == jnp.bool_ else kept * mask


def _divide(total: Result, number: Result) -> Result:
    return jnp.where(number > 0, total / jnp.where(number > 0, number, 1.0), 0.0)
