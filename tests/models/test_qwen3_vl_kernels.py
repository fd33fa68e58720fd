"""The kernel path of attention: the same as ours, and the kernel where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from g2rpo_jax import platform
from g2rpo_jax.models.qwen3_vl import kernels
from g2rpo_jax.models.qwen3_vl.row_attention import prompt_attention

P, S, K, R, H = 2, 7, 2, 3, 16
LENGTHS = (7, 4)
MASK_PS = np.arange(S) < np.array(LENGTHS)[:, None]


def queries_keys_values(dtype):
    rng = np.random.default_rng(0)
    shapes = (P, S, K, R, H), (P, S, K, H), (P, S, K, H)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


@pytest.fixture
def on_cpu(monkeypatch):
    """The same call of JAX with its XLA implementation."""
    monkeypatch.setitem(kernels.KERNELS, "cudnn", "xla")


def test_values_and_gradients_are_those_of_our_own_attention(on_cpu, monkeypatch):
    monkeypatch.setattr(kernels, "HALVES", (jnp.float32,))  # to compare closely
    weight = np.random.default_rng(1).standard_normal((P, S, K * R * H)).astype(np.float32)

    def both(kernel):
        def out(*qkv):
            return prompt_attention(*qkv, MASK_PS, kernel) * MASK_PS[..., None]

        def loss(*qkv):
            return (out(*qkv) * weight).sum(), out(*qkv)

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        return gradient(*queries_keys_values(jnp.float32))

    found, expected = both("cudnn"), both("none")
    assert float(jnp.abs(expected[1][0]).max()) > 0.1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_on_a_gpu_prompts_in_bfloat16_go_through_cudnn_forward_and_back(dtype, monkeypatch):
    class Versions:
        @staticmethod
        def cudnn_get_version():
            return 91000

    monkeypatch.setattr(cudnn, "cuda_versions", Versions)  # none here: the program is only lowered
    kernel = platform.BACKENDS["gpu"].attention

    def loss(*qkv):
        return prompt_attention(*qkv, MASK_PS, kernel).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*queries_keys_values(dtype))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert ("__cudnn$fmhaSoftmaxBackward" in text) == (dtype == jnp.bfloat16)


def test_a_back_end_names_a_kernel_that_is_there():
    assert all(backend.attention in kernels.KERNELS for backend in platform.BACKENDS.values())
    with pytest.raises(ValueError, match="attention kernel"):
        kernels.use("cudn", jnp.bfloat16)
