"""Hostile answers over all problem types: a part of what benchmarks/fuzz_rewards.py asks."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_rewards.py"


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "count"), [("sound", 5_000), ("release", 2_000)])
def test_hostile_answers_stay_in_range_and_within_the_deadlines(mode, count):
    command = [sys.executable, SCRIPT, f"--mode={mode}", f"--count={count}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of range or not finite: 0" in done.stdout
