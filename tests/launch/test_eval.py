"""The launchers as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environment

ROOT = Path(__file__).parents[2]


def launch(script, *flags):
    return subprocess.run(
        [sys.executable, f"launch/{script}.py", *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(),
    )


ROWS = "--config.benchmarks=rows:embedded:test?rows=12"
TINY = ("--config=configs/eval.py:tiny", ROWS, "--config.prompts=12")


@pytest.mark.slow
def test_the_tiny_variant_evaluates_resumes_and_merges(tmp_path):
    folder = tmp_path / "out"
    done = launch("eval", *TINY, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "assets/tiny: 681,200 parameters" in done.stdout and "| rows" in done.stdout
    results = json.loads((folder / "results.json").read_text())
    assert results["benchmarks"]["rows"]["rows"] == 12
    again = launch("eval", *TINY, f"--workdir={folder}")
    assert again.returncode == 1 and "add --resume to go on" in again.stderr
    merged = launch("eval", "--merge", f"--workdir={folder}")
    assert merged.returncode == 0 and json.loads((folder / "results.json").read_text()) == results


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.benchmarks=chartqqa:x.tsv"], "did you mean 'chartqa'"),
        (["--config.benchmarks=chartqa:x.tsv"], "there is no file 'x.tsv'"),
        (["--config.hosts=2"], "need --workdir"),
        (["--config.sample=2"], "sample"),
        (["--config.samples=2"], "would all be equal"),
    ],
)
def test_mistakes_are_one_line(tmp_path, flags, said):
    where = [] if "hosts" in flags[0] else [f"--workdir={tmp_path / 'out'}"]
    done = launch("eval", "--config=configs/eval.py:tiny", *where, *flags)
    assert done.returncode == 1 and said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "config.json").exists()


def test_export_says_what_it_needs(tmp_path):
    done = launch("export", f"--run={tmp_path}", f"--directory={tmp_path / 'hf'}")
    assert done.returncode == 1 and "is no run folder" in done.stderr
