"""What every axis is divided over: one table of logical axes, for parameters and for activations.

A parameter has two layouts. *Stored*, it is divided over fsdp and tensor, as its gradient and its
optimiser state are; *used*, inside a layer, it is gathered over fsdp. Activations have one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class Axis(NamedTuple):
    """Mesh axes of a logical axis, the outermost first."""

    stored: tuple[str, ...]  # of parameters, gradients, optimiser state
    used: tuple[str, ...]  # of activations, and of weights while a layer uses them


# Stacked layers, tokens and features of a head are never divided: axes without a name.
AXES: dict[str, Axis] = {
    "rows": Axis((), ("data", "fsdp")),
    "width": Axis(("fsdp",), ()),
    "heads": Axis(("tensor",), ("tensor",)),
    "mlp": Axis(("tensor",), ("tensor",)),
    "experts": Axis(("tensor",), ("tensor",)),
    "vocab": Axis(("tensor",), ("tensor",)),
    "kept": Axis((), ("tensor",)),  # the width of what a layer's backward pass starts from
    # A table is looked up in slices of its width, never across its rows; what is found then moves
    # to the devices that hold the tokens.
    "lookup_rows": Axis((), ("data",)),
    "lookup_width": Axis((), ("fsdp", "tensor")),
    "lookup_moving": Axis((), ("fsdp",)),
    # Unembedding over the whole vocabulary's shards at once (mesh.vocab="all"), and sampling, or
    # unembedding with mesh.vocab="none", over tokens.
    "vocab_all": Axis((), ("tensor", "fsdp")),
    "tokens": Axis((), ("tensor",)),
}

# First match wins. Axes are counted from the right, so stacked layers need no rules of their own.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|\.)(embedding|head)(\.|$)", ("vocab", "width")),
    (r"(^|\.)[qkv]_proj(\.|$)", ("width", "heads")),
    (r"(^|\.)[qkv]_bias(\.|$)", ("heads",)),
    (r"(^|\.)o_proj(\.|$)", ("heads", "width")),
    (r"(^|\.)(gate|up)_proj(\.|$)", ("width", "mlp")),
    (r"(^|\.)up_bias(\.|$)", ("mlp",)),
    (r"(^|\.)down_proj(\.|$)", ("mlp", "width")),
    (r"(^|\.)router_proj(\.|$)", ("width", None)),
    (r"(^|\.)experts_up_proj(\.|$)", ("experts", "width", None)),
    (r"(^|\.)experts_down_proj(\.|$)", ("experts", None, "width")),
    (r"(^|\.)([qkv]|gate|up)_proj_lora_a(\.|$)", ("width", None)),
    (r"(^|\.)o_proj_lora_a(\.|$)", ("heads", None)),
    (r"(^|\.)down_proj_lora_a(\.|$)", ("mlp", None)),
    (r"(^|\.)[qkv]_proj_lora_b(\.|$)", (None, "heads")),
    (r"(^|\.)(gate|up)_proj_lora_b(\.|$)", (None, "mlp")),
    (r"(^|\.)(o|down)_proj_lora_b(\.|$)", (None, "width")),
    (r"(^|\.)(patch_proj|pos_embed)(\.|$)", (None, "width")),
)


def logical_axes(path: str) -> tuple[str | None, ...]:
    """The logical axes of a parameter, counted from the right; () if it is kept whole."""
    for pattern, axes in RULES:
        if re.search(pattern, path):
            return axes
    return ()


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How one parameter is divided where it is stored.

    A matrix axis that does not divide over its mesh axes is kept whole, and another axis of the
    matrix takes them where it can: 4304 features over 32 devices are cut along the width instead.
    Args:
      path: dotted path of the parameter.
      shape: its shape.
      mesh: with axes data, fsdp and tensor (a jax Mesh or AbstractMesh).
    """
    axes = logical_axes(path)
    if not axes or len(shape) < len(axes):
        return PartitionSpec()
    sizes = shape[len(shape) - len(axes) :]
    wanted = [AXES[axis].stored if axis else () for axis in axes]
    ways: list[tuple[str, ...]] = [
        _fit(size, w, mesh) for size, w in zip(sizes, wanted, strict=True)
    ]
    if len(axes) > 1:
        for name in ("fsdp", "tensor"):
            if mesh.shape[name] == 1 or any(name in way for way in ways):
                continue
            for i in reversed(range(len(axes))):
                if _fit(sizes[i], (*ways[i], name), mesh):
                    ways[i] = (*ways[i], name)
                    break
    return _spec([()] * (len(shape) - len(axes)) + ways)


def used_spec(shape: tuple[int, ...], axes: Sequence[str | None], mesh) -> PartitionSpec:
    """How an activation with these logical axes is divided; an axis that does not divide is whole.

    Args:
      shape: of the array.
      axes: names in AXES or None; missing ones at the end are None.
      mesh: as in `spec_of`.
    """
    axes = (*axes, *[None] * (len(shape) - len(axes)))
    ways = [
        _fit(size, AXES[axis].used, mesh) if axis else ()
        for size, axis in zip(shape, axes, strict=True)
    ]
    return _spec(ways)


def _fit(size: int, names: tuple[str, ...], mesh) -> tuple[str, ...]:
    """The mesh axes if the size divides over them, else none."""
    shape: Mapping[str, int] = mesh.shape
    ways = 1
    for name in names:
        ways *= shape[name]
    return names if size % ways == 0 else ()


def _spec(ways: Sequence[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(way if len(way) > 1 else (way[0] if way else None) for way in ways))


def copied(tree, mesh: Mesh):
    """NamedShardings of a copy of parameters that is used as it lies: divided over tensor alone."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, _copied(path_name(path), x.shape, mesh)), tree
    )


def _copied(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    axes = logical_axes(path)
    return used_spec(shape, [None] * (len(shape) - len(axes)) + list(axes), mesh)


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
