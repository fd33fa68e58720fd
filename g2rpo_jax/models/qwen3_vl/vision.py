"""The vision tower: patches -> merged image tokens, and the DeepStack features on the way."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from g2rpo_jax.models.layers import over_layers
from g2rpo_jax.models.qwen3_vl import rope
from g2rpo_jax.models.qwen3_vl.config import VisionConfig
from g2rpo_jax.models.qwen3_vl.embedding import embed
from g2rpo_jax.models.qwen3_vl.layout import RowInputs
from g2rpo_jax.models.qwen3_vl.row_attention import image_attention
from g2rpo_jax.models.qwen3_vl.text import (
    ACTIVATIONS,
    REMAT,
    Weights,
    between_layers,
    layer_norm,
    linear,
    normal_param,
    stacked,
)
from g2rpo_jax.parallel import constrain
from g2rpo_jax.tables import lookup

# Gathered over tensor where its size does not divide the heads: attention is then done by each.
HEADS = ("q_proj", "k_proj", "v_proj", "o_proj", "q_bias", "k_bias", "v_bias")
EPS = 1e-6  # of every layer norm of the tower; not in config.json


class VisionLayers(nnx.Module):
    """All blocks' weights, stacked. q, k and v apart: a fused one cannot be split when sharded."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs | None, dtype: jnp.dtype):
        n, D, F = config.depth, config.hidden_size, config.intermediate_size
        normal = functools.partial(normal_param, rngs, config.initializer_range, dtype)
        self.norm1_scale = nnx.Param(jnp.ones((n, D), dtype))
        self.norm1_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.q_proj = normal(n, D, D)
        self.k_proj = normal(n, D, D)
        self.v_proj = normal(n, D, D)
        self.q_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.k_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.v_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.o_proj = normal(n, D, D)
        self.o_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.norm2_scale = nnx.Param(jnp.ones((n, D), dtype))
        self.norm2_bias = nnx.Param(jnp.zeros((n, D), dtype))
        self.up_proj = normal(n, D, F)
        self.up_bias = nnx.Param(jnp.zeros((n, F), dtype))
        self.down_proj = normal(n, F, D)
        self.down_bias = nnx.Param(jnp.zeros((n, D), dtype))


class Mergers(nnx.Module):
    """`count` patch mergers, stacked: norm, then an MLP from 4 patches to one image token."""

    def __init__(
        self,
        config: VisionConfig,
        count: int,
        norm_size: int,
        rngs: nnx.Rngs | None,
        dtype: jnp.dtype,
    ):
        wide = config.hidden_size * config.merge
        normal = functools.partial(normal_param, rngs, config.initializer_range, dtype)
        self.norm_scale = nnx.Param(jnp.ones((count, norm_size), dtype))
        self.norm_bias = nnx.Param(jnp.zeros((count, norm_size), dtype))
        self.up_proj = normal(count, wide, wide)
        self.up_bias = nnx.Param(jnp.zeros((count, wide), dtype))
        self.down_proj = normal(count, wide, config.out_hidden_size)
        self.down_bias = nnx.Param(jnp.zeros((count, config.out_hidden_size), dtype))


