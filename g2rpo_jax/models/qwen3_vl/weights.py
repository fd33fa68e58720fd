"""Weights from and to a Hugging Face directory, tensor for tensor.

Both directions read one table (`tensor_names.leaves`), so what is loaded is what is saved, bit for
bit. Host memory: loading takes the parameters that this process's devices hold and the largest one
of them a second time, the largest first, when there is still room; saving a few slabs.
"""

import dataclasses
import functools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from g2rpo_jax.models.qwen3_vl.config import Qwen3VLConfig, read_json, require_directory
from g2rpo_jax.models.qwen3_vl.model import Qwen3VL
from g2rpo_jax.models.qwen3_vl.tensor_names import Leaf, leaves
from g2rpo_jax.models.tensor_files import (
    INDEX,
    Tensor,
    TensorFiles,
    file_dtype,
    rows_per_slab,
    write_tensors,
)

SHARD_BYTES = 5 * 10**9
GATHER_BYTES = 2**20  # of a tensor that processes gather at a time; each device gets a copy
Shardings = Callable[[tuple[str, ...], tuple[int, ...]], jax.sharding.Sharding]
Box = tuple[tuple[int, int], ...]  # start and stop along each axis


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
        and each process reads only the slices of its devices. None: all on the default device.
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
    files = TensorFiles(directory)
    _check(directory, config, files)
    want = jnp.dtype(param_dtype or dtype)
    flat = [(path, param, param.get_value().shape) for path, param in nnx.to_flat_state(state)]
    for path, param, shape in sorted(flat, key=lambda entry: -math.prod(entry[2])):
        sharding = shardings(path, shape) if shardings else None
        leaf = _found(files, table[path], shape)
        param.set_value(_read(files, leaf, shape, sharding, want))
    return nnx.merge(graphdef, state)


