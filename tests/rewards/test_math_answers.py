"""Mathematical answers: the plain comparison, and the worker that can be killed."""

import os
import signal
import subprocess
import sys
import time

import hypothesis as hyp
import math_verify
import pytest
from hypothesis import strategies as st

from g2rpo_jax import rewards
from g2rpo_jax.rewards import math, worker
from g2rpo_jax.rewards.parse import Unscorable

OVERRUNS = {
    "tower": "$9^{9^{9^{9}}}$",
    "factorial": "$10000000!$",
    "latex": "$" + "{" * 1000 + "2" + "}" * 1000 + "$",
    "brackets": "(" * 1200 + "2" + ")" * 1200,
}


@pytest.fixture(scope="module")
def patient():
    """A worker with time enough for any honest comparison on a busy machine."""
    one = math.MathWorker(timeout_s=60.0, memory_mb=1024)
    yield one
    one.close()


@pytest.fixture
def hasty():
    one = math.MathWorker(timeout_s=1.0, memory_mb=1024)
    yield one
    one.close()


def asked(one, answer, truth):
    try:
        return one.equal(truth, answer)
    except Unscorable as problem:
        return problem.kind


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("8657", "8657", 1.0),
        ("$$60$$", "60", 1.0),
        ("\\(60\\)", "60", 1.0),
        ("1,234", "1234", 1.0),
        ("-5.10", "-5.1", 1.0),
        ("+7", "7", 1.0),
        ("1.5e3", "1500", 1.0),
        (".5", "0.5", 1.0),
        ("80.0000001", "80", 1.0),  # six decimals count
        ("80.00001", "80", 0.0),
        ("5", "-5", 0.0),
        ("9" * 100, "9" * 99 + "8", 0.0),
        ("no solution", "no  solution", 1.0),
        ("$\\frac12$", "\\frac12", 1.0),
        ("0.5", "1/2", None),
        ("1,5", "15", None),
        ("x", "2", None),
        ("\uff13", "3", None),
    ],
)
def test_plain_answers_are_compared_without_a_worker(answer, truth, right):
    assert math.equal_if_plain(answer, truth) == right


def test_what_needs_no_reading_is_refused():
    for answer, truth, kind in [
        (" ", "2", "no_expression"),
        ("1" * 10**6, "2", "too_long"),
        ("2", "1" * 10**6, "bad_truth"),
    ]:
        with pytest.raises(Unscorable) as caught:
            math.equal_if_plain(answer, truth)
        assert caught.value.kind == kind


plain = st.one_of(
    st.integers(-10_000, 10_000).map(str),
    st.integers(1000, 9_999_999).map("{:,}".format),
    st.integers(-40, 40).map(lambda i: f"{i / 4:.2f}"),
    st.integers(-40, 40).map(lambda i: f"{i / 4:.4f}"),
)


@hyp.given(plain, plain)
@hyp.settings(max_examples=40)
def test_the_plain_comparison_is_math_verifys(a, b):
    for x, y in ((a, b), (a, a.replace(",", ""))):
        found = math_verify.verify(math_verify.parse(x), math_verify.parse(y))
        assert math.equal_if_plain(y, x) == float(found)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("0.5", "\\frac{1}{2}", 1.0),
        ("\\pi", "$$\\pi $$", 1.0),
        ("\\sqrt{2}/3", "$\\frac{\\sqrt{2}}{3}$", 1.0),
        ("(x+1)^2", "x^2+2x+1", 1.0),
        ("\\boxed{2}", "2", 1.0),
        ("The answer is 2", "2", 1.0),
        ("5 cm^2", "5", 1.0),
        ("x = 3", "3", 1.0),
        ("50%", "0.5", 1.0),
        ("3, 2", "2, 3", 1.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("1 1/2", "1.5", 1.0),
        ("2**10", "1024", 1.0),
        ("2", "3", 0.0),
        ("(1, 3)", "(1,2)", 0.0),
        ("\\frac{1}{3}", "\\frac{1}{2}", 0.0),
        # Bare formulas of which math-verify by itself reads one number.
        ("2", "2^{10}", 0.0),
        ("2x", "2", 0.0),
        ("3", "2, 3", 0.0),
        ("3", "x > 3", 0.0),
        ("2\\pi", "2", 0.0),
        # Nothing to compare.
        ("no idea", "2", "no_expression"),
        ("\ud800\x00", "2", "no_expression"),
        ("2", "no idea", "bad_truth"),
    ],
)
def test_expressions_are_compared_by_the_worker(patient, answer, truth, right):
    assert asked(patient, answer, truth) == right


@pytest.mark.parametrize("answer", OVERRUNS.values(), ids=OVERRUNS)
def test_an_overrun_is_killed_at_its_deadline_and_the_next_answer_works(hasty, answer):
    hasty.equal("1/2", "0.5")  # started, so that what follows is the deadline alone
    first = hasty._process.pid
    start = time.monotonic()
    assert asked(hasty, answer, "2") == "math_deadline"
    assert time.monotonic() - start < 1.0 + 4.0  # and some for a busy machine
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    hasty.timeout_s = 60.0
    assert hasty.equal("1/2", "0.5") == 1.0
    assert hasty.restarts == 1


def test_a_worker_that_died_idle_is_replaced_without_blame(patient):
    assert patient.equal("1/2", "0.5") == 1.0
    os.kill(patient._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, patient._process.pid, os.WEXITED | os.WNOWAIT)
    assert patient.equal("1/2", "0.5") == 1.0


def test_a_worker_that_dies_at_work_is_counted_and_replaced(hasty, monkeypatch):
    hasty.timeout_s = 60.0
    hasty.equal("1/2", "0.5")
    pid = hasty._process.pid
    os.kill(pid, signal.SIGSTOP)  # so that it cannot reply before it dies
    write = os.write

    def write_and_kill(file, data):
        written = write(file, data)
        os.kill(pid, signal.SIGKILL)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(math.os, "write", write_and_kill)
        assert asked(hasty, "0.5", "1/2") == "math_crash"
    assert hasty.equal("1/2", "0.5") == 1.0


def test_memory_is_bounded():
    code = (
        "from g2rpo_jax.rewards import worker\n"
        "worker.limit(512)\n"
        "worker.expressions = lambda text: bytearray(600 << 20)\n"
        "print(worker.reply('1', '2')['kind'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "math_memory"


def test_an_exception_inside_is_a_kind(monkeypatch):
    monkeypatch.setattr(worker, "expressions", lambda text: 1 / 0)
    assert worker.reply("1", "2") == {"equal": False, "kind": "math_error"}


def test_a_missing_math_verify_is_an_error_not_a_zero(monkeypatch):
    monkeypatch.setattr(math.sys, "executable", "/bin/true")
    scorer = rewards.Scorer()
    with pytest.raises(RuntimeError, match="pip install math-verify"):
        scorer.score("<answer>1/2</answer>", "0.5", "math")


def test_the_worker_ends_with_its_owner():
    one = math.MathWorker(timeout_s=60.0, memory_mb=1024)
    one.equal("1/2", "0.5")
    process = one._process
    del one
    assert process.poll() is not None


def test_equal_questions_are_asked_once(monkeypatch):
    questions = []
    monkeypatch.setattr(math.MathWorker, "equal", lambda self, *qa: questions.append(qa) or 1.0)
    scorer = rewards.Scorer()
    item = rewards.Item("<answer>1/2</answer>", "0.5", "math")
    assert [s.accuracy for s in scorer.score_batch([item] * 5)] == [1.0] * 5
    assert questions == [("0.5", "1/2")]
