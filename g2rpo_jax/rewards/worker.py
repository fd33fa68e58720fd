"""The child of `pool.Pool`: `python -m g2rpo_jax.rewards.worker OPTIONS` (JSON).

JSON lines, one reply for each request, in order and with its number "n". First {"n": -1, "error":
null} when it is ready, or why it cannot be. Requests by "op":

    load    import math-verify                             {"error": null or why not}
    equal   answer, truth                                  {"accuracy": float} or {"kind": ..}
    grade   response, answer, problem_type, data_type      {"parts": [accuracy, format, structure],
    custom  the same and the reward's path                  "kind": .., "detail": ..}, or
                                                           {"abstains": true}

No pickle, and nothing of the parent's: neither its __main__ nor JAX.
"""

import json
import math
import os
import resource
import signal
import sys
from typing import Any

from g2rpo_jax.rewards import custom, parse, symbolic, table
from g2rpo_jax.rewards.parse import Unscorable

MAX_DETAIL_CHARS = 300


def main(options: dict[str, Any]) -> None:
    """Answers requests until standard input ends."""
    # The pipes are this function's alone: whatever a reward reads or prints must not be a message.
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    error = None
    try:
        limit(options["memory_mb"])
        child = Child(options)
    except custom.NoReward as problem:
        error = str(problem)
    print(json.dumps({"n": -1, "error": error}), file=replies, flush=True)
    if error:
        return
    for line in requests:
        request = json.loads(line)
        # The parent kills at the deadline. Should it die first, the alarm's default action ends
        # this process even inside a loop in C.
        signal.alarm(0 if request["op"] == "load" else math.ceil(options["deadline_s"]) + 10)
        reply = {"n": request.pop("n")} | child.reply(request)
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def limit(memory_mb: int) -> None:
    """Bounds this process's address space and core file; a lower hard limit stays."""
    wanted = memory_mb << 20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Child:
    """What answers requests; raises custom.NoReward if a custom reward cannot be found."""

    def __init__(self, options: dict[str, Any]):
        self.mode = options["mode"]
        self.how = {key: options[key] for key in ("mode", "think_tag", "untagged")}
        self.rewards = {path: custom.resolve(path) for path in options["custom"]}

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; never an exception."""
        op, text = request.pop("op"), request
        try:
            return getattr(self, f"_{op}")(**text)
        except MemoryError:
            return {"kind": "memory"}
        except Unscorable as problem:
            return {"kind": problem.kind}
        except custom.BadValue as problem:
            return {"kind": "bad_value", "detail": str(problem)[:MAX_DETAIL_CHARS]}
        except BaseException as problem:  # SystemExit too
            kind = "raised" if op == "custom" else "internal_error"
            return {"kind": kind, "detail": _worded(problem)}

    def _load(self) -> dict[str, Any]:
        try:
            symbolic.load()
        except Exception as problem:
            return {"error": _worded(problem)}
        if not self.rewards:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing here writes files
        return {"error": None}

    def _equal(self, answer: str, truth: str) -> dict[str, Any]:
        try:
            return {"accuracy": symbolic.EQUAL[self.mode](answer, truth)}
        except (MemoryError, Unscorable):
            raise
        except Exception as problem:
            return {"kind": "not_compared", "detail": _worded(problem)}

    def _grade(self, **item: str) -> dict[str, Any]:
        graded = table.grade(**item, **self.how)
        if graded.pending:
            found = self._equal_or_kind(*graded.pending)
            graded = table.resolved(graded, found)
        return {"parts": graded[:3], "kind": graded.failure}

    def _equal_or_kind(self, answer: str, truth: str) -> float | str:
        try:
            found = self._equal(answer, truth)
        except Unscorable as problem:
            return problem.kind
        return found.get("accuracy", found.get("kind"))

    def _custom(self, path: str, **item: str) -> dict[str, Any]:
        truth = parse.truth(item["answer"])
        said = self.rewards[path](item["response"], truth, item["problem_type"], item["data_type"])
        parts = custom.checked(said)
        if parts is None:
            return {"abstains": True}
        if len(parts) < len(custom.PARTS):
            built_in = table.grade(**item, **self.how, skip_accuracy=True)
            parts = {name: getattr(built_in, name) for name in custom.PARTS} | parts
        return {"parts": [parts[name] for name in custom.PARTS], "kind": None}


def _worded(problem: BaseException) -> str:
    try:
        return f"{type(problem).__name__}: {problem}"[:MAX_DETAIL_CHARS]
    except BaseException:  # its __str__ is the reward's own
        return type(problem).__name__


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
