"""Low-rank adapters of the language model's matrices: W + alpha / rank * A B, A and B trained.

B starts at zero, so an adapted model begins as exactly the model it adapts. The adapters of all
layers are stacked and scanned as the layers are. (The kept library for this, qwix, intercepts the
calls of NNX layers; the layers here are plain functions of stacked weights.)
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from g2rpo_jax.models.qwen3_vl.model import Qwen3VL
from g2rpo_jax.parallel import rules

DTYPE = jnp.float32  # of the adapters, whatever the model is kept in


def add(model: Qwen3VL, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Gives the model adapters, in place.

    Args:
      model: its weights may be arrays, on a mesh or not, or ShapeDtypeStructs.
      rank: r; A is [n, in, r], drawn from a normal distribution of variance 1 / in that depends on
        nothing but its name; B is [n, r, out], zero.
      alpha: the product is weighted with alpha / rank.
      targets: names of matrices of the layers.
    Raises:
      ValueError: a target is no matrix of the layers; or there are adapters already.
    """
    layers = model.layers
    known = [
        name
        for name in vars(layers)
        if name.endswith("_proj") and not name.startswith(("router", "experts"))
    ]
    for name in targets:
        if name not in known:
            raise ValueError(f"model.lora_targets: {name!r} is none of {', '.join(known)}")
        if hasattr(layers, f"{name}_lora_a"):
            raise ValueError(f"{name} has an adapter already: merge it first")
        weight = getattr(layers, name).get_value()
        n, size_in, size_out = weight.shape
        draw = functools.partial(_normal, name, (n, size_in, rank), size_in**-0.5)
        zeros = functools.partial(np.zeros, (n, rank, size_out), np.float32)
        setattr(layers, f"{name}_lora_a", _param(weight, f"{name}_lora_a", draw))
        setattr(layers, f"{name}_lora_b", _param(weight, f"{name}_lora_b", zeros))
    layers.lora_scale = alpha / rank


def merge(model: Qwen3VL) -> None:
    """Adds every adapter to its matrix and removes it, in place: a model like any other."""
    layers, scale = model.layers, model.layers.lora_scale
    for name in [name for name in vars(layers) if name.endswith("_proj")]:
        if not hasattr(layers, f"{name}_lora_a"):
            continue
        weight = getattr(layers, name)
        a, b = (getattr(layers, f"{name}_lora_{which}").get_value() for which in "ab")
        old = weight.get_value()
        joined = jax.jit(_joined, static_argnums=3, out_shardings=old.sharding)
        weight.set_value(joined(old, a, b, scale))
        delattr(layers, f"{name}_lora_a")
        delattr(layers, f"{name}_lora_b")
    layers.lora_scale = 0.0


def _joined(weight_nIO, a_nIR, b_nRO, scale: float) -> jax.Array:
    wide = jnp.promote_types(weight_nIO.dtype, DTYPE)
    product = jnp.einsum(
        "nir,nro->nio", a_nIR.astype(wide), b_nRO.astype(wide), precision=jax.lax.Precision.HIGHEST
    )
    return (weight_nIO.astype(wide) + scale * product).astype(weight_nIO.dtype)


def _normal(name: str, shape: tuple[int, ...], std: float) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.standard_normal(shape, np.float32) * np.float32(std)


def _param(weight, name: str, draw) -> nnx.Param:
    """A parameter that lies as `weight` does: nowhere, on a mesh, or on one device."""
    if isinstance(weight, jax.ShapeDtypeStruct):
        return nnx.Param(jax.ShapeDtypeStruct(draw().shape, DTYPE))
    if not isinstance(weight.sharding, NamedSharding):
        return nnx.Param(jnp.asarray(draw(), DTYPE))
    value = draw()
    sharding = rules.sharding_of(weight.sharding.mesh, ("layers", name), value.shape)
    return nnx.Param(jax.make_array_from_callback(value.shape, sharding, lambda at: value[at]))
