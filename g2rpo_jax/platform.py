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
      donate: whether jitted steps reuse their input state's memory. Off on Neuron, where donated
        buffers have been reported to return garbage (aws-neuron-sdk issue 1026).
      embedding_gradient: "scatter", or "onehot" (a matmul) where scatter-add is unsafe or slow.
      compute_dtype: what `model.dtype="auto"` means here.
    """

    environment: tuple[tuple[str, str], ...] = ()
    donate: bool = True
    embedding_gradient: str = "scatter"
    compute_dtype: str = "bfloat16"


def detect() -> str:
    """Name of the back end this process will use, without starting it.

    JAX_PLATFORMS decides when set; a Neuron device file means neuron; otherwise JAX itself chooses
    between tpu, gpu and cpu, and the answer here is "auto".
    """
    asked = os.environ.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if asked:
        return {"cuda": "gpu", "rocm": "gpu"}.get(asked, asked)
    return "neuron" if glob.glob("/dev/neuron[0-9]*") else "auto"


def prepare(host_devices: int = 0) -> None:
    """Sets environment variables for the back end; must run before JAX starts its back end.

    Args:
      host_devices: on a CPU, how many devices to divide the host into (0 leaves the choice to
        XLA_FLAGS; two devices use two cores better than one device with two threads).
    """
    name = detect()
    if name in BACKENDS:
        for key, value in BACKENDS[name].environment:
            os.environ.setdefault(key, value)
    flags = os.environ.get("XLA_FLAGS", "")
    option = "--xla_force_host_platform_device_count"
    if host_devices and option not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {option}={host_devices}".strip()


def current() -> Backend:
    """The record of the back end JAX runs on (starts it)."""
    import jax

    name = jax.default_backend()
    return lookup(BACKENDS, {"cuda": "gpu", "rocm": "gpu"}.get(name, name), kind="back end")


BACKENDS = {
    "cpu": Backend(compute_dtype="float32"),
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
