"""Child processes that score what the training process must not: a time limit inside a process does
not reach a loop in C, nor a memory limit another's heap. So a child that overruns is killed.

Requests are pipelined: several lines are on their way to a child while it works on the first, so a
thousand cheap ones cost little; its clock starts when the reply before it arrives. Whatever a dead
child had not begun goes to another one.
"""

import collections
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from g2rpo_jax.rewards.parse import KINDS

START, LOAD = -1, -2  # among the numbers of requests
START_TIMEOUT_S = 120.0  # importing sympy, or a user's module, on a busy machine
MAX_STARTS = 3  # in a row, none of which got as far as a request
MAX_IN_FLIGHT = 32
MAX_REPLY_BYTES = 1 << 20  # no reply is that long: a reward wrote to a pipe that is not its own


class Pool:
    """Child processes that answer requests (see `worker`), replaced when they overrun or die.

    Started by the first request. Safe to share between threads: one batch at a time.

    Attributes:
      replaced: children replaced since construction.

    Args:
      size: children at most.
      deadline_s: wall-clock limit of one request.
      memory_mb: address space of a child.
      options: what else `worker.Child` is told.
    """

    def __init__(self, size: int, deadline_s: float, memory_mb: int, **options):
        self.deadline_s = deadline_s
        self.replaced = 0
        self._arguments = json.dumps(
            {"deadline_s": deadline_s, "memory_mb": memory_mb, "custom": [], **options}
        )
        self._advice = f"reward.memory_mb={memory_mb} may be too little"
        self._slots: list[_Child | None] = [None] * size
        self._starts = 0
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._slots)

    def start(self) -> None:
        """Starts one child and waits until it is ready.

        Raises:
          ValueError: a custom reward cannot be found; the message says why.
          RuntimeError: no child can be started.
        """
        self.run([])

    def run(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The replies, in order; {"kind": "deadline", "memory" or "crash"} where a child failed.

        Takes at most deadline_s for each request, and a start for each that overran.
        Raises:
          RuntimeError: no child can be started.
        """
        with self._lock:
            try:
                return self._run(requests)
            except BaseException:  # Ctrl-C: replies to this must not become the next ones'
                _kill_all(self._slots)
                raise

    def close(self) -> None:
        """Ends the children at once; a later request starts others."""
        with self._lock:
            _kill_all(self._slots)

    def _run(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        replies: list[Any] = [None] * len(requests)
        waiting = collections.deque(range(len(requests)))
        size = max(1, min(len(self._slots), len(requests)))
        while True:
            children = [self._living(slot) for slot in range(size)]
            # Ever smaller shares, so that no child is left with a long queue at the end.
            share = max(1, min(MAX_IN_FLIGHT, len(waiting) // (2 * size)))
            for child in children:
                while waiting and len(child.asked) < share:
                    child.ask(waiting[0], requests[waiting[0]])
                    waiting.popleft()
            if not waiting and not any(child.numbers() for child in children):
                if requests or children[0].ready:
                    return replies
            _wait(children)
            for slot, child in enumerate(children):
                kind = self._collect(child, replies)
                if kind:
                    waiting.extendleft(reversed(self._bury(slot, kind, replies)))

    def _living(self, slot: int) -> "_Child":
        child = self._slots[slot]
        if child is not None and not child.asked and child.dead():
            self.replaced += 1  # it died between two requests: neither is to blame
            child.kill()
            child = None
        if child is None:
            child = self._slots[slot] = _Child(self._arguments, self.deadline_s)
        return child

    def _collect(self, child: "_Child", replies: list[Any]) -> str | None:
        """Takes what the child said; why it must go, if it must."""
        ended = child.read()
        for line in child.lines():
            if not child.asked:
                return "crash"  # it spoke unasked
            asked = child.asked.popleft()
            child.since = time.monotonic()
            reply = _reply(line, asked)
            if reply is None:
                child.asked.appendleft(asked)
                return "crash"
            if error := reply.get("error"):
                raise ValueError(error) if asked == START else RuntimeError(self._no_math(error))
            if asked == START:
                child.ready = True
                continue
            self._starts = 0
            if asked != LOAD:
                replies[asked] = reply
                if reply.get("kind") == "memory":
                    return "memory"  # what is left of its heap would fail the next
        if child.asked and (ended or len(child.unread) > MAX_REPLY_BYTES):
            return "crash"
        if child.asked and time.monotonic() > child.due:
            return "deadline"
        return None

    def _bury(self, slot: int, kind: str, replies: list[Any]) -> list[int]:
        """Replaces a child; returns the requests that it had not begun."""
        child = self._slots[slot]
        child.kill()
        self._slots[slot] = None
        self.replaced += 1
        first = child.asked[0] if child.asked else None
        left = child.numbers()
        if kind == "memory":
            pass  # it said so itself: that request has its reply
        elif first in (START, LOAD):
            self._starts += 1
            if self._starts >= MAX_STARTS or kind == "deadline":
                raise RuntimeError(
                    f"the processes that score responses do not start ({kind}): {self._advice}; "
                    f"check that `{sys.executable} -c 'import g2rpo_jax.rewards, math_verify'` "
                    "works, and that the module of a custom reward does nothing when imported"
                )
        elif left:
            replies[left[0]] = {"kind": kind}
            left = left[1:]
        # The next one imports while the others work.
        self._slots[slot] = _Child(self._arguments, self.deadline_s)
        return left

    def _no_math(self, error: str) -> str:
        return (
            f"math answers cannot be scored ({error}): check that `{sys.executable} -c 'import "
            f"math_verify'` works (pip install math-verify); {self._advice}"
        )


class _Child:
    """One process and what is under way to and from it.

    Attributes:
      asked: numbers of the requests without a reply, in order (START and LOAD among them).
      since: when it began with the first of them.
    """

    def __init__(self, arguments: str, deadline_s: float):
        # The child must find this package wherever the parent found it.
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        # A reward that imports a numerical library gets one thread (each reserves address space),
        # and one that imports JAX stays off the accelerator that is training.
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        # Its own session: Ctrl-C at the terminal is for the parent, which ends the child itself.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "g2rpo_jax.rewards.worker", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=os.environ | quiet | {"PYTHONPATH": path},
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.asked = collections.deque([START])
        self.since = time.monotonic()
        self.deadline_s = deadline_s
        self.unread, self.unsent = bytearray(), bytearray()
        self.ready = self.loaded = False

    @property
    def due(self) -> float:
        """When the first of `asked` must have its reply."""
        return self.since + (START_TIMEOUT_S if self.asked[0] < 0 else self.deadline_s)

    def ask(self, number: int, request: dict[str, Any]) -> None:
        """Queues a request; one that compares expressions is preceded by the import for that."""
        request = dict(request)
        if request.pop("symbolic", False) and not self.loaded:
            self._put(LOAD, {"op": "load"})
            self.loaded = True
        self._put(number, request)

    def _put(self, number: int, request: dict[str, Any]) -> None:
        if not self.asked:
            self.since = time.monotonic()
        self.asked.append(number)
        self.unsent += json.dumps({"n": number, **request}).encode("ascii") + b"\n"

    def numbers(self) -> list[int]:
        """The requests of the batch without a reply."""
        return [number for number in self.asked if number >= 0]

    def read(self) -> bool:
        """Takes what has come; True at the end of it."""
        while True:
            try:
                part = os.read(self.process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return False
            if not part:
                return True
            self.unread += part
            if len(self.unread) > MAX_REPLY_BYTES:
                return False

    def lines(self):
        """The whole lines among what has come, taken off it one by one."""
        while b"\n" in self.unread:
            line, _, rest = self.unread.partition(b"\n")
            self.unread = rest
            yield bytes(line)

    def write(self) -> None:
        """Sends what fits."""
        with contextlib.suppress(BlockingIOError):
            try:
                sent = os.write(self.process.stdin.fileno(), self.unsent[: 1 << 16])
            except BrokenPipeError:  # it has ended, or closed its input: reading will tell
                sent = len(self.unsent)
            del self.unsent[:sent]

    def dead(self) -> bool:
        """Whether it has ended; it stays a zombie, so that its process group's number is kept."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, options) is not None

    def kill(self) -> None:
        """Ends it and whatever it started, and frees its pipes."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def _reply(line: bytes, number: int) -> dict[str, Any] | None:
    """The reply to request `number`; None if it is no such thing: a reward may have got at the pipe
    and written anything there."""
    try:
        reply = json.loads(line)
        scores = [*reply.get("parts", ()), reply.get("accuracy", 0.0)]
        whole = len(scores) in (1, 4) and all(0.0 <= score <= 1.0 for score in scores)
        known = reply.get("kind") is None or reply["kind"] in KINDS
        return reply if reply["n"] == number and whole and known else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _wait(children: Sequence[_Child]) -> None:
    """Until a child speaks, takes more, or is due."""
    poll, writers, due = select.poll(), {}, None
    for child in children:
        if child.asked:
            poll.register(child.process.stdout, select.POLLIN)
            due = child.due if due is None else min(due, child.due)
        if child.unsent:
            poll.register(child.process.stdin, select.POLLOUT)
            writers[child.process.stdin.fileno()] = child
    left_ms = 0.0 if due is None else max(0.0, due - time.monotonic()) * 1000.0
    for file, _ in poll.poll(left_ms + 1.0):
        if file in writers:
            writers[file].write()


def _kill_all(slots: list[_Child | None]) -> None:
    for slot, child in enumerate(slots):
        if child is not None:
            slots[slot] = None
            child.kill()
