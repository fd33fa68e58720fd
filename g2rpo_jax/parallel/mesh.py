"""The device mesh: axes (data, fsdp, tensor), from a config section."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
VOCAB = ("tensor", "all", "none")  # models.logprobs.SHARDS says how each is laid out
ROWS = PartitionSpec(("data", "fsdp"))  # every row array: its leading axis over data and fsdp


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one axis may be -1: all devices that are left.

    Attributes:
      data: copies of the parameters; rows are divided over them.
      fsdp: parameters, gradients, optimiser state and rows are divided over it.
      tensor: heads, MLP width and vocabulary are divided over it (innermost: nearest devices).
      vocab: what the unembedding divides its vocabulary over: "tensor" (each device gathers its
        share of the table over fsdp); "all" (fsdp and tensor: the table stays where it is, the
        hidden states travel: least memory); "none" (the whole table on each; tensor shares out
        the tokens).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    vocab: str = "tensor"

    def __post_init__(self):
        if self.vocab not in VOCAB:
            raise ValueError(f"mesh.vocab={self.vocab!r} is none of {', '.join(VOCAB)}")
        sizes = (self.data, self.fsdp, self.tensor)
        if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh data, fsdp, tensor = {sizes}: sizes are positive, and at most one is -1"
            )


def make(config: MeshConfig, devices=None) -> Mesh:
    """The mesh over all devices (or `devices`), those of one process side by side.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices, or rows would be divided
        over processes.
    """
    devices = list(jax.devices() if devices is None else devices)
    devices.sort(key=lambda device: (device.process_index, device.id))
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = math.prod(s for s in sizes if s > 0)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if -1 in sizes or math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} x mesh.tensor={config.tensor} does "
            f"not make {len(devices)} devices: set sizes whose product is {len(devices)}"
        )
    mesh = Mesh(np.asarray(devices).reshape(sizes), AXES)
    each = len(devices) // processes(mesh)
    if processes(mesh) > 1 and each % sizes[-1]:
        raise ValueError(
            f"mesh.tensor={sizes[-1]} does not divide the {each} devices of each process: a row "
            f"would be divided over processes; use a divisor of {each}"
        )
    return mesh


def processes(mesh: Mesh) -> int:
    """How many processes the mesh's devices belong to; all have the same number."""
    return len({device.process_index for device in mesh.devices.flat})


def row_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that lead with P (prompts)."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def row_ways(mesh: Mesh) -> int:
    """Number of parts that the row axis is divided into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_rows(field: str, rows: int, mesh: Mesh) -> None:
    """Raises ValueError naming the config field unless rows divide over the mesh."""
    ways = row_ways(mesh)
    if rows % ways:
        raise ValueError(
            f"{field}: {rows} rows do not divide over mesh data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}: rows are never split; use a multiple of {ways}"
        )


def put_rows(mesh: Mesh, tree):
    """Puts rows on their devices.

    Args:
      tree: host arrays of this process's rows: its block of the rows of all processes.
    Returns:
      a tree of arrays of all rows.
    """
    count, sharding = processes(mesh), row_sharding(mesh)
    if count == 1:
        return jax.device_put(tree, sharding)

    def put(rows):
        whole = (rows.shape[0] * count, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(rows), whole)

    return jax.tree.map(put, tree)


def put_whole(mesh: Mesh, value) -> jax.Array:
    """Puts a number or an array, the same in every process, on every device."""
    value = np.asarray(value)
    if processes(mesh) == 1:
        return jax.device_put(value, replicated(mesh))
    return jax.make_array_from_process_local_data(replicated(mesh), value, value.shape)


def own_rows(mesh: Mesh, tree):
    """This process's block of the rows of device arrays, on the host; `put_rows` the other way."""
    count = processes(mesh)
    if count == 1:
        return jax.device_get(tree)

    def get(array: jax.Array) -> np.ndarray:
        P = array.shape[0] // count
        first = P * jax.process_index()
        out = np.empty((P, *array.shape[1:]), array.dtype)
        for shard in array.addressable_shards:
            rows, *rest = shard.index
            begin, end, _ = rows.indices(array.shape[0])
            low, high = max(begin, first), min(end, first + P)
            if low < high:
                data = np.asarray(shard.data)[low - begin : high - begin]
                out[(slice(low - first, high - first), *rest)] = data
        return out

    return jax.tree.map(get, tree)
