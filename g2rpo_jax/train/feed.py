"""Encoded prompts of a stream of rows, prepared ahead of the device by threads or processes.

Grain runs the pipeline: a bounded number of prompts is kept ready, in order, whatever the number of
threads or processes. The order itself is the stream's, so position, seeking and random access are
one integer (see data.batches).
"""

import collections
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from absl import logging

from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.encoding import PromptEncoder
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Prompt
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.data.skips import Skips

THREADS = 2  # of a feed without worker processes: decoding pictures leaves Python's lock


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One prompt of the stream, encoded. `prompt_id` is its place in the stream."""

    prompt_id: int
    example: Example
    prompt: Prompt


class Draw:
    """prompt_id -> (prompt_id, what stands there, encoded, or the BadRow that it is)."""

    def __init__(self, stream: PromptStream, encoder: PromptEncoder):
        self._stream = stream
        # Not a subclass that knows more: this goes to processes that start without JAX.
        self._encoder = PromptEncoder(encoder.config, encoder.processor)

    def __call__(self, prompt_id: int) -> tuple[int, Drawn | BadRow]:
        try:
            example = self._stream.at(prompt_id)
            return prompt_id, Drawn(prompt_id, example, self._encoder.encode(example))
        except BadRow as bad:
            return prompt_id, bad


class Feed:
    """Encoded prompts of a stream, the next ones prepared while the device works.

    Attributes:
      position: the stream's, after the prompts that were taken.
    """

    def __init__(
        self,
        stream: PromptStream,
        rows: RowSet,
        encoder: PromptEncoder,
        skips: Skips,
        workers: int = 0,
        prefetch: int = 128,
    ):
        """Starts nothing yet.

        Args:
          rows: what the stream draws from.
          skips: unusable rows are counted there when their turn comes.
          workers: processes that encode; 0: threads of this process.
          prefetch: encoded prompts that are kept ready at most, at least 1.
        """
        self._stream, self._rows, self._skips = stream, rows, skips
        self._draw = Draw(stream, encoder)
        self._workers, self._prefetch = workers, prefetch
        self._ahead = None
        self.position = stream.position

    def take(self, count: int) -> list[Drawn]:
        """The next `count` usable prompts.

        Raises:
          ValueError: a larger share of the rows than allowed cannot be used.
          RuntimeError: a worker process died.
        """
        if self._ahead is None:
            stream = self._stream
            stream.seek(self.position)
            self._ahead = _Ahead(
                self._draw, stream.ids(1)[0], stream.hosts, self._workers, self._prefetch
            )
        drawn: list[Drawn] = []
        misses = 0
        while len(drawn) < count:
            prompt_id, found = next(self._ahead)
            self.position = prompt_id + 1
            if isinstance(found, Drawn):
                drawn.append(found)
                misses = 0
                continue
            misses += 1
            if self._rows.skip(self._skips, self._stream.row(prompt_id), found):
                self._rows.check_share(self._skips, self.position // self._stream.hosts)
            if misses > len(self._stream):  # all were bad before this run was resumed
                raise ValueError(
                    f"{self._rows.source}: a whole epoch without a usable row, the last: {found}"
                )
        return drawn

    def sample(self) -> Drawn:
        """The first usable prompt of the stream, to be shown; moves and counts nothing.

        Raises:
          ValueError: the first hundred rows of the stream cannot be used.
        """
        bad = []
        for prompt_id in range(min(100, len(self._stream))):
            found = self._draw(prompt_id)[1]
            if isinstance(found, Drawn):
                return found
            bad.append(found)
        listed = "".join(f"\n  {each}" for each in bad[:10])
        raise ValueError(f"none of the first {len(bad)} rows drawn can be used:{listed}")

    def again(self, prompt_id: int) -> Drawn:
        """A prompt that was drawn before, by its place in the stream (for resumed runs).

        Raises:
          BadRow: it cannot be used any more.
        """
        found = self._draw(prompt_id)[1]
        if isinstance(found, BadRow):
            raise found
        return found

    def seek(self, position: int) -> None:
        """Goes on from a saved `position`."""
        self.close()
        self._stream.seek(position)
        self.position = position

    def close(self) -> None:
        """Stops all work ahead; its threads and processes have ended on return."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


class _Ahead:
    """An iterator over (prompt_id, draw) that works ahead, within a bound, and in order."""

    def __init__(self, draw: Draw, first: int, step: int, workers: int, prefetch: int):
        grain = _grain()
        self._threads: set[threading.Thread] = set()
        self._draw, self._pool = draw, None
        threads = min(THREADS, prefetch)
        if workers:
            # Grain's own processes (mp_prefetch) import JAX, and need 25 seconds each to end.
            self._pool = ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), _begin, (draw,)
            )
            threads = min(2 * workers, prefetch)  # which only wait for processes
        ids = grain.MapDataset.range(first, sys.maxsize, step)
        self._items = iter(
            ids.map(self._work).to_iter_dataset(grain.ReadOptions(threads, prefetch))
        )

    def _work(self, prompt_id: int) -> tuple[int, Drawn | BadRow]:
        self._threads.add(threading.current_thread())
        if self._pool is None:
            return self._draw(int(prompt_id))
        return self._pool.submit(_work, int(prompt_id)).result()

    def __next__(self) -> tuple[int, Drawn | BadRow]:
        try:
            return next(self._items)
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process that encodes training rows died ({error}) Most often the machine ran "
                "out of memory: lower data.workers or data.prefetch"
            ) from None

    def close(self) -> None:
        self._items.close()  # returns while its threads finish what they are at
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for thread in self._threads - {threading.current_thread()}:
            thread.join()


def held_out(
    rows: RowSet, encoder: PromptEncoder, skips: Skips, limit: int = 0
) -> list[tuple[Example, Prompt]]:
    """The usable rows in the file's order, the first `limit` of every task (0: all), encoded.

    Raises:
      ValueError: a larger share of the rows than allowed cannot be used.
    """
    items, taken, looked = [], collections.Counter(), 0
    for row in rows.usable.tolist():
        task = rows.task(row)
        if limit and taken[task] >= limit:
            continue
        looked += 1
        try:
            example = rows[row]
            items.append((example, encoder.encode(example)))
            taken[task] += 1
        except BadRow as bad:
            if rows.skip(skips, row, bad):
                rows.check_share(skips, looked)
    return items


def _grain():
    """Grain, imported where a run begins to draw; without its remark on profiling."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import grain
    finally:
        logging.set_verbosity(level)
    return grain


_worker_draw: Draw | None = None  # of a worker process


def _begin(draw: Draw) -> None:
    """What a worker process does first."""
    global _worker_draw
    _worker_draw = draw
    # Ctrl-C reaches the whole group; the run finishes its step first and then closes us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(prompt_id: int) -> tuple[int, Drawn | BadRow]:
    return _worker_draw(prompt_id)


def _end_with_parent() -> None:
    """Ends this process when the run is gone without a word (SIGKILL, out of memory)."""
    multiprocessing.parent_process().join()
    os._exit(1)
