"""Meshes: sizes that fit, errors that name the field."""

import dataclasses

import jax
import numpy as np
import pytest

from g2rpo_jax.parallel.mesh import MeshConfig, check_rows, make, own_rows, put_rows, put_whole


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of some process."""

    process_index: int
    id: int
    platform: str = "cpu"
    device_kind: str = "cpu"


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


def test_a_row_is_not_divided_over_processes():
    def devices(order):
        return [Device(i // 4, i) for i in order]

    with pytest.raises(ValueError, match="mesh.tensor=8 does not divide the 4 devices of each"):
        make(MeshConfig(1, 2, 8), devices(range(16)))
    # Processes stand side by side, however JAX lists their devices.
    mesh = make(MeshConfig(2, 2, 2), devices([1, 0, 4, 6, 5, 2, 3, 7]))
    assert [device.id for device in mesh.devices.flat] == list(range(8))


def test_rows_go_to_their_devices_and_back():
    mesh = make(MeshConfig(2, 2, 2))
    rows = {"a": np.arange(24.0).reshape(8, 3), "b": np.arange(8)}
    placed = put_rows(mesh, rows)
    assert placed["a"].addressable_shards[0].data.shape == (2, 3)
    back = own_rows(mesh, placed)
    assert all((back[name] == rows[name]).all() for name in rows)
    assert put_whole(mesh, 5).is_fully_replicated
