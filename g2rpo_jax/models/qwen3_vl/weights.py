"""Weights from and to a Hugging Face directory, tensor for tensor.

Both directions read one table (`tensor_names.leaves`), so what is loaded is what is saved, bit for
bit.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig, read_json, require_directory
from g2rpo_jax.models.qwen3_vl.model import Qwen3VL
from g2rpo_jax.models.qwen3_vl.tensor_names import Leaf, leaves

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
Shardings = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]


def load(
    directory: str | Path,
    dtype: str = "float32",
    param_dtype: str | None = None,
    shardings: Shardings | None = None,
) -> Qwen3VL:
    """Reads a Hugging Face Qwen3-VL directory.

    Args:
      directory: holds config.json and *.safetensors (in one file, or shards with an index).
      dtype: of activations and matrix products.
      param_dtype: of the weights in memory; None: as `dtype`.
      shardings: parameter path and shape -> its sharding; each device then gets only its slices,
        read straight from the files. None: all on the default device.
    Raises:
      ValueError: naming file or tensors, if anything is missing, unknown, of a wrong shape or not
        readable. All bad tensors are told at once.
    """
    directory = Path(directory)
    require_directory(directory)
    config = Qwen3VLConfig.read(directory)
    table = leaves(config)
    model = nnx.eval_shape(lambda: Qwen3VL(config, None, jnp.dtype(dtype)))
    model.directory = str(directory)
    graphdef, state = nnx.split(model)
    with _Tensors(directory) as tensors:
        _check(directory, config, table, tensors, state)
        want = jnp.dtype(param_dtype or dtype)

        def read(path: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
            def piece(index: tuple[slice, ...]) -> np.ndarray:
                return _read(tensors, table[path], shape, index).astype(want)

            if shardings is None:
                return jnp.asarray(piece((slice(None),) * len(shape)))
            return jax.make_array_from_callback(shape, shardings(path, shape), piece)

        for path, param in nnx.to_flat_state(state):
            param.set_value(read(path, param.get_value().shape))
    return nnx.merge(graphdef, state)


def save(
    model: Qwen3VL, directory: str | Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a directory that `load`, transformers and vLLM read.

    Tokenizer, processor, chat template and generation files are copied from `model.directory`.
    Args:
      model: its weights are fetched to the host one layer's tensor at a time.
      directory: made if missing; files of the same name are replaced.
      dtype: of the weights on disk, e.g. "bfloat16"; None: as in memory.
      shard_bytes: a new file is begun beyond this size; more than one file get an index.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    source = Path(model.directory) if model.directory else None
    if source and source.resolve() != directory.resolve():
        for file in sorted(source.glob("*")):
            if file.is_file() and file.suffix in COPIED and file.name not in (INDEX, "config.json"):
                shutil.copyfile(file, directory / file.name)
    shards: list[dict[str, np.ndarray]] = [{}]
    size = total = 0
    for name, tensor in tensors_of(model, dtype):
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            _write_shard(directory, len(shards), shards[-1])
            shards[-1] = dict.fromkeys(shards[-1])  # on disk now; the names are for the index
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    _write_shard(directory, len(shards), shards[-1])
    _finish_shards(directory, [list(shard) for shard in shards], total)
    raw = read_json(source / "config.json") if source else {}
    kind = jnp.dtype(dtype or model.embedding[...].dtype).name
    raw.pop("torch_dtype", None)
    raw = _merge_dicts(raw, model.config.to_dict() | {"dtype": kind})
    for part in ("text_config", "vision_config"):
        raw[part].pop("torch_dtype", None)
        raw[part]["dtype"] = kind
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def tensors_of(model: Qwen3VL, dtype: str | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """The checkpoint's (name, tensor) pairs, in Hugging Face's names and shapes, on the host."""
    config = model.config
    values = {path: param.get_value() for path, param in nnx.to_flat_state(nnx.state(model))}
    fused: dict[str, dict[int, np.ndarray]] = {}
    vision = config.vision
    patch = (-1, vision.in_channels, vision.temporal_patch_size, *(vision.patch_size,) * 2)
    for path, leaf in leaves(config).items():
        for layer, name in enumerate(leaf.names):
            value = values[path][layer] if leaf.stacked else values[path]
            tensor = np.asarray(jax.device_get(value))
            tensor = tensor.T if leaf.transpose else tensor
            tensor = tensor.reshape(patch) if path[-1] == "patch_proj" else tensor
            tensor = np.ascontiguousarray(tensor if dtype is None else tensor.astype(dtype))
            if leaf.part is None:
                yield name, tensor
                continue
            parts = fused.setdefault(name, {})
            parts[leaf.part] = tensor
            if len(parts) == 3:
                yield name, np.concatenate([parts[i] for i in range(3)])
                del fused[name]


class _Tensors:
    """The tensors of all weight files of a directory, read by slices."""

    def __init__(self, directory: Path):
        self.files = sorted(directory.glob("*.safetensors"))
        index = directory / INDEX
        if index.exists():
            named = sorted(set(read_json(index).get("weight_map", {}).values()))
            missing = [name for name in named if not (directory / name).exists()]
            if missing:
                raise ValueError(f"{index} names files that are missing: {', '.join(missing)}")
            self.files = [directory / name for name in named]
        if not self.files:
            raise ValueError(
                f"{directory} has no *.safetensors: the weights are missing; fetch them with `hf "
                f"download <repository> --local-dir {directory}`"
            )

    def __enter__(self) -> "_Tensors":
        self.where, self.shape = {}, {}
        self.handles = []
        for file in self.files:
            try:
                handle = safetensors.safe_open(file, framework="np")
            except (OSError, safetensors.SafetensorError) as error:
                raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
            self.handles.append(handle)
            for name in handle.keys():
                self.where[name] = handle
                self.shape[name] = tuple(handle.get_slice(name).get_shape())
        return self

    def __exit__(self, *_: object) -> None:
        self.handles = []


def _check(directory, config, table, tensors, state) -> None:
    """Raises one error that tells everything wrong with the tensors."""
    shapes = {path: param.get_value().shape for path, param in nnx.to_flat_state(state)}
    assert shapes.keys() == table.keys(), shapes.keys() ^ table.keys()
    expected = {}
    for path, leaf in table.items():
        for name in leaf.names:
            expected[name] = _checkpoint_shape(config, path, leaf, shapes[path])
    ignored = {"lm_head.weight"} if config.tie_word_embeddings else set()
    bad = [f"missing: {name} {list(expected[name])}" for name in expected.keys() - tensors.where]
    bad += [f"unknown: {name}" for name in tensors.where.keys() - expected.keys() - ignored]
    bad += [
        f"shape of {name}: {list(tensors.shape[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors.where and tensors.shape[name] != shape
    ]
    if bad:
        shown = "\n  ".join(sorted(bad)[:20])
        raise ValueError(
            f"{directory}: {len(bad)} tensors do not fit its config.json:\n  {shown}\n"
            "Are config.json and the weights of the same model?"
        )


def _checkpoint_shape(config, path, leaf: Leaf, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = shape[1:] if leaf.stacked else shape
    shape = shape[::-1] if leaf.transpose else shape
    if path[-1] == "patch_proj":
        v = config.vision
        return (shape[0], v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    return shape if leaf.part is None else (3 * shape[0], *shape[1:])


def _read(tensors: _Tensors, leaf: Leaf, shape, index: tuple[slice, ...]) -> np.ndarray:
    """The piece `index` of a parameter of shape `shape`, from the slices of the files it needs."""
    index = tuple(slice(*i.indices(n)) for i, n in zip(index, shape, strict=True))
    layers, index = (index[0], index[1:]) if leaf.stacked else (slice(0, 1), index)
    shape = shape[1:] if leaf.stacked else shape

    def one(name: str) -> np.ndarray:
        rows = index[::-1] if leaf.transpose else index
        if leaf.part is not None:
            offset = leaf.part * (shape[-1] if leaf.transpose else shape[0])
            rows = (slice(rows[0].start + offset, rows[0].stop + offset), *rows[1:])
        if len(tensors.shape[name]) == len(rows):
            found = tensors.where[name].get_slice(name)[rows]
        else:  # the patch embedding: a convolution whose kernel is one patch
            found = tensors.where[name].get_tensor(name)
            found = found.reshape(found.shape[0], -1)[rows]
        return found.T if leaf.transpose else found

    pieces = [one(name) for name in leaf.names[layers]]
    return np.stack(pieces) if leaf.stacked else pieces[0]


def _write_shard(directory: Path, number: int, shard: dict[str, np.ndarray]) -> None:
    # Under another name until all are written: a save that is cut off leaves the old weights.
    file = directory / f"shard-{number:05d}.partial"
    safetensors.numpy.save_file(shard, file, metadata={"format": "pt"})


def _finish_shards(directory: Path, shards: list[list[str]], total: int) -> None:
    """Puts the new files in the place of the old, named by how many there are, with an index."""
    for stale in [*directory.glob("*.safetensors"), directory / INDEX]:
        stale.unlink(missing_ok=True)
    count, weight_map = len(shards), {}
    for number, names in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{count:05d}.safetensors"
        final = "model.safetensors" if count == 1 else final
        (directory / f"shard-{number:05d}.partial").replace(directory / final)
        weight_map |= dict.fromkeys(names, final)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _merge_dicts(old: dict, new: dict) -> dict:
    """`new` over `old`, section by section."""
    both = {k: _merge_dicts(old[k], v) for k, v in new.items() if _both_dicts(old.get(k), v)}
    return old | new | both


def _both_dicts(a: object, b: object) -> bool:
    return isinstance(a, dict) and isinstance(b, dict)


COPIED = (".json", ".txt", ".jinja", ".model", ".tiktoken")  # tokenizer, processor, chat template
