"""Accuracy of mathematical answers: plain comparison in process, math-verify in a killable worker.

Comparing expressions can take forever (`9**9**9**9`), all memory, or the whole interpreter, and a
time limit inside the process does not reach a loop in C. So the parent reads an answer from a
child process until the deadline, then kills the child and starts another.
"""

import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
import weakref
from decimal import Decimal
from pathlib import Path

from g2rpo_jax.rewards.parse import Unscorable

# A request must fit into a pipe's buffer (64 KiB), so that writing one never waits for the worker:
# a character is at most 12 bytes of ASCII JSON.
MAX_MATH_CHARS = 2500
START_TIMEOUT_S = 120.0  # importing sympy on a busy machine

# Possessive: nothing matched is ever given back.
_PLAIN = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]{1,100}+)?(?:\.[0-9]{0,100}+)?(?:[eE][+-]?[0-9]{1,3})?"
)


def equal_if_plain(answer: str, truth: str, data_type: str = "image") -> float | None:
    """1 or 0 where plain comparison can tell, else None: the worker has to.

    Equal texts (white space aside) are equal. Two plain numbers are compared as math-verify does:
    exactly if both are integers, after rounding to six decimals otherwise.
    Raises:
      Unscorable: no_expression for an empty answer; too_long; bad_truth (the truth is too long).
    """
    if len(truth) > MAX_MATH_CHARS:
        raise Unscorable("bad_truth")
    if len(answer) > MAX_MATH_CHARS:
        raise Unscorable("too_long")
    said, right = _undelimited(answer), _undelimited(truth)
    if not said:
        raise Unscorable("no_expression")
    if said == right:
        return 1.0
    a, b = _plain(said), _plain(right)
    if a is None or b is None:
        return None
    # Beyond 10**20 a Decimal of 28 digits cannot be rounded to six places.
    if ("." in said or "." in right) and max(abs(a), abs(b)) < 10**20:
        a, b = round(a, 6), round(b, 6)
    return float(a == b)


def _undelimited(text: str) -> str:
    text = text.strip()
    for start, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and start not in inner:
            text = inner.strip()
    return " ".join(text.split())


def _plain(text: str) -> Decimal | None:
    if not _PLAIN.fullmatch(text) or not any(map(str.isdigit, text)):
        return None
    return Decimal(text.replace(",", ""))


class MathWorker:
    """A child process that runs math-verify, replaced whenever it overruns, crashes or hangs.

    Started by the first question. Safe to share between threads: one question at a time.

    Args:
      timeout_s: wall-clock limit of one comparison.
      memory_mb: address space that the child may take (resource.RLIMIT_AS).
    """

    def __init__(self, timeout_s: float, memory_mb: int):
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.restarts = 0
        self._process: subprocess.Popen | None = None
        self._ready = False
        self._unread = b""
        self._lock = threading.Lock()
        self._finalizer = None

    def equal(self, truth: str, answer: str) -> float:
        """1 if math-verify finds `answer` equal to `truth`, else 0.

        Raises:
          Unscorable: no_expression, bad_truth, math_deadline, math_memory, math_crash, math_error.
          RuntimeError: the worker cannot be started (math-verify is missing, or no memory for it).
        """
        with self._lock:
            self._start()
            request = json.dumps({"truth": truth, "answer": answer}).encode("ascii") + b"\n"
            try:
                os.write(self._process.stdin.fileno(), request)
                reply = json.loads(self._line(self.timeout_s))
            except TimeoutError:
                self._replace()
                raise Unscorable("math_deadline") from None
            except (EOFError, OSError, ValueError):
                self._replace()
                raise Unscorable("math_crash") from None
            except BaseException:  # Ctrl-C: the reply to this must not become the next one's
                self._kill()
                raise
            if reply["kind"] == "math_memory":
                self._replace()  # what is left of its heap would fail the next question
        if reply["kind"]:
            raise Unscorable(reply["kind"])
        return float(reply["equal"])

    def close(self) -> None:
        """Ends the child process, if there is one; a later question starts another."""
        with self._lock:
            self._kill()

    def _spawn(self) -> None:
        # The child must find this package wherever the parent found it.
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        # Its own session: Ctrl-C at the terminal is for the parent, which ends the child itself.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "g2rpo_jax.rewards.worker"]
            + [str(self.memory_mb), str(self.timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        self._ready, self._unread = False, b""
        self._finalizer = weakref.finalize(self, _end, self._process)

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._kill()  # it died between two questions: neither is to blame
        if self._process is None:
            self._spawn()
        if self._ready:
            return
        try:
            said = json.loads(self._line(START_TIMEOUT_S))["error"]
        except (TimeoutError, EOFError, OSError, ValueError) as error:
            said = f"{type(error).__name__} within {START_TIMEOUT_S:.0f} s"
        if said:
            self._kill()
            raise RuntimeError(
                f"the worker that scores math answers did not start ({said}): check that "
                f"`{sys.executable} -c 'import math_verify'` works (pip install math-verify) and "
                f"that reward.math_memory_mb={self.memory_mb} is at least 512"
            )
        self._ready = True

    def _line(self, timeout_s: float) -> bytes:
        """One line of the child's output; TimeoutError past the deadline, EOFError at its end."""
        stop = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                left = stop - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                part = os.read(self._process.stdout.fileno(), 65536)
                if not part:
                    raise EOFError
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _replace(self) -> None:
        # The next one imports sympy while the parent goes on.
        self._kill()
        self.restarts += 1
        self._spawn()

    def _kill(self) -> None:
        if self._process is not None:
            self._finalizer()
            self._process = None


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
