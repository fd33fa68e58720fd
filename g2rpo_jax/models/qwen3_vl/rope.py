"""Rotary positions: interleaved M-RoPE of the language model, 2-D rope of the vision tower.

Both turn the feature pair (j, j + H/2) of a head by an angle. Positions come from the host; the
angles are elementwise maths, no table is gathered.
"""

import jax
import jax.numpy as jnp
import numpy as np

from g2rpo_jax.models.qwen3_vl.config import TextConfig, VisionConfig

Angles = tuple[jax.Array, jax.Array]


def mrope(config: TextConfig, position_P3L: jax.Array, dtype: jnp.dtype) -> Angles:
    """Cosine and sine [P, L, H/2] of the language model's rotations.

    Pair j turns with the height if j % 3 == 1 and j < 3 * mrope_section[1], with the width if
    j % 3 == 2 and j < 3 * mrope_section[2], else with time (interleaved M-RoPE).
    Args:
      config: gives rope_theta, head_dim and mrope_section.
      position_P3L: int32, (time, height, width) of every token.
      dtype: of the angles, float32 or wider.
    """
    pair = np.arange(config.head_dim // 2)
    axis = np.where(pair < 3 * np.take(config.mrope_section, pair % 3), pair % 3, 0)
    position_P3L = position_P3L.astype(dtype)
    time, height, width = (position_P3L[:, i, :, None] for i in range(3))
    axis_11H = axis[None, None]
    position_PLH = jnp.where(axis_11H == 1, height, jnp.where(axis_11H == 2, width, time))
    inverse = _inverse_frequencies(config.rope_theta, config.head_dim)
    angle_PLH = position_PLH * jnp.asarray(inverse, dtype)[None, None]
    return jnp.cos(angle_PLH), jnp.sin(angle_PLH)


def axial(config: VisionConfig, patch_hw_PN2: jax.Array, dtype: jnp.dtype) -> Angles:
    """Cosine and sine [P, N, H/2]: the first half of the pairs turns with the row, the rest with
    the column of the patch in its image."""
    inverse = jnp.asarray(_inverse_frequencies(config.rope_theta, config.head_dim // 2), dtype)
    angle_PN2J = patch_hw_PN2.astype(dtype)[..., None] * inverse[None, None, None]
    angle_PNH = angle_PN2J.reshape(*patch_hw_PN2.shape[:2], config.head_dim // 2)
    return jnp.cos(angle_PNH), jnp.sin(angle_PNH)


def rotate(x_PLAH: jax.Array, angles: Angles) -> jax.Array:
    """Turns every head of x [P, L, heads, H] by its token's angles [P, L, H/2]."""
    cos, sin = (a[:, :, None, :] for a in angles)
    first, second = jnp.split(x_PLAH.astype(cos.dtype), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x_PLAH.dtype)


def _inverse_frequencies(theta: float, size: int) -> np.ndarray:
    """theta^(-2i / size) for i < size / 2, rounded as transformers rounds it: in float32."""
    exponent = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.float32(1.0) / np.power(np.float32(theta), exponent, dtype=np.float32)
