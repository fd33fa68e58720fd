"""The peers' environments: made from the package index where they are missing."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# torch's CPU build is enough; Pillow stands in for torchvision.
PACKAGES = {
    "torch": ("torch==2.13.0", "transformers==5.23.0", "trl==1.16.0", "pillow==13.0.0"),
    "tunix": ("google-tunix==0.1.7",),
}


def python_of(folder: Path, name: str) -> Path:
    """An environment's interpreter."""
    return folder / name / "bin" / "python"


def install(folder: Path, names: tuple[str, ...], say: Callable = print) -> dict[str, str]:
    """Makes the environments that are missing.

    Returns:
      {name: why it could not be made}; the run goes on without it.
    """
    failed = {}
    for name in names:
        python = python_of(folder, name)
        if python.exists():
            continue
        say(f"installing {', '.join(PACKAGES[name])} into {folder / name}")
        make = [sys.executable, "-m", "venv", str(folder / name)]
        fill = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (make, [*fill, *PACKAGES[name]]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                failed[name] = f"not installed: {done.stderr.strip()[-300:]}"
                shutil.rmtree(folder / name, ignore_errors=True)  # the next run tries again
                break
    return failed
