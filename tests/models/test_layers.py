"""Layers scanned and layers written out are the same computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from g2rpo_jax import models, platform
from g2rpo_jax.models.layers import over_layers
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, pack
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.rollout import Engine, SamplingConfig
from tests.models.tiny_qwen3_vl import prompt, reference

CLOSE = dict(rtol=2e-5, atol=2e-6)


@pytest.fixture(scope="module")
def both():
    """The same model, scanned and written out, and four rows with pictures."""
    config = Qwen3VLConfig.from_dict(reference().config.to_dict())
    made = [Qwen3VL(config, nnx.Rngs(0)) for _ in range(2)]
    made[1].unrolled = True
    rng = np.random.default_rng(0)
    prompts = [prompt(rng, grids) for grids in ([(4, 4)], [], [(2, 4), (4, 2)], [(4, 2)])]
    return *made, pack(prompts, config, 48, 32)


def test_outputs_and_gradients_of_a_body():
    rng = np.random.default_rng(0)
    w_nDD = jnp.asarray(rng.normal(size=(5, 3, 3)), jnp.float32)
    x_D = jnp.asarray(rng.normal(size=3), jnp.float32)

    def total(w_nDD, unrolled):
        def body(x, w):
            x = jnp.tanh(w @ x)
            return x, 2 * x

        last, each = over_layers(body, x_D, w_nDD, unrolled)
        return last.sum() + (each**2).sum(), each

    for a, b in zip(
        *(jax.grad(total, has_aux=True)(w_nDD, unrolled) for unrolled in (False, True)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_rows_and_their_gradients(both, remat):
    scanned, unrolled, rows = both
    response_PGT = np.random.default_rng(1).integers(0, 140, (4, 3, 5)).astype(np.int32)

    def loss(model):
        return jnp.mean(model.row_hidden(rows, response_PGT, remat) ** 3)

    value, grads = nnx.jit(nnx.value_and_grad(loss))(scanned)
    same_value, same_grads = nnx.jit(nnx.value_and_grad(loss))(unrolled)
    np.testing.assert_allclose(value, same_value, **CLOSE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), grads, same_grads
    )


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)])
def test_the_same_samples(both, mesh):
    scanned, unrolled, rows = both
    mesh = meshes.make(meshes.MeshConfig(*mesh), jax.devices()[: np.prod(mesh)])
    outs = []
    for model in (scanned, unrolled):
        graphdef, params = nnx.split(model)
        engine = Engine(
            graphdef,
            mesh,
            responses=3,
            max_tokens=6,
            chunk=3,
            sampling=SamplingConfig(),
            eos=(7,),
            pad=0,
        )
        outs.append(engine.generate(params, rows, range(4), seed=0))
    np.testing.assert_array_equal(outs[0].token_PGT, outs[1].token_PGT)
    np.testing.assert_allclose(outs[0].logp_PGT, outs[1].logp_PGT, **CLOSE)


def test_a_back_end_says_which(both):
    model = both[0]
    for layers, unrolled in ((model.config.text.num_hidden_layers, True), (0, False)):
        models.suit(model, platform.Backend(unroll_layers=layers))
        assert model.unrolled is unrolled
