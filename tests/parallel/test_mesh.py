"""Meshes: sizes that fit, errors that name the field."""

import jax
import pytest

from g2rpo_jax.parallel.mesh import MeshConfig, check_rows, make


def test_minus_one_takes_what_is_left():
    assert dict(make(MeshConfig(-1, 2, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make(MeshConfig(1, -1, 1)).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (2, 2, 4)])
def test_sizes_that_do_not_make_the_devices_are_an_error(sizes):
    with pytest.raises(ValueError, match="does not make 8 devices.*product is 8"):
        make(MeshConfig(*sizes))


def test_two_open_axes_are_an_error():
    with pytest.raises(ValueError, match="at most one is -1"):
        MeshConfig(-1, -1, 1)


def test_rows_that_do_not_divide_name_the_field():
    mesh = make(MeshConfig(1), jax.devices()[:1])
    check_rows("batch.prompts", 3, mesh)
    mesh = make(MeshConfig(2, 2, 2))
    with pytest.raises(ValueError, match="batch.prompts: 6 rows do not divide.*multiple of 4"):
        check_rows("batch.prompts", 6, mesh)
