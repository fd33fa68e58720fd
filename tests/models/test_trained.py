"""What is trained and what is not: patterns of paths, and errors that name the field."""

import pytest
from flax import nnx

from g2rpo_jax.models import trained
from tests import tiny


def names(state):
    return {".".join(path) for path, _ in nnx.to_flat_state(state)}


def split(*freeze):
    return trained.split(nnx.merge(*tiny.model()), freeze=freeze)


def test_by_default_everything_is_trained():
    graphdef, params, frozen = split()
    assert names(params) == names(tiny.model()[1]) and not names(frozen)
    tiny.close(nnx.state(nnx.merge(graphdef, params, frozen)), tiny.model()[1], rtol=0, atol=0)


def test_a_part_a_path_and_a_pattern_freeze_what_they_say():
    graphdef, params, frozen = split("vision", "embedding", "layers.*_norm")
    assert names(frozen) == {n for n in names(tiny.model()[1]) if n.startswith("vision.")} | {
        "embedding",
        "layers.input_norm",
        "layers.post_norm",
        "layers.q_norm",
        "layers.k_norm",
    }
    assert "norm" in names(params) and not names(params) & names(frozen)
    tiny.close(nnx.state(nnx.merge(graphdef, params, frozen)), tiny.model()[1], rtol=0, atol=0)


def test_a_pattern_without_a_parameter_is_an_error():
    with pytest.raises(ValueError, match="model.freeze='visual' matches no parameter.*vision"):
        split("visual")


def test_nothing_left_to_train_is_an_error():
    with pytest.raises(ValueError, match="leaves no parameter to train"):
        split("*")
