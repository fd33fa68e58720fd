"""Peak host memory and speed of loading and saving weights, on a directory of random ones.

    python benchmarks/weights.py                  2.3 GB in bfloat16, files of at most 0.8 GB
    python benchmarks/weights.py --layers=1 --depth=1 --vocabulary=20000

Writes a directory of Qwen3-VL-2B's widths with fewer layers, then loads it, in a process of its own
for each line, as bfloat16 and float32, on one device and over meshes of eight virtual devices, and
in two processes of four devices each. Loaded weights are saved again and compared with the first
directory bit for bit.

Kept: bytes of the parameters that the process holds. Peak: the highest resident memory (VmHWM) less
what was resident before loading; of it anonymous: RssAnon when done, less RssAnon before.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

CASES = (  # devices, mesh (fsdp, tensor), dtype in memory, processes
    (1, (1, 1), "bfloat16", 1),
    (1, (1, 1), "float32", 1),
    (8, (8, 1), "bfloat16", 1),
    (8, (4, 2), "bfloat16", 1),
    (8, (2, 4), "float32", 1),
    (4, (8, 1), "bfloat16", 2),
    (4, (4, 2), "bfloat16", 2),
)
SHARD_BYTES = 8 * 10**8


def generate(directory: Path, layers: int, depth: int, vocabulary: int) -> None:
    """Random weights: any sign and mantissa, exponents near one."""
    import jax.numpy as jnp
    import numpy as np

    from g2rpo_jax.models.qwen3_vl import weights
    from g2rpo_jax.models.qwen3_vl.sizes import config_of
    from g2rpo_jax.models.tensor_files import Tensor, rows_per_slab, write_tensors

    config = config_of("Qwen3-VL-2B-Instruct")
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, num_hidden_layers=layers, vocab_size=vocabulary),
        vision=dataclasses.replace(config.vision, depth=depth, deepstack_visual_indexes=(0,)),
    )
    rng = np.random.default_rng(0)

    def slabs(shape):
        step = rows_per_slab(2 * math.prod(shape[1:]))
        for start in range(0, shape[0], step):
            size = (min(step, shape[0] - start), *shape[1:])
            bits = np.frombuffer(rng.bytes(2 * math.prod(size)), np.uint16).reshape(size)
            yield start, ((bits & 0x80FF) | 0x3C00).view(jnp.bfloat16)

    tensors = [
        Tensor(name, shape, jnp.dtype("bfloat16"), lambda shape=shape: slabs(shape))
        for name, shape in weights.tensor_shapes(config).items()
    ]
    directory.mkdir(parents=True)
    write_tensors(directory, tensors, SHARD_BYTES)
    raw = config.to_dict() | {"dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(raw))


def measure(args: argparse.Namespace) -> dict:
    """Loads and saves in this process, and says what that took."""
    import jax

    if args.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    from flax import nnx

    from g2rpo_jax.models.qwen3_vl import weights
    from g2rpo_jax.models.tensor_files import TensorFiles
    from g2rpo_jax.parallel import mesh, rules

    read, slabs = [0], TensorFiles.slabs

    def counted(self, name, index):
        for first, slab in slabs(self, name, index):
            read[0] += slab.nbytes
            yield first, slab

    TensorFiles.slabs = counted
    devices = mesh.make(mesh.MeshConfig(data=1, fsdp=args.fsdp, tensor=args.tensor))
    before = memory()
    started, cpu = time.perf_counter(), time.process_time()
    model = weights.load(
        args.directory, args.dtype, shardings=functools.partial(rules.sharding_of, devices)
    )
    loaded, cpu_loaded = time.perf_counter(), time.process_time()
    after = memory()
    leaves = jax.tree.leaves(nnx.state(model))
    kept = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    resumed, cpu_resumed = time.perf_counter(), time.process_time()
    weights.save(model, args.saved, dtype="bfloat16", shard_bytes=SHARD_BYTES)
    return {
        "kept": kept,
        "read": read[0],
        "load_peak": after["VmHWM"] - before["VmRSS"],
        "load_anonymous": after["RssAnon"] - before["RssAnon"],
        "load_s": loaded - started,
        "load_cpu_s": cpu_loaded - cpu,
        "save_peak": memory()["VmHWM"] - before["VmRSS"],
        "save_s": time.perf_counter() - resumed,
        "save_cpu_s": time.process_time() - cpu_resumed,
    }


def memory() -> dict[str, int]:
    """This process's memory in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon")))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


