"""The speed of g2rpo_jax beside its peers, on this machine.

    python benchmarks/run.py --out=speed.json

Workloads W1, W2, W3 (benchmarks/speed/workloads.py) against transformers, transformers with
torch.compile, TRL and tunix (text only), each in its own environment and process, in turns: A, B,
A, B. W4 is the tiny config's own step. "curves" are seconds against prompt length and G, shared
prompts beside repeated ones; "advantages" the estimators against a loop over groups. Writes
--out (rows, settings, machine, versions), prints a table. Peers are installed from the package
index into --peers where they are missing; one that cannot be is a row with its error.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from speed import curves, peers, table  # noqa: E402
from speed.parts import Run  # noqa: E402
from speed.session import MALLOC, Worker, WorkerError  # noqa: E402
from speed.workloads import WORKLOADS  # noqa: E402

PARTS = (*WORKLOADS, "W4", "curves", "advantages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--quick", action="store_true", help="one round of each: does it run?")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of every comparison")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="their environments")
    asked = parser.parse_args()
    parts = asked.only.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--only={unknown[0]}: the parts are {', '.join(PARTS)}")
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {text}", flush=True)

    compared = any(name in WORKLOADS for name in parts)
    needed = tuple(peers.PACKAGES) if compared else ("torch",) if "advantages" in parts else ()
    uninstalled = peers.install(asked.peers, needed, say)
    out = asked.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="speed") as folder:
        workers = _workers(asked.peers, out.with_suffix(".log"))
        rounds = 1 if asked.quick else asked.rounds
        run = Run(workers, Path(folder), rounds, asked.quick, say)
        result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "parts": parts,
            "commit": _git("rev-parse", "HEAD"),
            "changed_files": _git("status", "--porcelain", "--untracked-files=no").splitlines(),
            "machine": _machine(),
            "settings": {"environment": MALLOC, "threads": os.cpu_count(), "rounds": rounds},
            "not_installed": uninstalled,
            "sides": run.hello(["ours", "transformers", "tunix"] if compared else ["ours"]),
        }
        result |= {"notes": run.notes, "curves": []}
        say(f"best rate of float32 products: {run.peak / 1e9:.0f} GFLOP/s")
        try:
            for part in parts:
                try:
                    _measure(part, run, result, asked.peers)
                except WorkerError as error:
                    say(f"{part}: {error}")
                    run.rows.append({"workload": part, "phase": "", "error": str(error)})
                rows = table.with_shares(run.rows, run.peak)
                result |= {"peak_gflops": round(run.peak / 1e9, 1), "rows": rows}
                result["seconds"] = round(time.perf_counter() - began)
                out.write_text(json.dumps(result, indent=1) + "\n")
        finally:
            for worker in workers.values():
                worker.close()
    print("\n" + table.markdown(rows))
    say(f"written to {out}; what the sides printed is in {out.with_suffix('.log')}")


def _measure(part: str, run: Run, result: dict, folder: Path) -> None:
    if part in WORKLOADS:
        run.workload(part)
    elif part == "W4":
        run.tiny_step()
    elif part == "curves":
        result["curves"] += curves.measure(run, curves.points(run.quick))
    else:
        run.rows += _advantages(folder, run.quick)


def _workers(folder: Path, log: Path) -> dict[str, Worker]:
    log.write_text("")
    torch, tunix = (peers.python_of(folder, name) for name in ("torch", "tunix"))
    # Everything is compiled in this run: the seconds are shown.
    own = {"PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", "JAX_COMPILATION_CACHE_DIR": ""}
    own["JAX_PLATFORMS"] = "cpu"
    return {
        "ours": Worker("ours", Path(sys.executable), "ours.py", log, **own),
        "ours-repeated": Worker("ours-repeated", Path(sys.executable), "ours.py", log, **own),
        "transformers": Worker("transformers", torch, "torch_peer.py", log),
        "transformers+compile": Worker("transformers+compile", torch, "torch_peer.py", log),
        "trl": Worker("trl", torch, "trl_peer.py", log, TRL_DISABLE_TELEMETRY="1"),
        "tunix": Worker("tunix", tunix, "tunix_peer.py", log, JAX_PLATFORMS="cpu"),
    }


def _advantages(folder: Path, quick: bool) -> list[dict]:
    """Rows of benchmarks/speed/advantages.py, ours and torch's."""
    command = [sys.executable, str(HERE / "speed" / "advantages.py")]
    command += [f"--torch={peers.python_of(folder, 'torch')}"]
    if quick:
        command += ["--groups", "16", "1024", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | MALLOC)
    if done.returncode:
        raise WorkerError(f"advantages: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def _machine() -> dict:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
