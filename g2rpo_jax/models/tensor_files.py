"""The safetensors files of a model directory, read and written a few megabytes at a time."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from g2rpo_jax.models.qwen3_vl.config import read_json

INDEX = "model.safetensors.index.json"
SLAB_BYTES = 4 * 2**20  # of a tensor that are in memory at once
DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # their names


class TensorFiles:
    """All tensors of a directory's weight files: `shape` by name, and `slabs` of each.

    No file stays open between slabs: safetensors maps files, and what is touched of a mapped file
    counts as memory of the process until it is closed.
    Raises:
      ValueError: if there is no file, one that the index names is missing, or one is damaged.
    """

    def __init__(self, directory: Path):
        self.shape: dict[str, tuple[int, ...]] = {}
        self._file: dict[str, Path] = {}
        for file in _weight_files(directory):
            try:
                with safetensors.safe_open(file, framework="np") as handle:
                    for name in handle.keys():
                        self._file[name] = file
                        self.shape[name] = tuple(handle.get_slice(name).get_shape())
            except (OSError, safetensors.SafetensorError) as error:
                raise ValueError(f"{file} is not a readable safetensors file: {error}") from error

    def slabs(self, name: str, index: tuple[slice, ...]) -> Iterator[tuple[int, np.ndarray]]:
        """The part `index` of a tensor, as (first row, rows), at most SLAB_BYTES each.

        Args:
          name: of the tensor.
          index: start and stop along each of its axes; the first are its rows.
        """
        rows, others = index[0], index[1:]
        step = rows_per_slab(4 * math.prod(part.stop - part.start for part in others))
        for start in range(rows.start, rows.stop, step):
            here = slice(start, min(start + step, rows.stop))
            with safetensors.safe_open(self._file[name], framework="np") as handle:
                slab = handle.get_slice(name)[(here, *others)]
            yield start, slab


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor to be written.

    Attributes:
      name, shape, dtype: in the file; a dtype of DTYPES.
      slabs: yields (first row, rows) in any order, each row once, in `dtype`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    slabs: Callable[[], Iterator[tuple[int, np.ndarray]]]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(directory: Path, tensors: Sequence[Tensor], shard_bytes: int) -> None:
    """Streams tensors into one file, or into several with an index.

    They have other names until all are complete: a save that is cut off leaves the old weights.
    Args:
      directory: exists.
      tensors: in the order of the files.
      shard_bytes: a new file is begun beyond this size.
    """
    shards: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    partial = [directory / f"shard-{number:05d}.partial" for number in range(1, len(shards) + 1)]
    try:
        for path, shard in zip(partial, shards, strict=True):
            _write_file(path, shard)
        _put_in_place(directory, partial, shards)
    finally:
        for path in directory.glob("shard-*.partial"):
            path.unlink()


def rows_per_slab(row_bytes: int, slab_bytes: int = SLAB_BYTES) -> int:
    """How many rows make a slab; at least 1."""
    return max(1, slab_bytes // max(1, row_bytes))


def file_dtype(dtype: str | np.dtype) -> np.dtype:
    """The dtype by its name.

    Raises:
      ValueError: if it is none that weight files have.
    """
    if (found := jnp.dtype(dtype)).name not in DTYPES:
        raise ValueError(f"dtype {found.name!r} of saved weights: use one of {', '.join(DTYPES)}")
    return found


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if index.exists():
        named = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in named if not (directory / name).exists()]
        if missing:
            raise ValueError(f"{index} names files that are missing: {', '.join(missing)}")
        return [directory / name for name in named]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{directory} has no *.safetensors: the weights are missing; fetch them with `hf "
            f"download <repository> --local-dir {directory}`"
        )
    return files


def _write_file(path: Path, tensors: Sequence[Tensor]) -> None:
    """The format: the header's length in 8 bytes, the header as JSON, the tensors end to end.

    safetensors' own writer wants all tensors of a file at once, gigabytes of them.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": DTYPES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        for tensor in tensors:
            row_bytes, written = tensor.nbytes // tensor.shape[0], 0
            for row, slab in tensor.slabs():
                file.seek(start + row * row_bytes)
                written += file.write(np.ascontiguousarray(slab).view(np.uint8))
            assert written == tensor.nbytes, tensor.name
            start += tensor.nbytes


def _put_in_place(directory: Path, partial: list[Path], shards: list[list[Tensor]]) -> None:
    """Gives complete files their names, then writes the index, then removes an older save's."""
    count, weight_map = len(shards), {}
    for number, (path, shard) in enumerate(zip(partial, shards, strict=True), start=1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        name = "model.safetensors" if count == 1 else name
        path.replace(directory / name)
        weight_map |= {tensor.name: name for tensor in shard}
    if count > 1:
        total = sum(tensor.nbytes for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        written = directory / f"{INDEX}.partial"
        written.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        written.replace(directory / INDEX)
    else:
        (directory / INDEX).unlink(missing_ok=True)
    for file in directory.glob("*.safetensors"):
        if file.name not in set(weight_map.values()):
            file.unlink()