def differing(a: Path, b: Path) -> list[str]:
    """Names of tensors that two directories do not both have, bit for bit."""
    from g2rpo_jax.models.tensor_files import TensorFiles

    first, second = TensorFiles(a), TensorFiles(b)

    def equal(name: str) -> bool:
        whole = tuple(slice(0, size) for size in first.shape[name])
        pairs = zip(first.slabs(name, whole), second.slabs(name, whole), strict=True)
        return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for (_, x), (_, y) in pairs)

    odd = {name for name in first.shape if first.shape[name] != second.shape.get(name)}
    both = first.shape.keys() - odd
    return sorted(odd | second.shape.keys() - both | {name for name in both if not equal(name)})


def run(args: argparse.Namespace, case: tuple, directory: Path, saved: Path) -> list[dict]:
    """One case in processes of its own."""
    devices, (fsdp, tensor), dtype, processes = case
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    children = []
    for process in range(processes):
        command = [sys.executable, __file__, "--measure", f"--directory={directory}"]
        command += [f"--saved={saved}", f"--fsdp={fsdp}", f"--tensor={tensor}", f"--dtype={dtype}"]
        command += [f"--processes={processes}", f"--process={process}"]
        command += [f"--coordinator={coordinator}"]
        children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE))
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"case {case} failed; its errors stand above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=9, help="language layers of 101 MB")
    parser.add_argument("--depth", type=int, default=24, help="vision blocks of 25 MB")
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)))
    parser.add_argument(
        "--bound", type=float, default=1.3, help="of peak / kept; else exits with 1"
    )
    hidden = ("measure:", "directory", "saved", "dtype", "coordinator")
    for name in hidden:
        action = "store_true" if name.endswith(":") else "store"
        parser.add_argument(f"--{name.strip(':')}", action=action, help=argparse.SUPPRESS)
    for name in ("fsdp", "tensor", "processes", "process"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return report(args, Path(folder))


def report(args: argparse.Namespace, folder: Path) -> int:
    """Generates, runs every case, prints the table. 1 if a case is over the bound or not exact."""
    directory, saved = folder / "random", folder / "saved"
    generate(directory, args.layers, args.depth, args.vocabulary)
    files = [file.stat().st_size for file in directory.glob("*.safetensors")]
    print(f"{sum(files) / 1e9:.2f} GB of bfloat16 in {len(files)} files\n")
    print(
        "| devices | fsdp x tensor | in memory | kept GB | read GB | load: peak / kept | "
        "anonymous / kept | s | CPU s | GB/s | save: peak / kept | s | CPU s | GB/s |"
    )
    print("|" + " --- |" * 14)
    failed = False
    for number in args.cases:
        devices, (fsdp, tensor), dtype, processes = CASES[number]
        for found in run(args, CASES[number], directory, saved):
            kept, read = found["kept"], found["read"]
            loading, saving = found["load_peak"] / kept, found["save_peak"] / kept
            cells = [
                f"{processes} processes x {devices}" if processes > 1 else str(devices),
                f"{fsdp} x {tensor}",
                dtype,
                f"{kept / 1e9:.2f}",
                f"{read / 1e9:.2f}",
                f"{loading:.2f}",
                f"{found['load_anonymous'] / kept:.2f}",
                f"{found['load_s']:.1f}",
                f"{found['load_cpu_s']:.1f}",
                f"{read / 1e9 / found['load_s']:.2f}",
                f"{saving:.2f}",
                f"{found['save_s']:.1f}",
                f"{found['save_cpu_s']:.1f}",
                f"{sum(files) / 1e9 / found['save_s']:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            failed |= max(loading, saving) > args.bound
        if odd := differing(directory, saved):
            print(f"\n{len(odd)} tensors came back differently: {', '.join(odd[:5])}")
            failed = True
        shutil.rmtree(saved)
    print(f"\n{'FAILED' if failed else 'every directory came back bit for bit'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
