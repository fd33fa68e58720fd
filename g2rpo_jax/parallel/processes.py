"""A run as several processes: how they find one another, and what they tell one another.

JAX's multi-controller way: the same program runs in every process, and all take the same decisions
from the same facts. What only one process knows (its rows' responses and scores, a signal it got)
goes to all by `gather`; with one process everything here does nothing.
"""

import contextlib
import dataclasses
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from g2rpo_jax import platform
from g2rpo_jax.parallel import meeting, watch

T = TypeVar("T")
WAIT_S = 300.0  # for all processes to be there
HEARTBEAT_S = 45  # JAX's own: a machine that vanished is noticed in this time at the latest
PORTS = 4096  # coordinator ports of SLURM jobs: the highest ones, chosen by job and step


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands in a run.

    Attributes:
      coordinator: "host:port" of process 0, where JAX's coordination service listens.
      count, index: how many processes there are, and which this one is.
      devices: numbers of the local devices to use (GPUs); None: all.
      source: what said so, for messages.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    source: str = ""

    def __post_init__(self):
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(
                f"{self.source}: the coordinator {self.coordinator!r} must be HOST:PORT, the "
                "machine of process 0 and a free port there"
            )
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"{self.source}: process {self.index} of {self.count}; processes are numbered from "
                f"0 to {self.count - 1}"
            )


class Group:
    """The processes of a run, as one of them sees them; alone by default.

    Attributes:
      index, count: this process, and how many there are.
    """

    def __init__(self, index: int = 0, count: int = 1, line: watch.Line | None = None):
        self.index, self.count, self._line = index, count, line

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks to people."""
        return self.index == 0

    def gather(self, value: T, name: str) -> list[T]:
        """Every process's `value` (anything that pickles), in process order; a collective call.

        Args:
          name: what is gathered; says which processes went astray.
        """
        return [value] if self._line is None else self._line.gather(value, name)

    def any(self, flag: bool, name: str) -> bool:
        """Whether the flag is up in any process; a collective call."""
        return any(self.gather(bool(flag), name))

    def from_first(self, make: Callable[[], T], name: str) -> T:
        """What `make` gives in process 0, in all; a collective call.

        Raises:
          ValueError: with its message, in all processes, where `make` raised one.
        """
        made: tuple[T | None, str | None] = (None, None)
        if self.is_first:
            try:
                made = (make(), None)
            except ValueError as error:
                made = (None, str(error))
        value, message = self.gather(made, name)[0]
        if message is not None:
            raise ValueError(message)
        return value

    def share(self, rows: int) -> slice:
        """Which of `rows` places that divide over the processes are this one's: a block."""
        size = rows // self.count
        return slice(self.index * size, (self.index + 1) * size)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """A whole run: an error here ends the other processes too, with a sentence about it; an
        error that another process caused is put down to that one."""
        if self._line is None:
            yield
            return
        try:
            yield
            self._line.close()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            first = self._line.fail(text)
            if first is not None:
                watch.leave(f"{self._line.sentence(*first)} (What it led to here: {text})")
            if isinstance(error, ValueError | SystemExit) and not os.environ.get("G2RPO_TRACEBACK"):
                sys.stderr.write(f"error: {error}\n")
            else:
                traceback.print_exception(error)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # JAX would wait for the others, who have ended
        import jax

        jax.distributed.shutdown()


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    wait_s: float = WAIT_S,
    environ: Mapping[str, str] = os.environ,
) -> Group:
    """Joins the run's other processes; before JAX starts its back end, after platform.prepare.

    Without arguments, SLURM's, Neuron's or a TPU's environment says who the others are; a process
    that none of them places in a group is alone, and nothing happens.

    Args:
      coordinator, count, index: "host:port" of process 0, and this one's place; all or none.
      wait_s: how long to wait for the others.
    Raises:
      ValueError: half of the arguments, a taken port, or no answer in time: says what to do.
    """
    place = find(coordinator, count, index, environ)
    if place is None:
        return Group()
    import jax

    if platform.detect() == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    deadline = time.monotonic() + wait_s
    name, _, port = place.coordinator.rpartition(":")
    if place.index:
        meeting.call(name, int(port), place.index, place.count, deadline)
    else:
        meeting.host(int(port), place.count, deadline, place.coordinator)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        place.devices,
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT_S,
    )
    # JAX has no public name for its key-value store; its own and Orbax's multi-host tools use this.
    from jax._src import distributed

    store = distributed.global_state.client
    key = "g2rpo_jax/line"
    line = watch.connect(
        place.index,
        place.count,
        name,
        tell=lambda text: store.key_value_set(key, text),
        hear=lambda: store.blocking_key_value_get(key, int(1000 * wait_s)),
    )
    return Group(place.index, place.count, line)


