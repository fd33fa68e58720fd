"""What a plan foretells against what a process takes, on one CPU device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name, fields", [("update", {}), ("decode", {"max_tokens": 512})])
def test_the_planned_peak_is_within_a_fifth_of_the_measured_one(name, fields):
    flags = "--xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.measured", name, json.dumps(fields)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["measured"] > 150e6  # well above what a process's own habits take
    assert found["planned"] == pytest.approx(found["measured"], rel=0.2)
