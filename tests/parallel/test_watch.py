"""The line between processes, played by threads: what is gathered, and who is said to be gone."""

import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from g2rpo_jax.parallel import watch


class Ends:
    """The ends of a line of `count`, and what each said when it left."""

    def __init__(self, count: int):
        self.left = [queue.SimpleQueue() for _ in range(count)]
        told = [queue.SimpleQueue() for _ in range(count)]

        def connect(index):
            return watch.connect(
                index,
                count,
                "127.0.0.1",
                tell=lambda text: [box.put(text) for box in told],
                hear=lambda: told[index].get(timeout=20),
                leave=self.left[index].put,
            )

        with ThreadPoolExecutor(count) as pool:
            self.lines = list(pool.map(connect, range(count)))

    def all(self, job):
        """`job(line)` in all at once."""
        with ThreadPoolExecutor(len(self.lines)) as pool:
            return list(pool.map(job, self.lines))

    def cut(self, index: int):
        """As the system does with the connections of a process that is killed."""
        for link in self.lines[index]._links.values():
            with socket.socket(fileno=link.fileno()) as own:
                own.shutdown(socket.SHUT_RDWR)
                own.detach()


@pytest.fixture
def ends(monkeypatch):
    monkeypatch.setattr(watch, "COLLECT_S", 0.3)
    monkeypatch.setattr(watch, "LEAVE_S", 1.0)
    return Ends(3)


def test_everybody_gets_everybodys_value_in_order(ends):
    for turn in range(50):
        got = ends.all(lambda line, turn=turn: line.gather({line.index: turn}, "values"))
        assert got == [[{0: turn}, {1: turn}, {2: turn}]] * 3
    big = bytes(3_000_000)
    assert ends.all(lambda line: line.gather(big, "big")) == [[big] * 3] * 3


def test_different_places_of_the_program_are_an_error_everywhere(ends):
    def astray(line):
        with pytest.raises(RuntimeError, match="1: rows 1, 2: stop 1"):
            line.gather(0, "stop" if line.index == 2 else "rows")

    ends.all(astray)


def test_an_end_that_went_well_says_nothing(ends):
    ends.all(lambda line: line.close())
    assert all(box.empty() for box in ends.left)


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_who_is_gone_is_named_to_all_others(ends, gone):
    ends.cut(gone)
    for index in {0, 1, 2} - {gone}:
        said = ends.left[index].get(timeout=20)
        assert said.startswith(f"process {gone} of 3 (host ") and "without a word" in said
        assert f"Process {index} stops" in said and "--resume" in said


def test_an_error_is_told_and_stays_the_own_of_the_one_that_had_it(ends):
    assert ends.lines[1].fail("KeyError: 'x'") is None
    for index in (0, 2):
        assert "process 1 of 3" in (said := ends.left[index].get(timeout=20))
        assert "stopped with an error: KeyError: 'x'." in said
    assert ends.left[1].empty()


def test_the_same_error_everywhere_is_everybodys_own(ends):
    assert ends.all(lambda line: line.fail("ValueError: no such file")) == [None] * 3
    assert all(box.empty() for box in ends.left)


def test_an_error_that_a_death_led_to_is_put_down_to_the_death(ends):
    # The others' collectives fail before anybody knows why.
    survivors = [ends.lines[0], ends.lines[2]]
    failed = [queue.SimpleQueue() for _ in survivors]

    def fail(line, box):
        box.put(line.fail("ValueError: connection closed by peer"))

    threads = [
        threading.Thread(target=fail, args=pair) for pair in zip(survivors, failed, strict=True)
    ]
    for thread in threads:
        thread.start()
    ends.cut(1)
    for box in failed:
        assert box.get(timeout=20) == (1, watch.GONE)
