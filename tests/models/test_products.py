"""Products of bfloat16 whose backward pass multiplies bfloat16 too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from g2rpo_jax.models.products import product
from g2rpo_jax.plan.flops import product_flops

SHAPES = [((5, 7), (7, 3)), ((2, 3, 5, 7), (2, 3, 7, 4)), ((2, 5, 7), (7, 3))]


def draw(shape, dtype, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_a_matmul_rounded_at_once(shapes, dtype):
    a, b = (draw(shape, dtype, seed) for seed, shape in enumerate(shapes))

    def loss(multiply):
        def f(a, b):
            out = multiply(a, b)
            assert out.dtype == jnp.float32
            return (out.astype(dtype).astype(jnp.float32) ** 2).sum()

        return jax.value_and_grad(f, argnums=(0, 1))(a, b)

    plain = loss(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, loss(product), plain)


def test_no_product_of_the_backward_pass_is_wide():
    a, b = draw((5, 7), jnp.bfloat16, 0), draw((7, 3), jnp.bfloat16, 1)
    grad = jax.grad(lambda a, b: product(a, b).sum(), argnums=(0, 1))
    flops = product_flops(jax.make_jaxpr(grad)(a, b))
    assert flops == {"bfloat16": 3 * 2 * 5 * 7 * 3} or flops == {"bfloat16": 2 * 2 * 5 * 7 * 3}


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_a_narrow_result_is_the_wide_one_rounded(shapes):
    a, b = (draw(shape, jnp.bfloat16, seed) for seed, shape in enumerate(shapes))

    def loss(narrow):
        def f(a, b):
            out = product(a, b, narrow).astype(jnp.bfloat16)
            return (out.astype(jnp.float32) ** 2).sum()

        return jax.value_and_grad(f, argnums=(0, 1))(a, b)

    assert product(a, b, True).dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, loss(True), loss(False))
