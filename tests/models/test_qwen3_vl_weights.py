"""Directories in and out: what transformers writes we read, and the other way, bit for bit."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx
from transformers import Qwen3VLForConditionalGeneration

from g2rpo_jax import models
from g2rpo_jax.models import tensor_files
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, weights
from g2rpo_jax.models.qwen3_vl.tensor_names import leaves
from g2rpo_jax.models.tensor_files import TensorFiles
from g2rpo_jax.parallel import mesh, rules
from tests.models.tiny_qwen3_vl import reference


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """An untied float32 model with a tokenizer file, as transformers saves it."""
    path = tmp_path_factory.mktemp("model")
    reference().save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture
def copy(directory, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(directory, tmp_path / "copy")


def tensors(path):
    """name -> tensor of all weight files of a directory."""
    found = {}
    for file in path.glob("*.safetensors"):
        found |= safetensors.numpy.load_file(file)
    return found


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


def assert_same_parameters(a, b):
    a, b = (jax.tree_util.tree_leaves_with_path(nnx.state(model)) for model in (a, b))
    for (path, x), (_, y) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_go_through_us_and_back_to_transformers_bit_for_bit(tied, dtype, tmp_path):
    theirs = reference(tied).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = models.load(tmp_path / "theirs")  # in float32, which holds every bfloat16
    models.save(ours, tmp_path / "ours", dtype=dtype)
    assert_same_tensors(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"))
    again = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert again.dtype == theirs.dtype and again.config.tie_word_embeddings == tied
    for (name, a), (_, b) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert_same_parameters(models.load(tmp_path / "ours"), ours)


def test_a_random_model_of_ours_is_one_of_theirs(tmp_path):
    config = Qwen3VLConfig.from_dict(reference().config.to_dict())
    ours = Qwen3VL(config, nnx.Rngs(0))
    models.save(ours, tmp_path)
    _, report = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert_same_parameters(models.load(tmp_path), ours)


def test_shards_and_their_index_hold_the_same_weights(directory, tmp_path):
    ours = models.load(directory)
    weights.save(ours, tmp_path, shard_bytes=50_000)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(set(index.values())) == files
    assert_same_tensors(tensors(tmp_path), tensors(directory))
    assert_same_parameters(models.load(tmp_path), ours)
    Qwen3VLForConditionalGeneration.from_pretrained(tmp_path)
    models.save(ours, tmp_path)  # again, in one file: no shard of the last time stays
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


MESHES = {"fsdp": (1, 8, 1), "tensor": (1, 1, 8), "all": (2, 2, 2)}


def sharded(axes):
    """Shardings of parameters over a mesh (data, fsdp, tensor) of the eight devices."""
    return functools.partial(rules.sharding_of, mesh.make(mesh.MeshConfig(*axes)))


@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES.keys())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_device_gets_its_slices(axes, dtype, tmp_path, monkeypatch):
    for module in (tensor_files, weights):  # tensors in several slabs
        monkeypatch.setattr(module, "rows_per_slab", lambda size, *_: max(1, 1000 // size))
    theirs = reference().to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    found = models.load(tmp_path / "theirs", dtype, shardings=sharded(axes))
    assert_same_parameters(found, models.load(tmp_path / "theirs", dtype))
    q_proj, F, T = found.layers.q_proj.get_value(), *axes[1:]
    assert {shard.data.shape for shard in q_proj.addressable_shards} == {(3, 32 // F, 64 // T)}
    weights.save(found, tmp_path / "ours", shard_bytes=50_000)
    assert_same_tensors(tensors(tmp_path / "ours"), tensors(tmp_path / "theirs"))


def test_a_process_reads_only_what_its_devices_hold(directory, monkeypatch):
    read, slabs = [], TensorFiles.slabs

    def counted(self, name, index):
        for first, slab in slabs(self, name, index):
            read.append(slab.size)
            yield first, slab

    monkeypatch.setattr(TensorFiles, "slabs", counted)
    config = Qwen3VLConfig.read(directory)
    files, half = TensorFiles(directory), jax.devices()[4:]
    whole = models.load(directory)
    values = dict(nnx.to_flat_state(nnx.state(whole)))
    for path, leaf in leaves(config).items():
        value = np.asarray(values[path].get_value())
        for axes in MESHES.values():
            sharding = sharded(axes)(path, value.shape)
            indices = sharding.devices_indices_map(value.shape)
            boxes = {weights._box(indices[device], value.shape) for device in half}
            read.clear()
            found = weights._fill(files, leaf, boxes, np.float32)
            assert sum(read) == sum(buffer.size for buffer in found.values()), path
            for box, buffer in found.items():
                buffer = buffer if leaf.stacked else buffer[0]
                buffer = buffer.swapaxes(-1, -2) if leaf.transpose else buffer
                expected = value[tuple(slice(*ends) for ends in box)]
                np.testing.assert_array_equal(buffer, expected, err_msg=str(path))


@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES.keys())
def test_what_processes_gather_is_what_one_process_sees(axes, directory):
    found = models.load(directory, shardings=sharded(axes))
    table = leaves(found.config)
    for path in (("embedding",), ("norm",), ("layers", "q_proj"), ("layers", "q_norm")):
        leaf = table[path]
        value = dict(nnx.to_flat_state(nnx.state(found)))[path].get_value()
        args = value, 1 if leaf.stacked else None, leaf.transpose
        here, gathered = (
            sorted((row, slab.tobytes()) for row, slab in slabs(*args))
            for slabs in (weights._slabs_here, weights._slabs_of_all)
        )
        assert b"".join(slab for _, slab in here) == b"".join(slab for _, slab in gathered)


def test_a_part_of_a_shard_is_the_same_by_a_device_program():
    x = jax.random.normal(jax.random.key(0), (3, 8, 6))
    inside = [slice(1, 2), slice(2, 7), slice(0, 6)]
    (shard,) = x.addressable_shards
    for transpose in (False, True):
        starts, sizes = [p.start for p in inside], tuple(p.stop - p.start for p in inside)
        cut = weights._cut(x, starts, sizes, transpose)
        np.testing.assert_array_equal(cut, weights._fetch(shard, inside, transpose))


def test_a_model_with_other_parameters_is_not_saved_without_them(directory, tmp_path):
    model = models.load(directory)
    model.layers.extra = nnx.Param(np.zeros(3))
    with pytest.raises(ValueError, match="a saved qwen3_vl does not have: layers.extra"):
        models.save(model, tmp_path / "out")


def test_memory_stays_near_what_is_kept():
    """Loading and saving 0.3 GB on eight devices, in a process of its own: at most 1.3 times."""
    script = Path(__file__).parents[2] / "benchmarks" / "weights.py"
    small = ["--layers=1", "--depth=1", "--vocabulary=20000", "--cases", "3"]
    done = subprocess.run([sys.executable, script, *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every directory came back bit for bit" in done.stdout


def test_other_files_and_settings_of_the_directory_are_kept(copy, tmp_path):
    raw = json.loads((copy / "config.json").read_text())
    raw["text_config"]["eos_token_id"] = 5
    (copy / "config.json").write_text(json.dumps(raw))
    models.save(models.load(copy), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "out" / "generation_config.json").exists()
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["text_config"]["eos_token_id"] == 5
    assert Qwen3VLConfig.from_dict(saved) == Qwen3VLConfig.from_dict(raw)


def test_both_styles_of_config_say_the_same():
    raw = reference().config.to_dict()
    new = Qwen3VLConfig.from_dict(raw)
    assert new.text.rope_theta == 5000.0 and new.text.mrope_section == (4, 2, 2)
    rope = raw["text_config"].pop("rope_parameters")
    raw["text_config"]["rope_theta"] = rope.pop("rope_theta")
    raw["text_config"]["rope_scaling"] = rope  # as transformers 4.57 writes it
    assert Qwen3VLConfig.from_dict(raw) == new
    assert Qwen3VLConfig.from_dict(new.to_dict()) == new
    assert hash(new) == hash(Qwen3VLConfig.from_dict(new.to_dict()))


def change_config(path, section, **changes):
    raw = json.loads((path / "config.json").read_text())
    (raw[section] if section else raw).update(changes)
    (path / "config.json").write_text(json.dumps(raw))


def change_tensors(path, change):
    found = tensors(path)
    change(found)
    safetensors.numpy.save_file(found, path / "model.safetensors")


def test_all_wrong_tensors_are_told_at_once(copy):
    def change(found):
        del found["model.language_model.norm.weight"]
        found["model.language_model.layers.1.mlp.up_proj.weight"] = np.zeros((3, 3), np.float32)
        found["surprise"] = np.zeros(1, np.float32)

    change_tensors(copy, change)
    with pytest.raises(ValueError) as error:
        models.load(copy)
    text = str(error.value)
    assert str(copy) in text and "3 tensors do not fit" in text
    assert "missing: model.language_model.norm.weight [32]" in text
    assert "unknown: surprise" in text
    assert "layers.1.mlp.up_proj.weight: [3, 3], expected [48, 32]" in text


def no_weights(path):
    (path / "model.safetensors").unlink()


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def shard_missing(path):
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is not a directory.*hf download"),
        (lambda path: (path / "config.json").unlink(), "config.json does not exist"),
        (lambda path: (path / "config.json").write_text("{"), "config.json is not readable JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "holds a JSON list, not an object"),
        (lambda path: change_config(path, None, model_type="qwen3_vi"), "did you mean 'qwen3_vl'"),
        (no_weights, r"has no \*.safetensors.*hf download"),
        (truncated, "model.safetensors is not a readable safetensors file"),
        (shard_missing, "names files that are missing: model-00001-of-00002.safetensors"),
        (
            lambda path: change_config(path, "text_config", rope_parameters={"rope_type": "yarn"}),
            "config.json: .*rope type 'yarn' is not implemented",
        ),
        (
            lambda path: change_config(path, "text_config", num_key_value_heads=3),
            "config.json: .*num_attention_heads=4 does not divide into num_key_value_heads=3",
        ),
        (
            lambda path: change_config(path, "vision_config", num_position_embeddings=50),
            "num_position_embeddings=50 is no square",
        ),
    ],
)
def test_a_directory_that_cannot_be_loaded_says_why(copy, damage, message):
    damage(copy)
    with pytest.raises(ValueError, match=message):
        models.load(copy)


def test_the_images_of_a_batch_must_fit_its_tokens(directory):
    model = models.load(directory)
    ids = np.array([[150, 150, 1], [1, 2, 3]])
    pixels, grid = np.zeros((16, 96), np.float32), np.array([[1, 4, 4]])
    with pytest.raises(ValueError, match="prompt 0 of 2: 2 image tokens do not match the next"):
        models.logits(model, ids, np.ones_like(ids), pixels, grid)
    with pytest.raises(ValueError, match="1 of 1 images have no image tokens"):
        models.logits(model, ids[1:], np.ones_like(ids[1:]), pixels, grid)
