"""Where a run executes: what to set before JAX starts, and what each back end does differently.

Everything else in the package is written so that the strictest compiler (Neuron's) takes it. The
few choices that would cost something elsewhere are fields of one record, chosen once per run.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

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
      attention: kernel of the prompts' attention (`models.qwen3_vl.kernels`); "none": XLA's.
      unroll_layers: models of at most so many layers are written out instead of scanned
        (`models.layers`): a CPU gains a fifth of an update and of a rollout, and compiles longer.
      decode_chunk: tokens decoded between two looks at what has finished, at most, where the config
        leaves it open. Looking stalls the device for about a millisecond, so the faster a token,
        the longer a chunk: then a look costs below 1 %, and what has finished decodes little more.
        Neuron's compiler unrolls the chunk.
      keep_programs: whether compiled programs are kept on disk by JAX. Not on Neuron, where JAX's
        cache has crashed; its compiler has its own.
    """

    environment: tuple[tuple[str, str], ...] = ()
    xla_flags: tuple[str, ...] = ()
    donate: bool = True
    embedding_gradient: str = "scatter"
    compute_dtype: str = "bfloat16"
    attention: str = "none"
    unroll_layers: int = 0
    decode_chunk: int = 32
    keep_programs: bool = True


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


def use_large_pages() -> None:
    """Starts this very program again with memory in pages of 2 MiB, on a CPU under Linux.

    XLA gives an update's scratch memory back after each call and takes it anew: in pages of 4 KiB
    that was a fifth of the tiny run's update. The C library (glibc 2.35 or later; others pay no
    heed) reads the setting once, before Python runs, hence the new start. Call it first. What
    the user has set, even to nothing, stays as it is.
    """
    if sys.platform != "linux" or detect() != "cpu" or "GLIBC_TUNABLES" in os.environ:
        return
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def prepare(host_devices: int = 0) -> None:
    """Sets environment variables for the back end; must run before JAX starts its back end.

    What the user has set stays as it is.
    Args:
      host_devices: on a CPU, how many devices to divide the host into (0 leaves the choice to
        XLA_FLAGS; two devices use two cores better than one device with two threads).
    Raises:
      ValueError: on Neuron, packages are missing or placeholders; says which, and what to install.
    """
    name = detect()
    backend = BACKENDS.get(name, Backend())
    if name == "neuron":
        _require_neuron_packages()
    for key, value in backend.environment:
        os.environ.setdefault(key, os.path.expanduser(value))
    wanted = list(backend.xla_flags)
    if host_devices:
        wanted.append(f"--xla_force_host_platform_device_count={host_devices}")
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in wanted if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def keep_programs(processes: int = 1) -> Path | None:
    """Lets JAX keep compiled programs for the next start; returns where (None: nowhere).

    JAX_COMPILATION_CACHE_DIR names another folder; set but empty, it turns this off. Nothing is
    kept where one CPU run has several devices: an update that was read back has been seen to hang
    for ever, its devices waiting for one another in different sums (JAX 0.10.0).
    Args:
      processes: of the run.
    """
    name = detect()
    backend = BACKENDS.get(name, Backend())
    if not backend.keep_programs:
        return None
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if named is not None:
        return Path(named) if named else None  # JAX reads it by itself
    asked = re.search(
        r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", "")
    )
    if name == "cpu" and (processes > 1 or (asked and int(asked[1]) > 1)):
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "g2rpo_jax" / f"programs-{_cpu_kind()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # a home that cannot be written: every start compiles
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def _cpu_kind() -> str:
    """Tells kinds of processors apart: JAX's keys do not, and a home may be shared by several."""
    said = os.uname().machine
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return f"{zlib.crc32(said.encode()):08x}"


def _require_neuron_packages() -> None:
    wrong = neuron_packages()
    if wrong:
        found = sorted(f for pattern in DEVICE_FILES["neuron"] for f in glob.glob(pattern))
        asked = (
            f"Neuron devices are here ({found[0]})" if found else "JAX_PLATFORMS asks for neuron"
        )
        raise ValueError(
            f"{asked}, but {'; '.join(wrong)}. Install with: pip install -e '.[neuron]' "
            "--extra-index-url URL, where URL is AWS Neuron's pip index (AWS Neuron documentation, "
            "page 'JAX setup'; see docs/neuron.md); or set JAX_PLATFORMS=cpu"
        )
    # The plugin calls the compiler as a program, from a virtual environment that is not activated
    # as well.
    if shutil.which("neuronx-cc") is None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def neuron_packages() -> list[str]:
    """What is wrong with Neuron's packages, a sentence each; nothing is imported.

    The public index has placeholders of the same names, which install and do nothing.
    """
    wrong = []
    for package, module in NEURON_PACKAGES.items():
        try:
            known = importlib.metadata.metadata(package)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"the package {package} is not installed")
            continue
        text = f"{known.get('Description', '')}{known.get_payload()}"
        if "WRONG PACKAGE" in text or importlib.util.find_spec(module) is None:
            wrong.append(
                f"{package} {known['Version']} is a placeholder of the public package index"
            )
    return wrong


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

# Package -> the module that it brings.
NEURON_PACKAGES = {
    "jax-neuronx": "jax_neuronx",
    "libneuronxla": "libneuronxla",
    "neuronx-cc": "neuronxcc",
}

BACKENDS = {
    # Level 1 halves the time to compile a gradient; the programs run as fast.
    "cpu": Backend(
        xla_flags=("--xla_backend_optimization_level=1",),
        compute_dtype="float32",
        unroll_layers=12,
        decode_chunk=8,
    ),
    "gpu": Backend(attention="cudnn"),
    "tpu": Backend(),
    "neuron": Backend(
        environment=(
            ("JAX_PLATFORMS", "neuron,cpu"),
            # Random bits of the kind that the compiler takes; ours come from the host anyway.
            ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
            (
                "NEURON_CC_FLAGS",
                "--model-type=transformer --distribution-strategy=llm-training -O1 "
                "--auto-cast=none --enable-mixed-precision-accumulation",
            ),
            # Kept: the default lies among temporary files. Nodes may share one: set it yourself.
            ("NEURON_COMPILE_CACHE_URL", "~/.cache/neuron-compile-cache"),
            # It would make every cast to bfloat16 noisy, log-probs included.
            ("NEURON_RT_STOCHASTIC_ROUNDING_EN", "0"),
        ),
        donate=False,
        keep_programs=False,
        embedding_gradient="onehot",
        decode_chunk=8,
    ),
}
