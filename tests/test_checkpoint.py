"""Checkpoints: exact, onto any mesh, and without compiling anything."""

import jax
import jax.numpy as jnp
import optax
import pytest

from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.metrics import CompileCounter
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.train import state
from tests import tiny


def placed(mesh_sizes, seed=0):
    _, params = tiny.model(seed)
    mesh = make(MeshConfig(*mesh_sizes))
    # A TrainState: its leaves do not come in the order of their names.
    tree = state.create(params, optax.adam(1e-3), {"b": jnp.ones(3) * seed, "a": jnp.int32(seed)})
    return jax.device_put(tree, rules.shardings(tree, mesh))


def test_arrays_and_host_facts_come_back_exactly_on_another_mesh(tmp_path):
    saved = placed((2, 2, 2))
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, saved, {"position": 7, "logps": [0.1, 1 / 3]})
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=2)
    assert again.latest() == 3
    other = placed((1, 8, 1), seed=1)
    got, host = again.restore(3, other)
    tiny.close(got, saved, rtol=0, atol=0)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, got, other)
    assert all(jax.tree.leaves(same))
    assert host == {"position": 7, "logps": [0.1, 1 / 3]}
    again.close()


def test_saving_compiles_nothing(tmp_path):
    tree = placed((8, 1, 1))
    counter = CompileCounter()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, tree, {})
    checkpoints.close()
    assert counter.count == 0


def test_another_model_is_a_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"a": jnp.zeros(3)}, {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(ValueError, match="step 1 does not fit this configuration"):
        checkpoints.restore(1, {"a": jnp.zeros(3), "b": jnp.zeros(2)})
    checkpoints.close()
