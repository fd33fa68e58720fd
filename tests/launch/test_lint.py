"""The lint's command line: what it prints, and its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_planted_sort_ends_it_with_one_and_is_named():
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [
            sys.executable,
            "launch/lint.py",
            "--config=configs/onethinker.py:tiny",
            "--config.advantage.ranks=erfinv",
            "--config.mesh.data=2",
            "--programs=advantage",
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "mesh data 2 x fsdp 1 x tensor 1" in done.stdout
    assert "advantage: sort at g2rpo_jax/ranks.py:" in done.stdout
    assert "instead: count comparisons for ranks" in done.stdout
