"""Every moment belongs to one phase."""

import time

import pytest

from g2rpo_jax import metrics
from g2rpo_jax.train.clock import AROUND, STEP, Clock


@pytest.fixture
def passing(monkeypatch):
    """Lets seconds pass on time.perf_counter()."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_phases_add_up_to_all_the_time_there_was(passing):
    clock = Clock()
    for phase, seconds in (("start", 5.0), ("data", 1.0), ("update", 2.0), ("data", 0.5)):
        passing(seconds)
        clock.lap(phase)
    assert clock.seconds == {"start": 5.0, "data": 1.5, "update": 2.0}
    assert clock.total == sum(clock.seconds.values()) == 8.5


def test_seconds_are_told_once_each(passing):
    clock = Clock()
    passing(1.0)
    clock.lap("data")
    passing(2.0)
    clock.lap("log")
    assert clock.numbers(STEP) == {"time/data_s": 1.0}
    passing(4.0)
    clock.lap("data")
    assert clock.numbers() == {"time/data_s": 4.0, "time/log_s": 2.0}
    assert clock.numbers() == {}


def test_a_clock_may_have_begun_before_it_was_made(passing):
    began = time.perf_counter()
    passing(3.0)
    clock = Clock(began)
    clock.lap("start")
    assert clock.seconds["start"] == clock.total == 3.0


def test_every_phase_of_a_line_is_a_metric():
    assert all(metrics.known(f"time/{phase}_s") for phase in (*STEP, *AROUND) if phase != "close")
