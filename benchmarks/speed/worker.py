"""A worker's side of the line: JSON requests on stdin, one JSON reply each on stdout.

Nothing but the standard library: every environment's Python runs it.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable


def serve(handlers: dict[str, Callable[..., dict | None]]) -> None:
    """Answers `{"do": name, **arguments}` by `handlers[name](**arguments)` until stdin ends.

    A reply is the handler's dict with `peak_rss_gib`, or {"error": ...}. What libraries print goes
    to stderr.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = handlers[request.pop("do")](**request) or {}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"[:400]}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        replies.write(json.dumps(reply | {"peak_rss_gib": round(peak, 2)}) + "\n")
        replies.flush()
    os._exit(0)  # whatever threads libraries left behind


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def gemm_peak(product: Callable[[int], Callable[[], object]]) -> float:
    """Best rate of float32 products of square matrices, FLOP/s.

    Args:
      product: side -> a call that multiplies two matrices of it and waits.
    """
    best = 0.0
    for side in (1024, 2048, 3072):
        call = product(side)
        call()
        took = min(seconds(call) for _ in range(8))
        best = max(best, 2 * side**3 / took)
    return best
