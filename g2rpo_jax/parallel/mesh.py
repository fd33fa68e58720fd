"""The device mesh: axes (data, fsdp, tensor), from a config section."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))  # every row array: its leading axis over data and fsdp


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; one axis may be -1: all devices that are left.

    Attributes:
      data: copies of the parameters; rows are divided over them.
      fsdp: parameters, gradients, optimiser state and rows are divided over it.
      tensor: heads, MLP width and vocabulary are divided over it (innermost: nearest devices).
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = (self.data, self.fsdp, self.tensor)
        if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh data, fsdp, tensor = {sizes}: sizes are positive, and at most one is -1"
            )


def make(config: MeshConfig, devices=None) -> Mesh:
    """The mesh over all devices (or `devices`).

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = math.prod(s for s in sizes if s > 0)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if -1 in sizes or math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} x mesh.tensor={config.tensor} does "
            f"not make {len(devices)} devices: set sizes whose product is {len(devices)}"
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES)


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
