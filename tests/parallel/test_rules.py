"""Layouts of parameters and activations: divided where sizes allow, whole where they do not."""

import dataclasses

import jax
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.models.qwen3_vl.sizes import SIZES
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.constrain import key_copies
from g2rpo_jax.parallel.mesh import AXES


def mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    return AbstractMesh((data, fsdp, tensor), AXES)


@pytest.mark.parametrize(
    "path, shape, want",
    [
        ("embedding", (64, 32), ("tensor", "fsdp")),
        ("layers.q_proj", (3, 32, 16), (None, "fsdp", "tensor")),
        ("layers.o_proj", (3, 16, 32), (None, "tensor", "fsdp")),
        ("vision.layers.q_bias", (3, 16), (None, "tensor")),
        ("layers.input_norm", (3, 32), ()),
        ("opt_state.1.0.mu.layers.down_proj", (3, 16, 32), (None, "tensor", "fsdp")),
        # An axis that does not divide leaves its mesh axis to the other one.
        ("vision.layers.up_proj", (3, 32, 6), (None, ("fsdp", "tensor"), None)),
        ("vision.pos_embed", (16, 32), (None, ("fsdp", "tensor"))),
        ("layers.q_proj_lora_a", (3, 32, 5), (None, ("fsdp", "tensor"), None)),
        ("layers.down_proj_lora_b", (3, 4, 32), (None, None, ("fsdp", "tensor"))),
        ("layers.q_proj", (3, 7, 5), (None, None, None)),
    ],
)
def test_where_a_parameter_is_stored(path, shape, want):
    assert rules.spec_of(path, shape, mesh(1, 2, 4)) == PartitionSpec(*want)


def test_an_activation_is_whole_along_what_does_not_divide():
    spec = rules.used_spec((8, 5, 6), ("rows", None, "heads"), mesh(2, 2, 4))
    assert spec == PartitionSpec(("data", "fsdp"), None, None)
    spec = rules.used_spec((8, 5, 8), ("rows", None, "heads"), mesh(2, 2, 4))
    assert spec == PartitionSpec(("data", "fsdp"), None, "tensor")


@pytest.mark.parametrize("sizes", [(1, 4, 8), (1, 32, 1), (2, 2, 8), (1, 1, 32)])
def test_the_8b_model_is_stored_evenly(sizes):
    """Bytes of a device within 5 % of all / (fsdp x tensor)."""
    config = dataclasses.replace(SIZES["Qwen3-VL-8B-Instruct"])
    state = nnx.state(nnx.eval_shape(lambda: Qwen3VL(config, None)))
    at = mesh(*sizes)
    held = total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        spec = rules.spec_of(rules.path_name(path), leaf.shape, at)
        ways = 1
        for names in spec:
            for name in (names,) if isinstance(names, str) else names or ():
                ways *= at.shape[name]
        held, total = held + leaf.size / ways, total + leaf.size
    assert held <= 1.05 * total / (sizes[1] * sizes[2])


def test_key_heads_are_repeated_to_fill_the_tensor_axis():
    assert [key_copies(32, 8, tensor) for tensor in (1, 2, 8, 16, 32)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize("tensor", [3, 12, 64])
def test_heads_that_cannot_be_divided_name_the_field(tensor):
    with pytest.raises(ValueError, match=rf"mesh.tensor={tensor} cannot divide 32 query heads"):
        key_copies(32, 8, tensor)
