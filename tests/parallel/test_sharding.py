"""A mesh changes where numbers lie, never what they are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from g2rpo_jax.models.qwen3_vl import Qwen3VL, pack
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make, row_sharding
from g2rpo_jax.rollout import decode
from g2rpo_jax.rollout.engine import Engine
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.train import state
from g2rpo_jax.train.policy_step import StepConfig, compile_score, compile_step
from tests import tiny

G, T = 4, 6
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3, eps=1e-4))
STEP = StepConfig(
    entropy_weight=0.5,
    tasks=3,
    remat="full",
    logprob_chunk=5,
)


def model(vocab: str = "tensor"):
    """Every size divides by 8, but for the heads: 4 query, 2 key, 2 of the tower. Tied tables."""
    text = dataclasses.replace(tiny.CONFIG.text, hidden_size=64, intermediate_size=96)
    vision = dataclasses.replace(tiny.CONFIG.vision, out_hidden_size=64)
    config = dataclasses.replace(tiny.CONFIG, text=text, vision=vision)
    made = Qwen3VL(config, nnx.Rngs(0))
    made.vocab = vocab
    return nnx.split(made)


@dataclasses.dataclass
class Run:
    """What three steps of RL leave behind."""

    tokens: list
    params: object
    logp_PGT: np.ndarray
    decoding: decode.DecodeState
    update: str  # as compiled


# Sizes of a mesh, how the vocabulary is divided over it, micro-batches.
MESHES = {
    (1, 8, 1): ("all", 1),
    (2, 2, 2): ("none", 2),
    (1, 4, 2): ("all", 2),
    (1, 2, 4): ("tensor", 1),
}


@functools.cache
def run(sizes: tuple[int, int, int]) -> Run:
    """Three steps: sample, advantages from the samples, score, update."""
    vocab, parts = MESHES.get(sizes, ("tensor", 1))
    mesh = make(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    graphdef, params = model(vocab)
    train = state.create(params, TX)
    train = jax.device_put(train, rules.shardings(train, mesh))
    engine = Engine(
        graphdef,
        mesh,
        responses=G,
        max_tokens=T,
        chunk=T,
        sampling=SamplingConfig(),
        eos=(5,),
        pad=0,
    )
    step = dataclasses.replace(STEP, microbatches=parts)
    update = compile_step(graphdef, TX, step, mesh, train, tiny.NOTHING, donate=False)
    score = compile_score(graphdef, step, mesh)
    inputs = pack(tiny.prompts(8), tiny.CONFIG, 12, 8)
    tokens = []
    for number in range(3):
        out = engine.generate(train.params, inputs, list(range(8)), seed=0, step=number)
        tokens.append(out.token_PGT)
        # The advantage of a response is its share of small tokens, within its group.
        share_PG = (out.token_PGT < 30).mean(-1)
        batch = dataclasses.replace(
            tiny.batch(P=8, G=G, T=T),
            inputs=inputs,
            response_PGT=out.token_PGT,
            mask_PGT=out.mask_PGT,
            adv_PG=np.float32(share_PG - share_PG.mean(-1, keepdims=True)),
            sampler_logp_PGT=out.logp_PGT,
        )
        batch = jax.device_put(batch, row_sharding(mesh))
        old_PGT = score(train.params, tiny.NOTHING, batch.inputs, batch.response_PGT)
        batch = dataclasses.replace(batch, old_logp_PGT=old_PGT)
        if not number:
            update = update.lower(train, tiny.NOTHING, batch).compile()
        train, _ = update(train, tiny.NOTHING, batch)
    limit_P = jax.device_put(np.full(8, T, np.int32), row_sharding(mesh))
    begun = engine.prefill(train.params, jax.device_put(inputs, row_sharding(mesh)), limit_P)
    return Run(
        tokens=tokens,
        params=jax.device_get(train.params),
        logp_PGT=np.asarray(old_PGT),
        decoding=begun,
        update=update.as_text(),
    )


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_three_steps_of_rl_are_those_of_one_device(sizes, capfd):
    """The same tokens, and parameters within 2e-5 (they moved by 1e-2) after three updates."""
    alone, divided = run((1, 1, 1)), run(sizes)
    for a, b in zip(alone.tokens, divided.tokens, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (alone.tokens[0] == alone.tokens[2]).all()
    tiny.close(divided.params, alone.params, rtol=0, atol=2e-5)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), alone.params, model()[1])
    assert 5e-3 < max(jax.tree.leaves(moved)) < 2e-2
    np.testing.assert_allclose(divided.logp_PGT, alone.logp_PGT, atol=1e-4)
    # The partitioner found a way between all layouts that we ask for.
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_bytes_of_a_device_are_its_share(sizes):
    """Parameters and both moments, as they lie, within 5 % of all / (fsdp x tensor). Norms and
    biases are whole everywhere: the model is wide enough for them not to count."""
    sizes_of_text = dict(hidden_size=256, intermediate_size=512, head_dim=64)
    text = dataclasses.replace(tiny.CONFIG.text, mrope_section=(16, 8, 8), **sizes_of_text)
    vision = dataclasses.replace(tiny.CONFIG.vision, hidden_size=64, out_hidden_size=256)
    config = dataclasses.replace(tiny.CONFIG, text=text, vision=vision)
    mesh = make(MeshConfig(*sizes))
    train = state.create(nnx.state(Qwen3VL(config, nnx.Rngs(0))), TX)
    train = jax.device_put(train, rules.shardings(train, mesh))
    arrays = jax.tree.leaves((train.params, train.opt_state))
    total = sum(x.nbytes for x in arrays)
    for device in mesh.devices.flat:
        held = [s.data.nbytes for x in arrays for s in x.addressable_shards if s.device == device]
        assert sum(held) <= 1.05 * total / (sizes[1] * sizes[2])


def test_no_gradient_of_all_layers_is_whole_anywhere():
    """Nor a parameter or a moment: the update holds no array of a stacked matrix's own shape."""
    whole = ("f32[2,64,96]", "f32[2,96,64]")  # gate and up, down
    assert all(shape in run((1, 1, 1)).update for shape in whole)
    for sizes in MESHES:
        assert not any(shape in run(sizes).update for shape in whole)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 4, 2), (1, 2, 4)], ids=str)
