"""All processes meet before JAX starts, or each says who is missing."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from g2rpo_jax.parallel import meeting


def port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def meet(wait_s, here, others):
    """What host(...) and calls of (index, count) end with: None or the message."""
    at, deadline = port(), time.monotonic() + wait_s

    def outcome(function, *arguments):
        try:
            return function(*arguments)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(1 + len(others)) as pool:
        calls = [
            pool.submit(outcome, meeting.call, "127.0.0.1", at, index, count, deadline)
            for index, count in others
        ]
        host = pool.submit(outcome, meeting.host, at, here, deadline, f"a:{at}")
        return [host.result(), *(call.result() for call in calls)]


def test_all_meet_whoever_comes_first():
    assert meet(20, 4, [(3, 4), (1, 4), (2, 4)]) == [None] * 4


def test_the_missing_are_named_to_all_who_came():
    said = meet(1.0, 4, [(2, 4)])
    assert said[0] == said[1] and said[0].startswith("of 4 processes 1, 3 did not call at a:")


def test_two_of_one_number_are_told():
    said = meet(20, 3, [(1, 3), (1, 3)])
    assert all("two processes say that they are process 1 of 3" in each for each in said)


def test_different_numbers_of_processes_are_told():
    said = meet(20, 2, [(1, 3)])
    assert all("process 1 says there are 3 processes, process 0 2" in each for each in said)


def test_strangers_at_the_door_do_not_matter():
    at, deadline = port(), time.monotonic() + 20
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(meeting.host, at, 2, deadline, f"a:{at}")
        for word in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b""):
            while True:
                try:
                    stranger = socket.create_connection(("127.0.0.1", at), timeout=5)
                    break
                except OSError:
                    assert time.monotonic() < deadline
            with stranger:
                stranger.sendall(word)
        meeting.call("127.0.0.1", at, 1, 2, deadline)
        assert host.result() is None


def test_a_coordinator_that_does_not_answer_is_named_in_time():
    at, began = port(), time.monotonic()
    with pytest.raises(ValueError, match=f"process 1 of 2 cannot reach.*:{at}: .*refused"):
        meeting.call("127.0.0.1", at, 1, 2, began + 0.5)
    assert time.monotonic() - began < 30