def save(
    model: Qwen3VL, directory: str | Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes a directory that `load`, transformers and vLLM read.

    Tokenizer, processor, chat template and generation files are copied from `model.directory`.
    Of several processes all call this; they gather one layer's tensor at a time, and the first one
    writes.
    Args:
      model: its weights, on any devices.
      directory: made if missing; files of the same name are replaced.
      dtype: of the weights on disk, e.g. "bfloat16"; None: as in memory.
      shard_bytes: a new file is begun beyond this size; more than one file get an index.
    Raises:
      ValueError: for a dtype that such files do not have, or a model with other parameters than
        its config says.
    """
    directory = Path(directory)
    tensors = _tensors(model, dtype)
    if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        _copy_files(model, directory)
        write_tensors(directory, tensors, shard_bytes)
        _write_config(model, directory, jnp.dtype(dtype or model.embedding.get_value().dtype).name)
    else:
        for tensor in tensors:
            for _ in tensor.slabs():
                pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {directory}")


def _read(files: TensorFiles, leaf: Leaf, shape, sharding, dtype: np.dtype) -> jax.Array:
    """One parameter; only the boxes of it that this process's devices hold are read."""
    indices = {None: (slice(None),) * len(shape)}
    if sharding is not None:
        indices = sharding.addressable_devices_indices_map(shape)
    boxes = {device: _box(index, shape) for device, index in indices.items()}
    buffers = _fill(files, leaf, set(boxes.values()), dtype)

    def put(device: jax.Device | None) -> jax.Array:
        buffer = buffers[boxes[device]]
        buffer = buffer if leaf.stacked else buffer[0]
        # PJRT turns a transposed view while it copies, several times faster than NumPy would.
        return jax.device_put(buffer.swapaxes(-1, -2) if leaf.transpose else buffer, device)

    if sharding is None:
        return put(None).block_until_ready()
    parts = [put(device) for device in boxes]
    array = jax.make_array_from_single_device_arrays(shape, sharding, parts)
    return array.block_until_ready()  # then the buffers go, before the next parameter's come


def _fill(
    files: TensorFiles, leaf: Leaf, boxes: set[Box], dtype: np.dtype
) -> dict[Box, np.ndarray]:
    """Boxes of a parameter on the host, in the axes of the files: [layers, out, in].

    Each tensor is read once for all boxes that share its rows, a slab at a time.
    """
    buffers, places = {}, {}
    for box in boxes:
        layers, ranges = (box[0], box[1:]) if leaf.stacked else ((0, 1), box)
        ranges = _exchanged(ranges) if leaf.transpose else ranges
        places[box] = layers, ranges
        buffers[box] = np.empty([stop - start for start, stop in (layers, *ranges)], dtype)
    for layer, name in enumerate(leaf.names):
        here = {box: r for box, (layers, r) in places.items() if layer in range(*layers)}
        for rows in sorted({ranges[0] for ranges in here.values()}):
            group = {box: ranges for box, ranges in here.items() if ranges[0] == rows}
            around = _around(list(group.values()))
            for first, slab in _slabs_in(files, leaf, name, around):
                for box, ranges in group.items():
                    inside = [
                        slice(start - origin, stop - origin)
                        for (start, stop), (origin, _) in zip(ranges, around, strict=True)
                    ]
                    buffer = buffers[box][layer - places[box][0][0]]
                    buffer[first : first + len(slab)] = slab[(slice(None), *inside[1:])]
    return buffers


def _slabs_in(files: TensorFiles, leaf: Leaf, name: str, box: Box):
    """Slabs of a box of a tensor's part: (first row, counted from the box's first; rows)."""
    shape = files.shape[name]
    offset = 0 if leaf.part is None else leaf.part * (shape[0] // 3)
    rows, *others = (slice(*ends) for ends in box)
    flat = len(shape) > len(box)  # the patch embedding: a convolution whose kernel is one patch
    index = [slice(0, size) for size in shape[1:]] if flat else others
    for row, slab in files.slabs(name, (slice(rows.start + offset, rows.stop + offset), *index)):
        slab = slab.reshape(len(slab), -1)[:, others[0]] if flat else slab
        yield row - offset - rows.start, slab


def _found(files: TensorFiles, leaf: Leaf, shape: tuple[int, ...]) -> Leaf:
    """The leaf as the files have it: experts with their last two axes in either order."""
    if leaf.either and all(files.shape[name] == _exchanged(shape[1:]) for name in leaf.names):
        return dataclasses.replace(leaf, transpose=True)
    return leaf


def _exchanged(axes: Sequence) -> tuple:
    """The last two of them exchanged."""
    return (*axes[:-2], axes[-1], axes[-2])


def _around(boxes: list[Box]) -> Box:
    """The smallest box around all."""
    return tuple(
        (min(start for start, _ in ends), max(stop for _, stop in ends))
        for ends in zip(*boxes, strict=True)
    )


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _tensors(model: Qwen3VL, dtype: str | None) -> list[Tensor]:
    """The checkpoint's tensors, in Hugging Face's names and shapes."""
    values = {path: param.get_value() for path, param in nnx.to_flat_state(nnx.state(model))}
    table = leaves(model.config)
    if odd := values.keys() ^ table.keys():
        names = ", ".join(sorted(".".join(map(str, path)) for path in odd))
        raise ValueError(f"parameters that a saved {model.model_type} does not have: {names}")
    parts: dict[str, list] = {}
    # transformers takes square experts to lie as in a new model of its own, others by their shape.
    for path, leaf in table.items():
        if leaf.either and values[path].shape[-1] == values[path].shape[-2]:
            table[path] = dataclasses.replace(leaf, transpose=True)
    for path, leaf in table.items():
        for layer, name in enumerate(leaf.names):
            part = (values[path], layer if leaf.stacked else None, leaf.transpose)
            parts.setdefault(name, []).append(part)  # q, k, v in the order of the table
    tensors = []
    for path, leaf in table.items():
        if leaf.part:
            continue
        kind = file_dtype(dtype or values[path].dtype)
        shape = _checkpoint_shape(model.config, path, leaf, values[path].shape)
        for name in leaf.names:
            slabs = functools.partial(_slabs, parts[name], kind)
            tensors.append(Tensor(name, shape, kind, slabs))
    return tensors


def _slabs(
    parts: list[tuple[jax.Array, int | None, bool]], dtype: np.dtype
) -> Iterator[tuple[int, np.ndarray]]:
    """(First row, rows) of a tensor made of parts (parameter, layer or None, transposed).

    Yields in the first process only; the others take part in its gathers.
    """
    above = 0
    for value, layer, transpose in parts:
        if value.is_fully_addressable or value.is_fully_replicated:
            slabs = _slabs_here(value, layer, transpose) if jax.process_index() == 0 else ()
        else:
            slabs = _slabs_of_all(value, layer, transpose)
        for row, slab in slabs:
            yield above + row, slab.astype(dtype, copy=False)
        above += value.shape[_row_axis(value, layer, transpose)]


def _row_axis(value: jax.Array, layer: int | None, transpose: bool) -> int:
    """The axis of a parameter that becomes the first of its tensor."""
    lead = int(layer is not None)
    return value.ndim - 1 if transpose and value.ndim - lead == 2 else lead


def _slabs_here(value: jax.Array, layer: int | None, transpose: bool):
    """(First row, rows) of one tensor, from the shards of this process."""
    axis, lead = _row_axis(value, layer, transpose), int(layer is not None)
    sizes = list(value.shape[lead:])
    step = rows_per_slab(math.prod(sizes) // sizes[axis - lead] * value.dtype.itemsize)
    for start in range(0, value.shape[axis], step):
        stop = min(start + step, value.shape[axis])
        yield start, _slab(value, layer, transpose, slice(start, stop))


def _slabs_of_all(value: jax.Array, layer: int | None, transpose: bool):
    """The same of a parameter that several processes share; the first process gets them.

    What is gathered at a time is as many rows of every shard, so nothing is gathered that is not
    wanted: a slice along a divided axis would be cut from the whole.
    """
    axis, lead = _row_axis(value, layer, transpose), int(layer is not None)
    each = value.sharding.shard_shape(value.shape)[axis]
    ways = value.shape[axis] // each
    row_bytes = math.prod(value.shape[lead:]) // value.shape[axis] * value.dtype.itemsize
    step = rows_per_slab(ways * row_bytes, GATHER_BYTES)
    for start in range(0, each, step):
        size = min(step, each - start)
        program = _gather(NamedSharding(value.sharding.mesh, PartitionSpec()), axis, ways, size)
        gathered = program(value, layer, start)
        gathered.block_until_ready()  # no process may run ahead and pile them up
        for way in range(ways) if jax.process_index() == 0 else ():
            inside = [slice(way, way + 1), *(slice(0, n) for n in gathered.shape[1:])]
            slab = _fetch(gathered.addressable_shards[0], inside, transpose)
            yield way * each + start, slab[0]


@functools.cache
def _gather(whole: NamedSharding, axis: int, ways: int, size: int):
    """(parameter, layer or None, start) -> [ways, ...] on every device: of one layer's tensor,
    whose `axis` is divided `ways` ways, `size` from `start` on of each."""

    def gather(value, layer, start):
        if layer is not None:
            value = jax.lax.dynamic_index_in_dim(value, layer, keepdims=False)
        at = axis - int(layer is not None)
        divided = value.reshape(*value.shape[:at], ways, -1, *value.shape[at + 1 :])
        return jnp.moveaxis(jax.lax.dynamic_slice_in_dim(divided, start, size, at + 1), at, 0)

    return jax.jit(gather, out_shardings=whole)


def _slab(value: jax.Array, layer: int | None, transpose: bool, rows: slice) -> np.ndarray:
    """Some rows of a tensor, put together from the shards of its parameter.

    Args:
      value: a parameter whose shards here make it complete.
      layer: which of a stacked parameter; None: it is not stacked.
      transpose: whether the tensor has the parameter's last two axes exchanged.
      rows: along the tensor's first axis.
    """
    axis, lead = _row_axis(value, layer, transpose), int(layer is not None)
    sizes = list(value.shape[lead:])
    sizes[axis - lead] = rows.stop - rows.start
    out = np.empty(_exchanged(sizes) if transpose else sizes, value.dtype)
    seen = set()
    for shard in value.addressable_shards:
        box = _box(shard.index, value.shape)
        start, stop = max(box[axis][0], rows.start), min(box[axis][1], rows.stop)
        if box in seen or start >= stop or (lead and layer not in range(*box[0])):
            continue
        seen.add(box)
        inside = [slice(0, end - begin) for begin, end in box]
        inside[axis] = slice(start - box[axis][0], stop - box[axis][0])
        if lead:
            inside[0] = slice(layer - box[0][0], layer - box[0][0] + 1)
        where = [slice(*ends) for ends in box]
        where[axis] = slice(start - rows.start, stop - rows.start)
        where = _exchanged(where[lead:]) if transpose else where[lead:]
        out[tuple(where)] = _fetch(shard, inside, transpose).reshape(out[tuple(where)].shape)
    return out


def _fetch(shard: jax.Shard, inside: list[slice], transpose: bool) -> np.ndarray:
    """A part of a shard on the host, its last two axes exchanged if `transpose`."""
    if shard.device.platform == "cpu":  # a view; PJRT transposes better than NumPy, as in _read
        part = np.asarray(shard.data)[tuple(inside)]
        if not transpose:
            return part
        return np.asarray(jax.device_put(part.swapaxes(-1, -2), shard.device))
    starts = [part.start for part in inside]
    sizes = tuple(part.stop - part.start for part in inside)
    return np.asarray(_cut(shard.data, starts, sizes, transpose))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _cut(data: jax.Array, starts, sizes: tuple[int, ...], transpose: bool) -> jax.Array:
    part = jax.lax.dynamic_slice(data, starts, sizes)
    return part.swapaxes(-1, -2) if transpose else part


def _copy_files(model: Qwen3VL, directory: Path) -> None:
    """Copies tokenizer, processor and the like from where the model was loaded."""
    source = Path(model.directory) if model.directory else None
    if source and source.resolve() != directory.resolve():
        for file in sorted(source.glob("*")):
            if file.is_file() and file.suffix in COPIED and file.name not in (INDEX, "config.json"):
                shutil.copyfile(file, directory / file.name)


def _write_config(model: Qwen3VL, directory: Path, dtype: str) -> None:
    """What the source's config.json says, with this model's shape and dtype."""
    raw = read_json(Path(model.directory) / "config.json") if model.directory else {}
    raw.pop("torch_dtype", None)
    raw = _merge_dicts(raw, model.config.to_dict() | {"dtype": dtype})
    for part in ("text_config", "vision_config"):
        raw[part].pop("torch_dtype", None)
        raw[part]["dtype"] = dtype
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")


def tensor_shapes(config: Qwen3VLConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model's checkpoint and their shapes; nothing is read or made."""
    state = nnx.state(nnx.eval_shape(lambda: Qwen3VL(config, None)))
    shapes = {path: param.get_value().shape for path, param in nnx.to_flat_state(state)}
    table = leaves(config)
    assert shapes.keys() == table.keys(), shapes.keys() ^ table.keys()
    return {
        name: _checkpoint_shape(config, path, leaf, shapes[path])
        for path, leaf in table.items()
        for name in leaf.names
    }


def _check(directory: Path, config: Qwen3VLConfig, files: TensorFiles) -> None:
    """Raises one error that tells everything wrong with the tensors."""
    expected = tensor_shapes(config)
    either = {name for leaf in leaves(config).values() if leaf.either for name in leaf.names}
    ignored = {"lm_head.weight"} if config.tie_word_embeddings else set()
    bad = [f"missing: {name} {list(expected[name])}" for name in expected.keys() - files.shape]
    bad += [f"unknown: {name}" for name in files.shape.keys() - expected.keys() - ignored]
    bad += [
        f"shape of {name}: {list(files.shape[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in files.shape
        and files.shape[name] not in (shape, _exchanged(shape) if name in either else shape)
    ]
    if bad:
        shown = "\n  ".join(sorted(bad)[:20])
        raise ValueError(
            f"{directory}: {len(bad)} tensors do not fit its config.json:\n  {shown}\n"
            "Are config.json and the weights of the same model?"
        )


def _checkpoint_shape(config, path, leaf: Leaf, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = shape[1:] if leaf.stacked else shape
    shape = _exchanged(shape) if leaf.transpose else shape
    if path[-1] == "patch_proj":
        v = config.vision
        return (shape[0], v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    return shape if leaf.part is None else (3 * shape[0], *shape[1:])


def _merge_dicts(old: dict, new: dict) -> dict:
    """`new` over `old`, section by section."""
    both = {k: _merge_dicts(old[k], v) for k, v in new.items() if _both_dicts(old.get(k), v)}
    return old | new | both


def _both_dicts(a: object, b: object) -> bool:
    return isinstance(a, dict) and isinstance(b, dict)


COPIED = (".json", ".txt", ".jinja", ".model", ".tiktoken")  # tokenizer, processor, chat template
