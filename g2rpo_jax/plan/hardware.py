"""The numbers of machines that a plan is worked out with, and where they come from.

Peaks are the makers' own; `shares` says how much of them a run may hope for. Change them here;
docs/plan.md lists the same numbers with their sources.
"""

import dataclasses
import os
import time


@dataclasses.dataclass(frozen=True)
class Share:
    """What part of its peaks a machine reaches.

    Attributes:
      name: "likely" or "hopeful".
      products: of operations a second; published trainings are the guide.
      traffic: of bytes a second, from memory and over links; our assumption.
    """

    name: str
    products: float
    traffic: float


def _shares(likely: float, hopeful: float) -> tuple[Share, Share]:
    return Share("likely", likely, 0.5), Share("hopeful", hopeful, 0.8)


@dataclasses.dataclass(frozen=True)
class Device:
    """One JAX device and what surrounds it.

    Attributes:
      label: of the machine as it is rented.
      backend: the entry of `platform.BACKENDS` whose rules the programs follow.
      node: devices in one machine, or in one domain of fast links.
      memory_gib: memory of one device.
      reserve: share of it that a plan leaves free, for code, fragments and what is not modelled.
      flops: peak operations a second, by type of the operands of a product.
      memory_bytes_s: bytes a second from its memory.
      link_bytes_s: bytes a second that a device sends within the node.
      network_bytes_s: the same across nodes, all devices of a node sending at once.
      shares: likely and hopeful.
      sources: of these numbers.
    """

    label: str
    backend: str
    node: int
    memory_gib: float
    reserve: float
    flops: dict[str, float]
    memory_bytes_s: float
    link_bytes_s: float
    network_bytes_s: float
    shares: tuple[Share, Share]
    sources: str

    @property
    def usable_bytes(self) -> float:
        """Bytes that a plan may fill."""
        return self.memory_gib * 2**30 * (1 - self.reserve)


def _flops(bfloat16: float, float32: float) -> dict[str, float]:
    return {"bfloat16": bfloat16, "float16": bfloat16, "float32": float32}


def cpu(devices: int) -> Device:
    """This machine, measured now: a float32 product and a copy (about a second).

    Args:
      devices: into how many JAX devices it is divided; each has its share.
    """
    import numpy as np

    side = np.ones((1536, 1536), np.float32)
    large = np.ones(2**26, np.float32)
    side @ side
    flops = 2 * 1536**3 / _best(lambda: side @ side)
    copied = 2 * large.nbytes / _best(large.copy)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Device(
        label=f"this machine ({os.cpu_count()} cores, measured)",
        backend="cpu",
        node=10**9,
        memory_gib=memory / devices,
        reserve=0.1,
        # There are no 16-bit matrix units: XLA widens operands to float32.
        flops=_flops(flops / devices, flops / devices),
        memory_bytes_s=copied / devices,
        link_bytes_s=copied / devices,
        network_bytes_s=copied / devices,
        shares=_shares(0.3, 0.5),
        sources="measured when the plan was made: a product of 1536 x 1536 float32, a copy of "
        "256 MiB",
    )


def _best(job, times: int = 4) -> float:
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        job()
        spent.append(time.perf_counter() - start)
    return min(spent)


# A device is what JAX calls one: a NeuronCore (trn1), a logical core of two (trn2), a chip, a GPU.
DEVICES = {
    "trn1": Device(
        label="trn1.32xlarge (32 NeuronCore-v2)",
        backend="neuron",
        node=32,
        memory_gib=16,
        reserve=0.25,
        flops=_flops(95e12, 23.75e12),
        memory_bytes_s=410e9,
        link_bytes_s=192e9,
        network_bytes_s=100e9 / 32,
        shares=_shares(0.2, 0.4),
        sources="AWS Neuron docs, Trn1 and NeuronCore-v2 architecture: 190 TFLOP/s bf16, 47.5 f32, "
        "820 GB/s, 384 GB/s NeuronLink a chip of 2 cores; EFA 800 Gbit/s a node",
    ),
    "trn2": Device(
        label="trn2.48xlarge (64 logical cores, LNC 2)",
        backend="neuron",
        node=64,
        memory_gib=24,
        reserve=0.25,
        flops=_flops(158e12, 45e12),
        memory_bytes_s=720e9,
        link_bytes_s=256e9,
        network_bytes_s=400e9 / 64,
        shares=_shares(0.2, 0.4),
        sources="AWS Neuron docs, Trn2 and NeuronCore-v3 architecture: 79 TFLOP/s bf16 a physical "
        "core, 181 f32, 2.9 TB/s, 1,024 GB/s NeuronLink a chip of 4 logical cores; EFA 3,200 "
        "Gbit/s a node",
    ),
    "v5e": Device(
        label="TPU v5e (one chip a device)",
        backend="tpu",
        node=256,
        memory_gib=16,
        reserve=0.1,
        flops=_flops(197e12, 197e12 / 6),
        memory_bytes_s=819e9,
        link_bytes_s=200e9,
        network_bytes_s=200e9 / 8 / 8,
        shares=_shares(0.3, 0.5),
        sources="Google Cloud, TPU v5e: 197 TFLOP/s bf16, 16 GB, 819 GB/s, 400 GB/s of links in "
        "both directions, 2 x 100 Gbit/s a host of 8 chips; float32 products take six passes of "
        "bf16",
    ),
    "v5p": Device(
        label="TPU v5p (one chip a device; v5p-16 has 8)",
        backend="tpu",
        node=6144,
        memory_gib=95,
        reserve=0.1,
        flops=_flops(459e12, 459e12 / 6),
        memory_bytes_s=2765e9,
        link_bytes_s=600e9,
        network_bytes_s=50e9 / 8,
        shares=_shares(0.3, 0.5),
        sources="Google Cloud, TPU v5p: 459 TFLOP/s bf16, 95 GiB, 2,765 GB/s, 1,200 GB/s of links "
        "in both directions, 50 Gbit/s of network a chip; float32 products take six passes of bf16",
    ),
    "h100": Device(
        label="H100 SXM 80 GB (8 in a node)",
        backend="gpu",
        node=8,
        memory_gib=79.6,
        reserve=0.1,
        flops=_flops(989e12, 494e12),
        memory_bytes_s=3350e9,
        link_bytes_s=450e9,
        network_bytes_s=50e9,
        shares=_shares(0.3, 0.5),
        sources="NVIDIA H100 datasheet, dense: 989 TFLOP/s bf16, 494 TF32 (what JAX uses for "
        "float32 products), 3.35 TB/s, NVLink 900 GB/s in both directions; network 400 Gbit/s a "
        "GPU, as in DGX H100; 81,559 MiB as the driver shows it",
    ),
}
