"""What each memory lever does to a run's programs, seen without running them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from g2rpo_jax import config as configs
from g2rpo_jax import platform
from g2rpo_jax.models.qwen3_vl import Qwen3VL, pack
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.plan.flops import product_flops
from g2rpo_jax.rollout.engine import Engine
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.train import programs, state
from tests import tiny

BACKEND = platform.Backend(compute_dtype="float32")


def planned(model_config=tiny.CONFIG, **changes):
    """Calls by name of a small run with these fields."""
    config = configs.defaults()
    fields = {
        "responses": 4,
        "max_tokens": 6,
        "decode_chunk": 3,
        "batch.prompts": 4,
        "batch.rollout_prompts": 4,
        "batch.microbatches": 1,
        "eval.every": 0,
        "eval.prompts": 4,
        "model.remat": "none",
        "shaping.entropy_weight": 0.0,
        "mesh.data": 1,
    } | {name.replace("__", "."): value for name, value in changes.items()}
    for name, value in fields.items():
        section = config
        *path, last = name.split(".")
        for part in path:
            section = section[part]
        section[last] = value
    run = configs.resolve(config)
    mesh = make(run.mesh, jax.devices()[: run.mesh.data])
    made = programs.abstract(run, model_config, mesh, BACKEND)
    return {call.name: call for call in made.calls(12, 8)}


def flops(call) -> float:
    return product_flops(call.trace().jaxpr).total()


def held(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def paths(tree) -> set[str]:
    return {rules.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_frozen_tower_has_no_state_and_no_backward_pass():
    free, frozen = planned(), planned(model__freeze=("vision",))
    train, rest, _ = frozen["update"].args
    assert not any("vision" in path for path in paths(train))
    assert all(path.startswith("vision.") for path in paths(rest))
    text_alone = dataclasses.replace(
        tiny.CONFIG, vision=dataclasses.replace(tiny.CONFIG.vision, depth=4)
    )
    # Two blocks more cost one forward pass where the tower is frozen, and three where it is not.
    deeper = planned(text_alone), planned(text_alone, model__freeze=("vision",))
    forward = flops(deeper[1]["score"]) - flops(frozen["score"])
    assert flops(deeper[1]["update"]) - flops(frozen["update"]) == forward > 0
    assert flops(deeper[0]["update"]) - flops(free["update"]) == 3 * forward
    assert flops(frozen["score"]) == flops(free["score"])


def test_adapters_leave_no_gradient_or_state_of_the_base():
    whole, adapted = planned(), planned(model__lora_rank=2)
    train, rest, _ = adapted["update"].args
    assert all("_lora_" in path for path in paths(train.params))
    assert held(train.opt_state) < 0.3 * held(whole["update"].args[0].opt_state)
    assert held(rest) == held(whole["update"].args[0].params)
    assert flops(adapted["update"]) < 0.8 * flops(whole["update"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_and_parameters_keep_their_dtypes(dtype):
    train, *rest = planned(optim__state_dtype=dtype, model__param_dtype=dtype)["update"].args
    kinds = {x.dtype for x in jax.tree.leaves((train.params, train.opt_state)) if x.ndim}
    assert kinds == {jnp.dtype(dtype)}
    call = planned(optim__state_dtype=dtype, model__param_dtype=dtype)["update"]
    new, _ = jax.eval_shape(call.function, *call.args)
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and x.shape == y.shape, new, train)
    assert all(jax.tree.leaves(same))


def test_no_array_of_tokens_by_vocabulary_lives_in_score_or_update():
    """512 response tokens by 151,936 would be 311 MB; a chunk of 16 of each of 2 rows is 19."""
    text = dataclasses.replace(tiny.CONFIG.text, vocab_size=151936, num_hidden_layers=1)
    calls = planned(
        dataclasses.replace(tiny.CONFIG, text=text),
        batch__prompts=2,
        batch__rollout_prompts=2,
        max_tokens=64,
        decode_chunk=64,
        model__logprob_chunk=16,
        model__freeze=("vision",),
    )
    for name, most in (("score", 100e6), ("update", 250e6)):
        memory = calls[name].trace().lower().compile().memory_analysis()
        assert memory.temp_size_in_bytes < most, name


def test_a_copy_for_the_rollout_draws_the_same_samples():
    mesh = make(MeshConfig(1, 2, 2), jax.devices()[:4])
    graphdef, params = nnx.split(Qwen3VL(tiny.CONFIG, nnx.Rngs(0)))
    params = jax.device_put(params, rules.shardings(params, mesh))
    copied = state.compile_copy(mesh, "float32", params, tiny.NOTHING)(params, tiny.NOTHING)
    q = copied["layers"]["q_proj"].get_value()
    assert {s.data.shape for s in q.addressable_shards} == {(2, 32, 16)}  # whole along the width
    engine = Engine(
        graphdef,
        mesh,
        responses=2,
        max_tokens=4,
        chunk=4,
        sampling=SamplingConfig(),
        eos=(5,),
        pad=0,
    )
    inputs = pack(tiny.prompts(4), tiny.CONFIG, 12, 8)
    one, other = (engine.generate(p, inputs, range(4), seed=0) for p in (params, copied))
    np.testing.assert_array_equal(one.token_PGT, other.token_PGT)
    np.testing.assert_array_equal(one.logp_PGT, other.logp_PGT)


def test_the_plan_sees_the_copy():
    calls = planned(model__rollout_copy=True, model__dtype="bfloat16")
    weights = calls["decode"].args[0]
    assert weights["layers"]["q_proj"].get_value().dtype == jnp.bfloat16
    assert weights["layers"]["q_norm"].get_value().dtype == jnp.float32
    assert "copy" in calls and "copy" not in planned()