class VisionTower(nnx.Module):
    """Patch embedding, learned and rotary positions, blocks, merger and DeepStack mergers."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs | None, dtype: jnp.dtype):
        D, taps = config.hidden_size, len(config.deepstack_visual_indexes)
        normal = functools.partial(normal_param, rngs, config.initializer_range, dtype)
        self.config = config
        self.patch_proj = normal(config.patch_features, D)
        self.patch_bias = nnx.Param(jnp.zeros((D,), dtype))
        self.pos_embed = normal(config.num_position_embeddings, D)
        self.layers = VisionLayers(config, rngs, dtype)
        self.merger = Mergers(config, 1, D, rngs, dtype)
        self.deepstack = Mergers(config, taps, D * config.merge, rngs, dtype) if taps else None

    def __call__(
        self,
        inputs: RowInputs,
        dtype: jnp.dtype,
        remat: str = "none",
        embedding_gradient: str = "scatter",
        trace: bool = False,
        unrolled: bool = False,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """Image tokens of every row.

        Args:
          inputs: the rows; N > 0.
          dtype: of the matrix products.
          remat: what a block's backward pass keeps (REMAT).
          embedding_gradient: for the learned positions (`embedding.embed`).
          trace: also return every block's output.
          unrolled: blocks written out instead of scanned (`models.layers`).
        Returns:
          merged_PMD: image tokens, M = N / 4; whatever at padding.
          deepstack_KPMD: the features that enter the first K language layers, in the order of the
            blocks they were tapped from; None if K = 0.
          blocks: [depth, P, N, D] if `trace`, else None.
        """
        config = self.config
        wide = jnp.promote_types(dtype, jnp.float32)
        patches_PNC = jnp.asarray(inputs.patches_PNC).astype(dtype)
        patches_PNC = constrain.constrain(patches_PNC, "rows")
        first = constrain.weights({"patch_proj": self.patch_proj[...]}, dtype)["patch_proj"]
        x_PND = linear(patches_PNC, first, self.patch_bias[...])
        corner_PN4D = embed(
            self.pos_embed[...], inputs.pos_index_PN4, embedding_gradient, "pos_embed"
        ).astype(wide)
        weight_PN41 = jnp.asarray(inputs.pos_weight_PN4)[..., None].astype(wide)
        x_PND = x_PND + (corner_PN4D * weight_PN41).sum(2).astype(dtype)
        x_PND = constrain.constrain(x_PND, "rows")
        angles = rope.axial(config, inputs.patch_hw_PN2, wide)
        # The tapped blocks' outputs are gathered by adding each block's output with weight one or
        # zero: linear in the carry, so the backward pass keeps nothing for it, and the blocks'
        # stacked weights are never cut in two, which would copy them.
        K = len(config.deepstack_visual_indexes)
        tap_nK = jnp.asarray(
            [[i == j for j in config.deepstack_visual_indexes] for i in range(config.depth)], dtype
        ).reshape(config.depth, K)

        cut = config.num_heads % constrain.ways("heads") == 0

        def body(carry, xs):
            x_PND, taps_KPND = carry
            w, tap_K = xs
            x_PND = constrain.constrain(x_PND, "rows")
            w = constrain.weights(w, dtype, whole=() if cut else HEADS)
            x_PND = _block(config, w, x_PND, angles, inputs.segment_PN)
            if K:
                taps_KPND = taps_KPND + tap_K[:, None, None, None] * x_PND[None]
            return (x_PND, taps_KPND), x_PND if trace else None

        body = lookup(REMAT, remat, kind="remat")(body)
        taps_KPND = constrain.constrain(jnp.zeros((K, *x_PND.shape), dtype), None, "rows")
        (x_PND, taps_KPND), blocks = over_layers(
            lambda carry, xs: body((between_layers(carry[0], remat), carry[1]), xs),
            (x_PND, taps_KPND),
            (stacked(self.layers), tap_nK),
            unrolled,
        )
        x_PND = constrain.constrain(x_PND, "rows")
        merged_PMD = _merge(config, _layer(self.merger, 0), x_PND, norm_first=True)
        if not K:
            return merged_PMD, None, blocks
        features = [
            _merge(config, _layer(self.deepstack, k), taps_KPND[k], norm_first=False)
            for k in sorted(range(K), key=config.deepstack_visual_indexes.__getitem__)
        ]
        return merged_PMD, jnp.stack(features), blocks


def _block(
    config: VisionConfig, w: Weights, x_PND: jax.Array, angles: rope.Angles, segment_PN: jax.Array
) -> jax.Array:
    P, N, _ = x_PND.shape
    act = lookup(ACTIVATIONS, config.hidden_act, kind="activation")

    def heads(name: str) -> jax.Array:
        out = linear(y_PND, w[f"{name}_proj"], w[f"{name}_bias"])
        return out.reshape(P, N, config.num_heads, config.head_dim)

    y_PND = layer_norm(x_PND, w["norm1_scale"], w["norm1_bias"], EPS)
    q_PNAH, k_PNAH = rope.rotate(heads("q"), angles), rope.rotate(heads("k"), angles)
    qkv = (constrain.constrain(a, "rows", None, "heads") for a in (q_PNAH, k_PNAH, heads("v")))
    out_PND = image_attention(*qkv, segment_PN)
    if config.num_heads % constrain.ways("heads") == 0:
        out_PND = constrain.constrain(out_PND, "rows", None, "heads")
    x_PND = constrain.constrain(x_PND + linear(out_PND, w["o_proj"], w["o_bias"]), "rows")
    y_PND = layer_norm(x_PND, w["norm2_scale"], w["norm2_bias"], EPS)
    y_PNF = act(linear(y_PND, w["up_proj"], w["up_bias"]))
    y_PNF = constrain.constrain(y_PNF, "rows", None, "mlp")
    return constrain.constrain(x_PND + linear(y_PNF, w["down_proj"], w["down_bias"]), "rows")


def _merge(config: VisionConfig, w: Weights, x_PND: jax.Array, norm_first: bool) -> jax.Array:
    """Neighbouring patches -> one token. The merger norms patches, DeepStack's norm the joined."""
    P, N, D = x_PND.shape
    w = constrain.weights(w, x_PND.dtype)
    if norm_first:
        x_PND = layer_norm(x_PND, w["norm_scale"], w["norm_bias"], EPS)
    x_PME = x_PND.reshape(P, N // config.merge, D * config.merge)
    if not norm_first:
        x_PME = layer_norm(x_PME, w["norm_scale"], w["norm_bias"], EPS)
    x_PME = ACTIVATIONS["gelu"](linear(x_PME, w["up_proj"], w["up_bias"]))
    x_PME = constrain.constrain(x_PME, "rows", None, "mlp")
    return constrain.constrain(linear(x_PME, w["down_proj"], w["down_bias"]), "rows")


def _layer(module: nnx.Module, index: int) -> Weights:
    return {name: value[index] for name, value in stacked(module).items()}
