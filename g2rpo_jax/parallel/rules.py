"""Which mesh axis each parameter axis is divided over: path -> logical axes -> mesh axes."""

import re

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Logical axes. `layer` is the stacked axis, never divided.
MESH_AXIS = {"width": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor", None: None}

# First match wins. Axes are counted from the right, so stacked layers need no rules of their own.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|\.)(embedding|head)(\.|$)", ("vocab", "width")),
    (r"(^|\.)[qkv]_proj(\.|$)", ("width", "heads")),
    (r"(^|\.)[qkv]_bias(\.|$)", ("heads",)),
    (r"(^|\.)o_proj(\.|$)", ("heads", "width")),
    (r"(^|\.)(gate|up)_proj(\.|$)", ("width", "mlp")),
    (r"(^|\.)up_bias(\.|$)", ("mlp",)),
    (r"(^|\.)down_proj(\.|$)", ("mlp", "width")),
    (r"(^|\.)(patch_proj|pos_embed)(\.|$)", (None, "width")),
)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How one parameter is divided.

    An axis that does not divide over its mesh axis is kept whole.
    Args:
      path: dotted path of the parameter.
      shape: its shape.
      mesh: with axes fsdp and tensor.
    """
    for pattern, logical in RULES:
        if re.search(pattern, path) and len(shape) >= len(logical):
            names = (None,) * (len(shape) - len(logical)) + logical
            axes = [MESH_AXIS[name] for name in names]
            return PartitionSpec(
                *(
                    axis if axis and size % mesh.shape[axis] == 0 else None
                    for axis, size in zip(axes, shape, strict=True)
                )
            )
    return PartitionSpec()


def sharding_of(mesh: Mesh, path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """`spec_of` for a path in parts, as weight loading asks."""
    return NamedSharding(mesh, spec_of(".".join(map(str, path)), shape, mesh))


def path_name(path) -> str:
    """A pytree key path as 'a.b.0.c'."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def shardings(tree, mesh: Mesh):
    """NamedShardings of a tree of parameters, or of optimiser state that mirrors them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec_of(path_name(path), x.shape, mesh)), tree
    )
