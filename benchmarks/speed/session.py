"""The orchestrator's side of the line: one process per side, asked one at a time."""

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).parent
# On every side alike. Freed memory stays with the process: torch is up to a third faster with it.
# Large blocks come in pages of 2 MiB: XLA gives a program's scratch memory back after every
# call, and half a million page faults a step took a tenth of W3's.
MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


class WorkerError(Exception):
    """What a worker could not do, or how it ended."""


class Worker:
    """A resident process that serves requests; started with the first one."""

    def __init__(self, name: str, python: Path, script: str, log: Path, **environment: str):
        """
        Args:
          name: for messages. python: its environment's interpreter. script: a file of this folder.
          log: file that takes what it prints.
          environment: variables beside MALLOC.
        """
        self.name, self.python, self.script, self.log = name, Path(python), script, log
        self.environment, self._process = environment, None

    def ask(self, do: str, timeout: float = 600, **arguments) -> dict:
        """One request and its reply.

        Raises:
          WorkerError: the handler raised, the process ended, or `timeout` seconds passed.
        """
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        reply = json.loads(self._line(do, timeout))
        if "error" in reply:
            raise WorkerError(f"{self.name}, {do}: {reply['error']}")
        return reply

    def _start(self) -> None:
        if not self.python.exists():
            raise WorkerError(f"{self.name}: no {self.python}; see benchmarks/run.py --peers")
        threads = {"OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONPATH": str(HERE.parent)}
        env = os.environ | MALLOC | threads | self.environment
        with open(self.log, "a") as log:
            self._process = subprocess.Popen(
                [str(self.python), str(HERE / self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                cwd=HERE.parents[1],
            )

    def _line(self, do: str, timeout: float) -> str:
        until, out = time.monotonic() + timeout, self._process.stdout
        while time.monotonic() < until:
            if select.select([out], [], [], 1.0)[0]:
                line = out.readline()
                if line:
                    return line
                code = self._process.wait()
                self.close()
                raise WorkerError(f"{self.name}, {do}: ended with {code}; see {self.log}")
        self.close()
        raise WorkerError(f"{self.name}, {do}: no answer in {timeout:.0f} s; see {self.log}")

    def close(self) -> None:
        """Ends the process; the next request starts another."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None
