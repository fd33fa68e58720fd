"""Scripts for clusters: sound shell, and dry runs that print what would run, and where."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from g2rpo_jax.parallel.processes import find

ROOT = Path(__file__).parents[2]
SCRIPTS = ("trn1.sbatch", "gpu.sbatch", "tpu.sh")
RUN = ("--config=configs/onethinker.py", "--workdir=/shared/my runs/a")
FAKES = {
    "scontrol": """#!/bin/sh
if [ "$1" = requeue ]; then echo "$@" >> "$CALLS"; else printf "trn-003\\ntrn-004\\n"; fi
""",
    "srun": '#!/bin/sh\necho "$@" >> "$CALLS"\nexit "$STATUS"\n',
    "uname": "#!/bin/sh\necho 5.10.1-aws\n",
}


@pytest.fixture
def bash(tmp_path):
    """Runs a script with SLURM's tools played by others; gives its result."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in FAKES.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(script, *arguments, **environ):
        env = {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
        return subprocess.run(
            ["bash", f"launch/{script}", *arguments],
            cwd=ROOT,
            env=env | environ,
            capture_output=True,
            text=True,
        )

    run.calls = tmp_path / "calls"
    return run


def dry(bash, script, *arguments, **environ):
    """(environment, words of the command) of a dry run."""
    done = bash(script, *arguments, DRY_RUN="1", **environ)
    assert done.returncode == 0 and not done.stderr, done.stderr
    *settings, command = done.stdout.splitlines()
    pairs = [shlex.split(line)[1].partition("=") for line in settings]
    assert not bash.calls.exists()
    return {name: value for name, _, value in pairs}, shlex.split(command)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    subprocess.run(["bash", "-n", f"launch/{script}"], cwd=ROOT, check=True)
    checked = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", f"launch/{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_one_trn1_node_needs_no_others(bash):
    environ, command = dry(bash, "trn1.sbatch", *RUN, SLURM_NNODES="1")
    assert environ == {"NEURON_COMPILE_CACHE_URL": "/shared/my runs/neuron-compile-cache"}
    assert command[:3] == ["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1"]
    assert command[-5:] == [".venv/bin/python", "launch/train.py", *RUN, "--requeue"]
    assert "NEURON_PJRT" not in " ".join(command)
    assert find(None, None, None, environ | {"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_four_trn1_nodes_find_one_another(bash):
    slurm = {"SLURM_NNODES": "4", "SLURM_JOB_NODELIST": "trn-[003-006]"}
    environ, command = dry(bash, "trn1.sbatch", *RUN, **slurm)
    assert environ["NEURON_RT_ROOT_COMM_ID"] == "trn-003:41000"
    assert environ["NEURON_PJRT_PROCESSES_NUM_DEVICES"] == "32,32,32,32"
    assert environ["FI_PROVIDER"] == "efa" and environ["FI_EFA_USE_DEVICE_RDMA"] == "1"
    assert environ["FI_EFA_FORK_SAFE"] == "1"  # of the kernel that uname tells of
    assert environ["LD_LIBRARY_PATH"] == "/opt/amazon/efa/lib:/opt/amazon/efa/lib64"
    at = command.index("bash")
    said = command[at : at + 3] + ["train", "printenv", "NEURON_PJRT_PROCESS_INDEX"]
    node = subprocess.run(
        said, env=os.environ | {"SLURM_NODEID": "2"}, capture_output=True, text=True, check=True
    )
    place = find(None, None, None, environ | {"NEURON_PJRT_PROCESS_INDEX": node.stdout.strip()})
    assert (place.coordinator, place.count, place.index) == ("trn-003:41001", 4, 2)
    other, _ = dry(bash, "trn1.sbatch", *RUN, DEVICES_PER_NODE="64", **slurm)
    assert other["NEURON_PJRT_PROCESSES_NUM_DEVICES"] == "64,64,64,64"


def test_gpu_nodes_run_one_process_each(bash):
    environ, command = dry(bash, "gpu.sbatch", *RUN, PYTHON="python3")
    assert not environ
    expected = ["python3", "launch/train.py", *RUN, "--requeue"]
    assert command == ["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", *expected]
    assert "#SBATCH --ntasks-per-node=1" in (ROOT / "launch/gpu.sbatch").read_text()


def test_every_host_of_a_tpu_slice_runs_the_same(bash):
    environ, command = dry(bash, "tpu.sh", "pod", "us-east5-a", "train", *RUN, PROJECT="mine")
    head = ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=us-east5-a"]
    assert command[:-1] == [*head, "--worker=all", "--project=mine"] and not environ
    inner = command[-1].removeprefix("--command=")
    assert shlex.split(inner.partition("&& ")[2]) == [
        *(".venv/bin/python", "launch/train.py"),
        *(*RUN, "--requeue"),
    ]
    done = bash("tpu.sh", "pod", "us-east5-a", "setup", DRY_RUN="1")
    archive, copy, install = map(shlex.split, done.stdout.splitlines())
    assert archive[:2] == ["git", "archive"] and "scp" in copy and "--worker=all" in copy
    assert install[-1].endswith("pip install -e '.[tpu]'")


@pytest.mark.parametrize("script", ["trn1.sbatch", "gpu.sbatch"])
def test_a_job_queues_itself_again_until_it_is_finished(bash, tmp_path, script):
    (summary := tmp_path / "summary.json").write_text('{"finished": false}')
    run = (f"--workdir={tmp_path}", "--config=c.py")

    def calls(**environ):
        done = bash(script, *run, SLURM_JOB_ID="7", **environ)
        made = bash.calls.read_text().splitlines()
        bash.calls.unlink()
        return done, made

    done, made = calls(STATUS="0")
    assert done.returncode == 0 and made[-1] == "requeue 7" and len(made) == 2
    summary.write_text('{"finished": true}')
    assert len(calls(STATUS="0")[1]) == 1
    assert calls(STATUS="1")[1][-1] == "requeue 7"
    done, made = calls(STATUS="1", SLURM_RESTART_COUNT="3")
    assert len(made) == 1 and done.returncode == 1 and "given up after 3" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_folder_must_be_named(bash, script):
    before = ("pod", "zone", "train") if script == "tpu.sh" else ()
    done = bash(script, *before, "--config=c.py")
    assert done.returncode == 1 and "--workdir=FOLDER is needed" in done.stderr
