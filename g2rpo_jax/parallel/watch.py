"""The line between the processes of a run: small messages to all, and word of who is gone.

Process 0 keeps a TCP connection to every other process. What `gather` carries goes over it (facts
of rows, not arrays of the model, which go over the devices' own network), and a connection that
closes without a goodbye means that a process is gone: process 0 tells the rest, and all end with a
sentence that says which one and why.
"""

import os
import pickle
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

GONE = "is gone without a word: it was killed, or its machine or network failed"
COLLECT_S = 1.0  # reports are collected so long before the first cause is chosen among them
VERDICT_S = 10.0  # so long a process with an error of its own waits to hear of an earlier one
LEAVE_S = 5.0  # so long process 0 stays for the others to hear, as their JAX ends with it
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # silent for 30 s: gone


class Line:
    """One process's end of the line.

    Attributes:
      index, count: this process, and how many there are.
      names: of all processes: "process 1 of 2 (host a, pid 3)".
    """

    def __init__(
        self,
        index: int,
        links: dict[int, Connection],
        names: Sequence[str],
        leave: Callable[[str], None],
    ):
        """
        Args:
          links: connections: of process 0 to all others, of the others to process 0.
          leave: called once, with a sentence, when another process is gone; ends this process.
        """
        self.index, self.count, self.names = index, len(names), tuple(names)
        self._links, self._leave = links, leave
        self._locks = {other: threading.Lock() for other in links}
        self._turn = 0
        self._parts: dict[int, queue.SimpleQueue] = {other: queue.SimpleQueue() for other in links}
        self._ended = {other: threading.Event() for other in links}
        self._reports: list[tuple[int, str]] = []
        self._reported = threading.Lock()
        self._verdict: tuple[int, str] | None = None
        self._judged = threading.Event()
        self._failing = False
        for other in links:
            threading.Thread(target=self._read, args=(other,), daemon=True).start()

    def gather(self, value: object, name: str) -> list:
        """Every process's `value`, in process order; all processes call it with the same `name`.

        Raises:
          RuntimeError: the processes are at different places of the program.
        """
        self._turn += 1
        part = (self._turn, name, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        if self.index:
            self._send(0, ("part", *part))
            parts = self._parts[0].get()
        else:
            parts = [part, *(self._parts[other].get() for other in sorted(self._links))]
            for other in self._links:
                self._send(other, ("all", parts))
        if len({each[:2] for each in parts}) > 1:
            at = ", ".join(f"{i}: {each[1]} {each[0]}" for i, each in enumerate(parts))
            raise RuntimeError(f"processes are at different places of the program ({at})")
        return [pickle.loads(each[2]) for each in parts]

    def fail(self, text: str) -> tuple[int, str] | None:
        """Tells the others of an error here.

        Returns:
          (process, why) of another process that failed first, whose consequence this may be; None
          where the error is this process's own.
        """
        self._failing, why = True, f"stopped with an error: {text}"
        if self.index:
            self._send(0, ("error", why))
            self._judged.wait(VERDICT_S)
        else:
            self._report(0, why)
            self._judged.wait()
        first = self._verdict
        return None if first is None or first[0] == self.index or first[1] == why else first

    def close(self) -> None:
        """The end of a run that went well: says goodbye, and waits for all."""
        self.gather(None, "end")
        for other in self._links:
            self._send(other, ("bye",))
        for other, ended in self._ended.items():
            if ended.wait(LEAVE_S):
                self._links[other].close()

    def sentence(self, process: int, why: str) -> str:
        """What a process says when another one is gone."""
        return (
            f"{self.names[process]} {why}. Process {self.index} stops with it; started again with "
            "--resume, the run goes on from its newest checkpoint."
        )

    def _send(self, other: int, message: tuple) -> None:
        try:
            with self._locks[other]:
                self._links[other].send(message)
        except OSError:
            pass  # the reader of this connection says so

    def _read(self, other: int) -> None:
        """Takes what one connection brings until it closes."""
        try:
            while True:
                kind, *rest = self._links[other].recv()
                if kind == "part":
                    self._parts[other].put(tuple(rest))
                elif kind == "all":
                    self._parts[other].put(rest[0])
                elif kind == "error":
                    self._report(other, rest[0])
                elif kind == "gone":
                    self._judge(*rest)
                elif kind == "bye":
                    break
        except (EOFError, OSError):
            self._report(other, GONE)
        self._ended[other].set()

    def _report(self, process: int, why: str) -> None:
        """Notes a failure. Process 0 waits for others that come with it, and judges."""
        with self._reported:
            self._reports.append((process, why))
            if len(self._reports) > 1:
                return
        threading.Thread(target=self._choose, daemon=True).start()

    def _choose(self) -> None:
        if self.index == 0:
            time.sleep(COLLECT_S)
        with self._reported:
            # A process that is gone makes the others fail in what they do together, not the
            # other way round.
            self._reports.sort(key=lambda report: report[1] != GONE)
            first = self._reports[0]
        for other in self._links:
            self._send(other, ("gone", *first))
        if self.index == 0:
            limit = time.monotonic() + LEAVE_S
            for ended in self._ended.values():
                ended.wait(max(0.0, limit - time.monotonic()))
        self._judge(*first)

    def _judge(self, process: int, why: str) -> None:
        if self._judged.is_set():
            return
        self._verdict = (process, why)
        self._judged.set()
        if process != self.index and not self._failing:
            self._leave(self.sentence(process, why))


def leave(sentence: str) -> None:
    """Says why and ends this process at once: a collective that it waits in never returns."""
    sys.stderr.write(f"\nerror: {sentence}\n")
    sys.stderr.flush()
    os._exit(1)


def connect(
    index: int,
    count: int,
    host: str,
    tell: Callable[[str], None],
    hear: Callable[[], str],
    leave: Callable[[str], None] = leave,
) -> Line:
    """The line of a run; all processes call it.

    Args:
      host: where process 0 runs, as the others reach it.
      tell, hear: pass a short text from process 0 to each other process.
    """
    own = f"process {index} of {count} (host {socket.gethostname()}, pid {os.getpid()})"
    if index:
        port, key = hear().split()
        link = Client((host, int(port)), family="AF_INET", authkey=bytes.fromhex(key))
        link.send((index, own))
        _keep_alive(link)
        return Line(index, {0: link}, link.recv(), leave)
    key = secrets.token_bytes(32)
    links, names = {}, {0: own}
    with Listener(("", 0), "AF_INET", backlog=count, authkey=key) as listener:
        tell(f"{listener.address[1]} {key.hex()}")
        while len(links) < count - 1:
            try:
                link = listener.accept()
            except (AuthenticationError, EOFError, OSError):
                continue  # somebody else's knock at the door
            other, name = link.recv()
            links[other], names[other] = link, name
    ordered = [names[i] for i in range(count)]
    for link in links.values():
        link.send(ordered)
        _keep_alive(link)
    return Line(0, links, ordered, leave)


def _keep_alive(link: Connection) -> None:
    """Has the system notice a machine that vanished, however busy Python is."""
    with socket.socket(fileno=os.dup(link.fileno())) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        twin.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                twin.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
