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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from absl import logging

from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.encoding import PromptEncoder
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Prompt
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.data.skips import Skips
from g2rpo_jax.parallel.processes import Group

THREADS = 2  # of a feed without worker processes: decoding pictures leaves Python's lock
PASSED_OVER = object()  # stands for a prompt that was not encoded, as it was to be passed over
WINDOW = 256  # held-out rows that a process encodes before it tells the others of bad ones


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One prompt of the stream.

    Attributes:
      prompt_id: its place in the stream.
      example: what stands there; without media where another process has the prompt.
      prompt: encoded; None where another process has it.
      home: the process that has it.
      tokens: length of the encoded prompt.
    """

    prompt_id: int
    example: Example
    prompt: Prompt | None
    home: int = 0
    tokens: int = 0

    def elsewhere(self) -> "Drawn":
        """What the other processes know of it."""
        return dataclasses.replace(self, example=_told(self.example), prompt=None)


def _told(example: Example) -> Example:
    return dataclasses.replace(example, images=(), videos=(), thinking="")


class Draw:
    """prompt_id -> (prompt_id, what stands there, encoded, or the BadRow that it is)."""

    def __init__(self, stream: PromptStream, encoder: PromptEncoder):
        self._stream = stream
        # Not a subclass that knows more: this goes to processes that start without JAX.
        self._encoder = PromptEncoder(encoder.config, encoder.processor)

    def __call__(self, prompt_id: int) -> tuple[int, Drawn | BadRow]:
        try:
            example = self._stream.at(prompt_id)
            prompt = self._encoder.encode(example)
            return prompt_id, Drawn(prompt_id, example, prompt, tokens=len(prompt.input_ids))
        except BadRow as bad:
            return prompt_id, bad


class Feed:
    """Encoded prompts of a stream, the next ones prepared while the device works.

    Of several processes, each encodes a block of the places that are taken together; bad rows, and
    prompts that are passed over, are made up for by the places behind them. So the prompts taken,
    their order and the position are the same for any number of processes.

    Attributes:
      position: the stream's, after the prompts that were taken.
      passed: places that were passed over, count.
    """

    def __init__(
        self,
        stream: PromptStream,
        rows: RowSet,
        encoder: PromptEncoder,
        skips: Skips,
        workers: int = 0,
        prefetch: int = 128,
        group: Group | None = None,
        passes_over: Callable[[int], bool] = lambda prompt_id: False,
    ):
        """Starts nothing yet.

        Args:
          rows: what the stream draws from.
          skips: unusable rows are counted there when their turn comes.
          workers: processes that encode; 0: threads of this process.
          prefetch: encoded prompts that are kept ready at most, at least 1.
          group: the processes of the run; None: this one alone.
          passes_over: whether the prompt at a place is not wanted; asked when its turn comes, where
            all processes must say the same, and by the threads that work ahead, which then leave
            it be.
        """
        self._stream, self._rows, self._skips = stream, rows, skips
        self._passes_over, self.passed = passes_over, 0
        self._draw = Draw(stream, encoder)
        self._workers, self._prefetch = workers, prefetch
        self._group = group or Group()
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: _Ahead | None = None
        self._planned = (0, 0)  # position and count that the work ahead was planned for
        self._ready: dict[int, Drawn | BadRow] = {}  # worked out, not taken yet
        self.position = stream.position

    def take(self, count: int) -> list[Drawn]:
        """The next `count` usable prompts, in the stream's order; all processes call it.

        Args:
          count: divides over the processes.
        Raises:
          ValueError: a larger share of the rows than allowed cannot be used.
          RuntimeError: a worker process died.
        """
        first, group = self.position, self._group
        own = range(count)[group.share(count)]
        pending = {slot: first + slot for slot in range(count)}
        taken: list[Drawn] = [None] * count
        behind, misses = first + count, 0
        while pending:
            over = {slot for slot in pending if self._passes_over(pending[slot])}
            looked = {slot: self._look(pending[slot], count) for slot in pending if slot in own}
            for slot, found in looked.items():
                if found is PASSED_OVER and slot not in over:  # wanted after all
                    looked[slot] = self._work(pending[slot])
            told = {slot: _tell(looked[slot]) for slot in looked.keys() - over}
            for part in group.gather(told, "drawn rows"):
                looked = part | looked
            again = []
            for slot, prompt_id in sorted(pending.items(), key=lambda item: item[1]):
                if slot in over:
                    again.append(slot)
                    self.passed += 1
                    continue
                found = looked[slot]
                if isinstance(found, Drawn):
                    taken[slot], misses = found, 0
                    continue
                again.append(slot)
                misses += 1
                self._count_bad(prompt_id, found, misses)
            pending = {slot: behind + i for i, slot in enumerate(sorted(again))}
            behind += len(pending)
        self.position = behind
        for prompt_id in list(self._ready):  # a copy, as threads add to it
            if prompt_id < behind:
                del self._ready[prompt_id]
        if group.count > 1 and behind != first + count:
            self._stop_ahead()  # its blocks have moved; what is ready is kept
        return sorted(taken, key=lambda drawn: drawn.prompt_id)

    def _count_bad(self, prompt_id: int, found: BadRow, misses: int) -> None:
        if self._rows.skip(self._skips, self._stream.row(prompt_id), found):
            self._rows.check_share(self._skips, prompt_id + 1)
        if misses > len(self._stream):  # all were bad before this run was resumed
            raise ValueError(
                f"{self._rows.source}: a whole epoch without a usable row, the last: {found}"
            )

    def _look(self, prompt_id: int, count: int) -> Drawn | BadRow | object:
        """What stands at a place: prepared ahead, if it is the next of this process's plan; or
        PASSED_OVER, which may have been decided too soon."""
        group = self._group
        if self._ahead is None:
            self._planned = (self.position, count)
        base, size = self._planned
        each, begin = size // group.count, group.share(size).start

        def place(k: int) -> int:
            return base + k // each * size + begin + k % each

        if group.count > 1 and size != count:
            self._stop_ahead()
            return self._look(prompt_id, count)
        if self._ahead is None:
            self._start_pool()
            threads = min(2 * self._workers or THREADS, self._prefetch)  # with processes, they wait
            self._ahead = _Ahead(lambda k: self._wanted(place(k)), threads, self._prefetch)
        if prompt_id != place(self._ahead.given):
            return self._wanted(prompt_id)  # in place of a bad one
        found = self._ahead.next()
        self._ready.pop(prompt_id, None)
        return found

    def _wanted(self, prompt_id: int) -> Drawn | BadRow | object:
        return PASSED_OVER if self._passes_over(prompt_id) else self._work(prompt_id)

    def _work(self, prompt_id: int) -> Drawn | BadRow:
        """Encodes one prompt, in a worker process if there are any; called by several threads."""
        found = self._ready.get(prompt_id)
        if found is None:
            found = self._encoded(prompt_id)
            if isinstance(found, Drawn):
                found = dataclasses.replace(found, home=self._group.index)
            self._ready[prompt_id] = found
        return found

    def _encoded(self, prompt_id: int) -> Drawn | BadRow:
        if not self._workers:
            return self._draw(prompt_id)[1]
        try:
            return self._pool.submit(_work, prompt_id).result()[1]
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process that encodes training rows died ({error}) Most often the machine ran "
                "out of memory: lower data.workers or data.prefetch"
            ) from None

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

    def again_all(self, prompt_ids: list[int]) -> list[Drawn]:
        """Prompts that were drawn before, dealt out to the processes, which all call it.

        Raises:
          ValueError: one cannot be used any more.
        """
        group = self._group
        found = {}
        for prompt_id in prompt_ids[group.index :: group.count]:
            try:
                found[prompt_id] = dataclasses.replace(self.again(prompt_id), home=group.index)
            except BadRow as bad:
                found[prompt_id] = bad
        told = {prompt_id: _tell(each) for prompt_id, each in found.items()}
        for part in group.gather(told, "rows carried over"):
            found = part | found
        for each in found.values():
            if isinstance(each, BadRow):
                raise each
        return [found[prompt_id] for prompt_id in prompt_ids]

    def seek(self, position: int) -> None:
        """Goes on from a saved `position`."""
        self.close()
        self._stream.seek(position)
        self.position = position

    def close(self) -> None:
        """Stops all work ahead; its threads and processes have ended on return."""
        self._stop_ahead()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._ready.clear()

    def _stop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _start_pool(self) -> None:
        if self._workers and self._pool is None:
            # Grain's own processes (mp_prefetch) import JAX, and need 25 seconds each to end.
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _begin, (self._draw,)
            )


def _tell(found: Drawn | BadRow) -> Drawn | BadRow:
    return found.elsewhere() if isinstance(found, Drawn) else found


class _Ahead:
    """What `work` gives for 0, 1, 2, ..., worked out ahead, within a bound, and in order.

    Attributes:
      given: how many were taken.
    """

    def __init__(self, work: Callable[[int], Drawn | BadRow], threads: int, prefetch: int):
        grain = _grain()
        self._threads: set[threading.Thread] = set()
        self._make, self.given = work, 0
        options = grain.ReadOptions(threads, prefetch)
        self._items = iter(
            grain.MapDataset.range(sys.maxsize).map(self._work).to_iter_dataset(options)
        )

    def _work(self, k: int) -> Drawn | BadRow:
        self._threads.add(threading.current_thread())
        return self._make(int(k))

    def next(self) -> Drawn | BadRow:
        found = next(self._items)
        self.given += 1
        return found

    def close(self) -> None:
        self._items.close()  # returns while its threads finish what they are at
        for thread in self._threads - {threading.current_thread()}:
            thread.join()


def held_out(
    rows: RowSet,
    encoder: PromptEncoder,
    skips: Skips,
    limit: int = 0,
    group: Group | None = None,
) -> list[tuple[Example, Prompt | None]]:
    """The usable rows in the file's order, the first `limit` of every task (0: all), encoded.

    Args:
      group: the processes of the run, which all call this; each encodes its share of the rows.
    Returns:
      (example, prompt) pairs; the prompt is None where another process has it.
    Raises:
      ValueError: a larger share of the rows than allowed cannot be used.
    """
    group = group or Group()
    items: dict[int, tuple[Example, Prompt | None] | BadRow] = {}
    looked, loads = 0, [0] * group.count
    while True:
        wanted = [row for row in _first_of_tasks(rows, items, limit) if row not in items]
        if not wanted:
            break
        bad = False
        while wanted and not bad:  # bad rows make room for others
            window, wanted = wanted[: WINDOW * group.count], wanted[WINDOW * group.count :]
            homes = {}
            for row in window:
                homes[row] = loads.index(min(loads))
                loads[homes[row]] += 1
            mine = [row for row in window if homes[row] == group.index]
            own = {row: _encoded(rows, encoder, row) for row in mine}
            told = {
                row: found if isinstance(found, BadRow) else (_told(found[0]), None)
                for row, found in own.items()
            }
            for part in group.gather(told, "held-out rows"):
                own = part | own
            for row in window:
                items[row] = own[row]
                looked += 1
                if isinstance(own[row], BadRow):
                    bad = True
                    loads[homes[row]] -= 1
                    if rows.skip(skips, row, own[row]):
                        rows.check_share(skips, looked)
    return [items[row] for row in _first_of_tasks(rows, items, limit)]


def _first_of_tasks(rows: RowSet, items: dict[int, object], limit: int) -> list[int]:
    """The first `limit` rows of every task that are not known to be bad, in the file's order."""
    chosen, taken = [], collections.Counter()
    for row in rows.usable.tolist():
        task = rows.task(row)
        if isinstance(items.get(row), BadRow) or (limit and taken[task] >= limit):
            continue
        chosen.append(row)
        taken[task] += 1
    return chosen


def _encoded(rows: RowSet, encoder: PromptEncoder, row: int) -> tuple[Example, Prompt] | BadRow:
    try:
        example = rows[row]
        return example, encoder.encode(example)
    except BadRow as bad:
        return bad


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
