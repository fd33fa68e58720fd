"""Where a run executes: what to set before JAX starts, and what each back end does differently.

Everything else in the package is written so that the strictest compiler (Neuron's) takes it. The
few choices that would cost something elsewhere are fields of one record, chosen once per run.
"""

import dataclasses
import glob
import os

from g2rpo_jax.tables import lookup


@dataclasses.dataclass(frozen=True)
class Backend:
    """One back end.

    Attributes:
      environment: variables set before JAX starts, where the user has not set them.
      xla_flags: added to XLA_FLAGS, where the user has not set them.
      donate: whether jitted steps reuse their input state's memory. Off on Neuron, where donated
        buffers have been reported to return garbage (aws-neuron-sdk issue 1026).
      embedding_gradient: "scatter", or "onehot" (a matmul) where scatter-add is unsafe or slow.
      compute_dtype: what `model.dtype="auto"` means here.
    """

    environment: tuple[tuple[str, str], ...] = ()
    xla_flags: tuple[str, ...] = ()
    donate: bool = True
    embedding_gradient: str = "scatter"
    compute_dtype: str = "bfloat16"


def detect() -> str:
    """Name of the back end this process will use, without starting it.

    JAX_PLATFORMS decides when set; otherwise the device files that are there.
    """
    asked = os.environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if asked:
        return {"cuda": "gpu", "rocm": "gpu"}.get(asked, asked)
    for name, patterns in DEVICE_FILES.items():
        if any(glob.glob(pattern) for pattern in patterns):
            return name
    return "cpu"


def prepare(host_devices: int = 0) -> None:
    """Sets environment variables for the back end; must run before JAX starts its back end.

    Args:
      host_devices: on a CPU, how many devices to divide the host into (0 leaves the choice to
        XLA_FLAGS; two devices use two cores better than one device with two threads).
    """
    backend = BACKENDS.get(detect(), Backend())
    for key, value in backend.environment:
        os.environ.setdefault(key, value)
    wanted = list(backend.xla_flags)
    if host_devices:
        wanted.append(f"--xla_force_host_platform_device_count={host_devices}")
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in wanted if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def pretend(devices: int) -> None:
    """Virtual CPU devices for programs that are only looked at; must run before JAX starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    prepare(devices)


def current() -> Backend:
    """The record of the back end JAX runs on (starts it)."""
    import jax

    name = jax.default_backend()
    return lookup(BACKENDS, {"cuda": "gpu", "rocm": "gpu"}.get(name, name), kind="back end")


DEVICE_FILES = {
    "neuron": ("/dev/neuron[0-9]*",),
    "gpu": ("/dev/nvidia[0-9]*", "/dev/kfd"),
    "tpu": ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*"),
}

BACKENDS = {
    # Level 1 halves the time to compile a gradient; the programs run as fast.
    "cpu": Backend(xla_flags=("--xla_backend_optimization_level=1",), compute_dtype="float32"),
    "gpu": Backend(),
    "tpu": Backend(),
    "neuron": Backend(
        environment=(
            ("JAX_PLATFORMS", "neuron,cpu"),
            (
                "NEURON_CC_FLAGS",
                "--model-type=transformer -O1 --auto-cast=none "
                "--enable-mixed-precision-accumulation",
            ),
        ),
        donate=False,
        embedding_gradient="onehot",
    ),
}
