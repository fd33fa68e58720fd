"""Activations and weights in use, divided as the rules say; nothing at all without a mesh.

A program learns its mesh when it is traced: `jax.jit(over(mesh, function))`. The functions inside
say what their axes are, never where they lie, and stay usable on one device.
"""

import functools
from collections.abc import Callable, Collection

import jax
from jax.sharding import Mesh

from g2rpo_jax.parallel import rules

# Cast before they are gathered; a layer casts them anyway.
MATRICES = ("_proj", "_lora_a", "_lora_b")


def over(mesh: Mesh, function: Callable) -> Callable:
    """`function`, to be jitted; what it computes is divided over `mesh` as `constrain` says."""
    if mesh.size == 1:
        return function

    @functools.wraps(function)
    def divided(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return divided


def current():
    """The mesh of the program that is being traced, or None."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """x, divided by its logical axes (`rules.AXES`); axes left out at the end are whole.

    An axis whose size does not divide over its mesh axes is whole. The gradient is divided alike.
    """
    mesh = current()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, rules.used_spec(x.shape, axes, mesh))


def stored(tree):
    """A tree of gradients or parameters, divided as parameters are stored."""
    mesh = current()
    if mesh is None:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jax.lax.with_sharding_constraint(
            x, rules.spec_of(rules.path_name(path), x.shape, mesh)
        ),
        tree,
    )


def weights(
    named: dict[str, jax.Array], dtype, whole: Collection[str] = ()
) -> dict[str, jax.Array]:
    """One layer's weights as it uses them: gathered over fsdp, matrices in `dtype`.

    Matrices are cast before they travel. Their gradients go back to where the parameter is stored.
    Args:
      named: by the last part of the parameter's path.
      dtype: of the layer's matrix products.
      whole: names of those that are gathered over tensor as well.
    """
    if current() is None:
        return named

    def gather(name: str, w: jax.Array) -> jax.Array:
        axes = rules.logical_axes(name)
        w = w.astype(dtype) if name.endswith(MATRICES) else w
        return use(name, w, *[None if name in whole else axis for axis in axes]) if axes else w

    return {name: gather(name, w) for name, w in named.items()}


def use(name: str, w: jax.Array, *axes: str | None) -> jax.Array:
    """A parameter, divided by these axes while it is used; its gradient as it is stored.

    Args:
      name: the parameter's path, or the last part of it, for its rule.
      w: one layer's, or all there is.
    """
    return w if current() is None else _use(name, axes, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _use(name: str, axes: tuple[str | None, ...], w: jax.Array) -> jax.Array:
    return constrain(w, *axes)


def _forward(name, axes, w):
    return constrain(w, *axes), None


def _backward(name, axes, _, grad):
    return (stored({name: grad})[name],)


_use.defvjp(_forward, _backward)


def ways(axis: str) -> int:
    """Into how many parts a logical axis of an activation is divided; 1 without a mesh."""
    mesh = current()
    if mesh is None:
        return 1
    total = 1
    for name in rules.AXES[axis].used:
        total *= mesh.shape[name]
    return total


def key_copies(heads: int, key_heads: int, tensor: int) -> int:
    """How often each key head is repeated so that key heads divide over `tensor` devices.

    More devices than key heads: the devices of one key head hold a copy each, and share out its
    query heads.
    Raises:
      ValueError: heads cannot be divided; names mesh.tensor.
    """
    if key_heads % tensor == 0:
        return 1
    if tensor % key_heads or heads % tensor:
        raise ValueError(
            f"mesh.tensor={tensor} cannot divide {heads} query heads and {key_heads} key heads: "
            f"use a divisor of {key_heads}, or a multiple of {key_heads} that divides {heads}"
        )
    return tensor // key_heads


def saveable(primitive, *_, **__) -> bool:
    """A remat policy: everything is kept for the backward pass but gathered weights."""
    return primitive.name != "sharding_constraint"
