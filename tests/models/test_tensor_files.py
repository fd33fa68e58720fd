"""Files of tensors: what we stream, safetensors reads; a save that fails leaves the old files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from g2rpo_jax.models.tensor_files import Tensor, TensorFiles, file_dtype, write_tensors

ARRAYS = {
    "b.weight": np.arange(35, dtype=np.float32).reshape(7, 5),
    "a": np.arange(4, dtype=np.float16),
    "c": np.arange(24).reshape(2, 3, 4).astype(jnp.bfloat16),
}


def tensor(name, array, order=1):
    """A tensor in slabs of two rows, from the first on or from the last."""

    def slabs():
        for row in range(0, len(array), 2)[::order]:
            yield row, array[row : row + 2]

    return Tensor(name, array.shape, array.dtype, slabs)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shard_bytes", [10, 150, 10**6])
def test_safetensors_reads_what_we_stream(tmp_path, order, shard_bytes):
    write_tensors(tmp_path, [tensor(*item, order) for item in ARRAYS.items()], shard_bytes)
    found = {}
    for file in tmp_path.glob("*.safetensors"):
        found |= safetensors.numpy.load_file(file)
        with safetensors.safe_open(file, "np") as handle:
            assert handle.metadata() == {"format": "pt"}
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    files = TensorFiles(tmp_path)
    assert files.shape == {name: array.shape for name, array in ARRAYS.items()}
    ((row, slab),) = files.slabs("b.weight", (slice(2, 6), slice(1, 3)))
    assert row == 2
    np.testing.assert_array_equal(slab, ARRAYS["b.weight"][2:6, 1:3])


def test_a_save_that_fails_leaves_the_old_files(tmp_path):
    write_tensors(tmp_path, [tensor(*item) for item in ARRAYS.items()], 150)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full():
        yield 0, ARRAYS["a"][:2]
        raise OSError(28, "No space left on device")

    broken = Tensor("a", (4,), np.dtype("float16"), full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path, [tensor("c", ARRAYS["c"]), broken], 10)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_later_save_takes_the_place_of_an_earlier(tmp_path):
    for shard_bytes in (10, 150, 10**6, 150):
        write_tensors(tmp_path, [tensor(*item) for item in ARRAYS.items()], shard_bytes)
        assert TensorFiles(tmp_path).shape.keys() == ARRAYS.keys()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    on_disk = {file.name for file in tmp_path.glob("*.safetensors")}
    assert on_disk == set(index["weight_map"].values())


def test_a_dtype_that_weights_do_not_have_is_told():
    assert file_dtype("bfloat16") == jnp.bfloat16
    with pytest.raises(ValueError, match="dtype 'int8' of saved weights: use one of float64"):
        file_dtype("int8")
