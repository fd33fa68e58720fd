"""Several threads that play the processes of a run: what they decide together, without the cost."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from g2rpo_jax.parallel.processes import Group


class _Line:
    """A line between threads; see parallel.watch.Line."""

    def __init__(self, index: int, values: list, barrier: threading.Barrier):
        self._index, self._values, self._barrier = index, values, barrier

    def gather(self, value, name):
        self._values[self._index] = (name, value)
        self._barrier.wait(60)
        got = list(self._values)
        self._barrier.wait(60)
        assert {each[0] for each in got} == {name}, got
        return [each[1] for each in got]


def together(count: int, job: Callable[[Group], object]) -> list:
    """What `job(group)` gives in each of `count` processes, in their order.

    An error in one of them is raised here, and ends the waiting of the others.
    """
    if count == 1:
        return [job(Group())]
    barrier, values = threading.Barrier(count), [None] * count

    def one(index: int):
        try:
            return job(Group(index, count, _Line(index, values, barrier)))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        jobs = [pool.submit(one, index) for index in range(count)]
    errors = [e for each in jobs if (e := each.exception()) is not None]
    first = [e for e in errors if not isinstance(e, threading.BrokenBarrierError)]
    for error in first or errors:
        raise error
    return [each.result() for each in jobs]
