"""Kept attention kernels, where a back end has one that serves.

JAX's cuDNN attention serves causal attention of prompts. It does not serve the rest of a row:
- A response's attention over its prompt and over itself are merged by their log-sum-exp. JAX gives
  that as the residual, but rounded to bfloat16 (an error of several percent in the weights) and
  without a gradient; and joining the keys instead would repeat the prompt's for every response.
- Images of one row see only their own patches: that needs a bias of N x N, and JAX computes the
  bias's gradient, whether or not anybody asks for it.
"""

import jax
import jax.numpy as jnp

from g2rpo_jax.tables import lookup

HALVES = (jnp.bfloat16, jnp.float16)  # what the kernel takes; float32 is left to XLA


def use(kernel: str, dtype: jnp.dtype) -> bool:
    """Whether prompts of `dtype` go through `kernel`, an entry of KERNELS."""
    return lookup(KERNELS, kernel, kind="attention kernel") is not None and dtype in HALVES


def causal_attention(
    q_PSKRH: jax.Array, k_PSKH: jax.Array, v_PSKH: jax.Array, kernel: str
) -> jax.Array:
    """Causal attention of prompts that are padded behind: [P, S, K * R * H].

    No mask of what is padding: a token sees only what stands before it, so none of a prompt's sees
    any. Outputs at padding are finite and no token's.
    """
    P, S, K, R, H = q_PSKRH.shape

    def even(x_PSAH: jax.Array) -> jax.Array:
        """JAX refuses an odd length where gradients are taken; what is added stands last."""
        return jnp.pad(x_PSAH, ((0, 0), (0, S % 2), (0, 0), (0, 0)))

    qkv = (even(x) for x in (q_PSKRH.reshape(P, S, K * R, H), k_PSKH, v_PSKH))
    implementation = KERNELS[kernel]
    out_PSQH = jax.nn.dot_product_attention(*qkv, is_causal=True, implementation=implementation)
    return out_PSQH[:, :S].reshape(P, S, K * R * H)


# name (`platform.Backend.attention`) -> implementation of jax.nn.dot_product_attention
KERNELS = {"none": None, "cudnn": "cudnn"}
