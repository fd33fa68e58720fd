"""Who a process is, by flags and environments; groups; errors that say what to do."""

import socket
import sys

import pytest

from g2rpo_jax.parallel import processes
from g2rpo_jax.parallel.processes import Group, Place, find, first_host, start
from tests.parallel.together import together

SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "trn-[003-006]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
NEURON = {
    "NEURON_PJRT_PROCESSES_NUM_DEVICES": "32,32",
    "NEURON_PJRT_PROCESS_INDEX": "1",
    "NEURON_RT_ROOT_COMM_ID": "trn-003:41000",
}


def placed(environ, *flags):
    return find(*(flags or (None, None, None)), environ)


def test_a_process_by_itself_is_alone_and_starts_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # an import would fail
    group = start(environ={})
    assert (group.index, group.count, group.is_first) == (0, 1, True)
    assert group.gather("x", "name") == ["x"] and group.any(True, "up")
    assert group.from_first(lambda: 3, "three") == 3 and group.share(6) == slice(0, 6)
    with pytest.raises(KeyError), group.run():
        raise KeyError("as without it")
    assert placed({}, "host:1234", 1, 0) is None


def test_flags_come_first():
    place = placed(SLURM | NEURON, "a:1234", 3, 2)
    assert (place.coordinator, place.count, place.index) == ("a:1234", 3, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("a:1", None, None), "--processes, --process missing.*--coordinator=HOST:PORT"),
        ((None, 2, 0), "--coordinator missing"),
        (("host", 2, 0), "'host' must be HOST:PORT"),
        (("host:70000", 2, 0), "must be HOST:PORT"),
        (("a:1", 2, 2), "process 2 of 2; processes are numbered from 0 to 1"),
    ],
)
def test_half_of_the_flags_is_an_error(flags, message):
    with pytest.raises(ValueError, match=message):
        placed({}, *flags)


def test_slurms_environment():
    place = placed(SLURM)
    assert (place.count, place.index, place.devices) == (4, 3, None)
    host, port = place.coordinator.split(":")
    assert host == "trn-003" and int(port) == 61440 + 70003 % 4096
    assert placed(SLURM | {"JAX_COORDINATOR_ADDRESS": "b:9"}).coordinator == "b:9"
    # A batch script, and a shell within an allocation, are no step of several tasks.
    assert placed(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert placed({k: v for k, v in SLURM.items() if not k.startswith("SLURM_STEP")}) is None


def test_several_tasks_of_a_node_take_a_gpu_each():
    packed = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "2"}
    assert placed(packed | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices == (2,)
    assert placed(packed | {"CUDA_VISIBLE_DEVICES": "2"}).devices is None  # SLURM did it
    assert placed(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-0015],host2", "node001"),
        ("node[007,009-015]", "node007"),
        ("q-dy-trn1-[1-4]", "q-dy-trn1-1"),
        ("rack[2-3]-a", "rack2-a"),
    ],
)
def test_the_first_host_of_slurms_lists(nodes, first):
    assert first_host(nodes) == first


def test_neurons_environment_wins_over_slurms_and_keeps_its_port():
    place = placed(SLURM | NEURON)
    assert (place.coordinator, place.count, place.index) == ("trn-003:41001", 2, 1)
    assert placed({"NEURON_PJRT_PROCESSES_NUM_DEVICES": "32"}) is None
    with pytest.raises(ValueError, match="NEURON_PJRT_PROCESS_INDEX is not set"):
        placed({k: v for k, v in NEURON.items() if k != "NEURON_PJRT_PROCESS_INDEX"})


def test_a_tpu_slice_of_several_hosts_is_asked_of_jax(monkeypatch):
    from jax._src.clusters import ClusterEnv

    found = ("10.0.0.2:8476", 4, 1, None)
    monkeypatch.setattr(
        ClusterEnv, "auto_detect_unset_distributed_params", staticmethod(lambda *_: found)
    )
    assert placed({}) is None  # not on a CPU
    monkeypatch.setattr(processes.platform, "detect", lambda: "tpu")
    place = placed({})
    assert (place.coordinator, place.count, place.index) == found[:3]


def test_a_tpu_without_others_is_alone(monkeypatch):
    from jax._src.clusters import ClusterEnv

    alone = (None, None, None, None)
    monkeypatch.setattr(
        ClusterEnv, "auto_detect_unset_distributed_params", staticmethod(lambda *_: alone)
    )
    monkeypatch.setattr(processes.platform, "detect", lambda: "tpu")
    assert placed({}) is None


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on port {port}.*another port"):
            start(f"127.0.0.1:{port}", 2, 0)


def test_what_process_0_decides_holds_for_all_errors_too():
    def fail():
        raise ValueError("no such folder")

    def job(group):
        with pytest.raises(ValueError, match="no such folder"):
            group.from_first(fail, "folder")
        return group.from_first(lambda: group.index + 5, "five"), group.any(group.index == 1, "up")

    assert together(3, job) == [(5, True)] * 3
    assert [Group(i, 3).share(6) for i in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match="numbered from 0 to 2"):
        Place("a:1", 3, 3)
