"""Layer after layer over stacked weights: one scanned body, or the layers written out.

Scanned: one layer is compiled, whatever the depth; every turn copies its slices of the stacked
weights and caches, and what the backward pass needs goes through stacked arrays. Written out:
nothing is copied, but every layer is compiled.
"""

import jax
import jax.numpy as jnp


def over_layers(body, carry, stacked, unrolled: bool):
    """`jax.lax.scan(body, carry, stacked)`, or the same written out.

    Args:
      body: (carry, one layer's slices) -> (carry, output).
      stacked: a tree of arrays with a leading layer axis.
    Returns:
      the last carry, and the outputs stacked.
    """
    if not unrolled:
        return jax.lax.scan(body, carry, stacked)
    outputs = []
    for part in apart(stacked):
        carry, output = body(carry, part)
        outputs.append(output)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *outputs)


def apart(stacked) -> list:
    """The layers of a tree of stacked arrays; their gradients are stacked again, not added up."""
    leaves, form = jax.tree.flatten(stacked)
    columns = [_unstack(leaf) for leaf in leaves]
    return [form.unflatten(row) for row in zip(*columns, strict=True)]


@jax.custom_vjp
def _unstack(x: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(x[i] for i in range(x.shape[0]))


_unstack.defvjp(lambda x: (_unstack(x), None), lambda _, grads: (jnp.stack(grads),))