def find(
    coordinator: str | None,
    count: int | None,
    index: int | None,
    environ: Mapping[str, str],
) -> Place | None:
    """The place that flags or the environment give this process; None: it is alone.

    Raises:
      ValueError: they are incomplete or make no sense.
    """
    flags = {"--coordinator": coordinator, "--processes": count, "--process": index}
    missing = [name for name, value in flags.items() if value is None]
    if not missing:
        place = Place(coordinator, count, index, source="--coordinator, --processes, --process")
        return place if count > 1 else None
    if len(missing) < len(flags):
        raise ValueError(
            f"{', '.join(missing)} missing: a run of several processes needs "
            "--coordinator=HOST:PORT (of process 0), --processes=N and --process=0..N-1 in each"
        )
    return _neuron(environ) or _slurm(environ) or _tpu()


def _neuron(environ: Mapping[str, str]) -> Place | None:
    """Neuron's variables, as launchers for several nodes set them."""
    listed = environ.get("NEURON_PJRT_PROCESSES_NUM_DEVICES", "")
    count = len([part for part in listed.split(",") if part.strip()])
    if count <= 1:
        return None
    needed = ("NEURON_PJRT_PROCESS_INDEX", "NEURON_RT_ROOT_COMM_ID")
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise ValueError(
            f"NEURON_PJRT_PROCESSES_NUM_DEVICES={listed} tells of {count} processes, but "
            f"{' and '.join(missing)} is not set: launch/trn1.sbatch sets all three"
        )
    host, _, port = environ["NEURON_RT_ROOT_COMM_ID"].rpartition(":")
    # The port of Neuron's own collectives is taken; JAX's coordinator needs another.
    default = f"{host}:{int(port) + 1}" if port.isdigit() else ""
    return Place(
        environ.get("JAX_COORDINATOR_ADDRESS", default),
        count,
        int(environ["NEURON_PJRT_PROCESS_INDEX"]),
        source="NEURON_RT_ROOT_COMM_ID and NEURON_PJRT_*",
    )


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """SLURM's variables of a step (srun) of several tasks; AWS ParallelCluster is SLURM, too.

    JAX's own detection is not used: it gives every process one GPU, where one process for each node
    should have them all.
    """
    count = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if count <= 1 or "SLURM_PROCID" not in environ:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
    job = int(environ.get("SLURM_JOB_ID", "0")) + int(environ.get("SLURM_STEP_ID", "0"))
    address = f"{first_host(nodes)}:{65536 - PORTS + job % PORTS}"
    devices = None
    together = environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0]
    visible = environ.get("CUDA_VISIBLE_DEVICES", "")
    if int(together) > 1 and "," in visible:  # one GPU each, unless SLURM has seen to it
        devices = (int(environ["SLURM_LOCALID"]),)
    return Place(
        environ.get("JAX_COORDINATOR_ADDRESS", address),
        count,
        int(environ["SLURM_PROCID"]),
        devices,
        source="SLURM",
    )


def first_host(nodes: str) -> str:
    """The first host of a SLURM list: "trn-[003-010,12],b1" -> "trn-003"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,\[]*)", nodes)
    if not found:
        raise ValueError(f"SLURM's list of nodes {nodes!r} names no host")
    return "".join(part or "" for part in found.groups())


def _tpu() -> Place | None:
    """A TPU slice of several hosts, from its metadata: JAX's own detection."""
    if platform.detect() != "tpu":
        return None
    from jax._src.clusters import ClusterEnv

    address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, int(WAIT_S)
    )
    if None in (address, count, index) or count == 1:
        return None
    return Place(address, count, index, source="the TPU's metadata")