def test_the_state_of_decoding_lies_as_it_is_said_to(sizes):
    begun = run(sizes).decoding
    mesh = make(MeshConfig(*sizes))
    jax.tree.map(
        lambda x, want: None if x.sharding.is_equivalent_to(want, x.ndim) else pytest.fail(str(x)),
        begun,
        decode.shardings(begun, mesh),
    )
    key_heads = begun.cache.key_nPGKHT.shape[3]
    assert key_heads == max(2, sizes[2])  # over 4 devices, each of the 2 key heads twice


def test_bfloat16_on_a_mesh_is_bfloat16():
    """Sums over tensor are rounded before they travel: hardly further off than one device is."""
    batch = tiny.batch(P=4, G=G, T=T)

    def logp(sizes, dtype):
        mesh = make(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
        whole = nnx.merge(*model())
        whole.dtype = np.dtype(dtype)
        graphdef, params = nnx.split(whole)
        params = jax.device_put(params, rules.shardings(params, mesh))
        rows = jax.device_put((batch.inputs, batch.response_PGT), row_sharding(mesh))
        return np.asarray(compile_score(graphdef, STEP, mesh)(params, tiny.NOTHING, *rows))

    exact = logp((1, 1, 1), "float32")
    alone, divided = (logp(sizes, jnp.bfloat16) for sizes in ((1, 1, 1), (1, 2, 4)))
    error = np.sqrt(np.square(alone - exact).mean())
    assert 0 < error < 0.3
    assert np.sqrt(np.square(divided - exact).mean()) < 1.5 * error
