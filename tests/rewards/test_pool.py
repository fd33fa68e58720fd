"""Child processes: deadlines, deaths, replacements, and what the batch gets in spite of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from g2rpo_jax.rewards import pool

OPTIONS = {"mode": "sound", "think_tag": "thinking", "untagged": True}
HOSTILE = """
import os, re, signal, time

def write(text):
    for fd in range(3, 20):
        try:
            os.write(fd, text)
        except OSError:
            pass

def reward(response, answer, problem_type, data_type):
    if response == "hang":
        while True:
            pass
    if response == "sleep":
        time.sleep(100)
    if response == "regex":
        re.match(r"(a+)+$", "a" * 64 + "b")
    if response == "memory":
        return len(bytearray(4 << 30))
    if response == "exit":
        os._exit(0)
    if response == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if response == "pipe":
        write(b"x" * 3_000_000)
    if response.startswith("{") or response == "5":
        write(response.encode() + b"\\n")
    if response == "print":
        print('{"parts": [1.0, 1.0, 1.0], "kind": null}', flush=True)
    return 0.5
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    (tmp_path / "hostile_reward.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)
    made = []

    def make(size=2, deadline_s=1.0, memory_mb=512):
        custom = ["hostile_reward:reward"]
        made.append(pool.Pool(size, deadline_s, memory_mb, custom=custom, **OPTIONS))
        return made[-1]

    yield make
    for one in made:
        one.close()


def asks(*responses):
    item = {"answer": "1", "problem_type": "OCR", "data_type": "image"}
    path = "hostile_reward:reward"
    return [{"op": "custom", "path": path, "response": text, **item} for text in responses]


def told(replies):
    return [reply["kind"] or reply["parts"][0] for reply in replies]


def grade(i):
    response = f"<thinking>so</thinking><answer>{i}</answer>"
    return {
        "op": "grade",
        "response": response,
        "answer": "7",
        "problem_type": "numerical",
        "data_type": "image",
    }


def test_replies_come_in_order():
    one = pool.Pool(3, 60.0, 512, **OPTIONS)
    replies = one.run([grade(i % 9) for i in range(500)])
    assert [r["parts"][0] for r in replies] == [float(i % 9 == 7) for i in range(500)]
    assert one.replaced == 0
    one.close()


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ("hang", "deadline"),
        ("sleep", "deadline"),
        ("regex", "deadline"),
        ("memory", "memory"),
        ("exit", "crash"),
        ("kill", "crash"),
    ],
)
def test_what_a_reward_does_is_its_samples_loss_alone(hostile, response, kind):
    one = hostile(size=1)
    replies = told(one.run(asks("a", response, "b", "c", response, "d")))
    assert replies == [0.5, kind, 0.5, 0.5, kind, 0.5]
    assert one.replaced == 2
    assert told(one.run(asks("again"))) == [0.5]


def test_overruns_take_a_deadline_each_and_no_more(hostile):
    one = hostile(size=2, deadline_s=0.5)
    one.run(asks("a", "b"))
    start = time.monotonic()
    replies = told(one.run(asks(*["hang"] * 4, *["a"] * 20)))
    assert replies == ["deadline"] * 4 + [0.5] * 20
    # Two at a time, each with a start after it, on a busy machine.
    assert time.monotonic() - start < 2 * 0.5 + 15.0


def test_what_a_reward_prints_is_no_reply(hostile):
    assert told(hostile().run(asks("print", "a", "print"))) == [0.5] * 3


def test_garbage_in_the_pipe_is_a_crash(hostile):
    one = hostile(size=1)
    forged = ["pipe", "5", '{"n": 0}', '{"n": 4, "parts": [9, 9, 9]}', '{"n": 5, "kind": "good"}']
    for i, text in enumerate(forged):
        replies = told(one.run(asks("a", *["b"] * i, text, "c")))
        assert replies == [0.5] * (i + 1) + ["crash"] + [0.5]


def test_megabytes_pass():
    one = pool.Pool(2, 60.0, 1024, **OPTIONS)
    long = [grade(7) for _ in range(8)]
    for request in long:
        request["response"] = "x" * 3_000_000 + request["response"]
    assert [r["parts"] for r in one.run(long)] == [[1.0, 0.0, 0.0]] * 8
    one.close()


def test_a_child_killed_from_outside_while_idle_is_replaced_without_blame():
    one = pool.Pool(1, 60.0, 512, **OPTIONS)
    one.run([grade(7)])
    os.kill(one._slots[0].process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, one._slots[0].process.pid, os.WEXITED | os.WNOWAIT)
    assert one.run([grade(7)])[0]["parts"][0] == 1.0
    assert one.replaced == 1
    one.close()


def test_a_child_killed_from_outside_at_work_loses_one_sample(hostile, monkeypatch):
    one = hostile(size=1, deadline_s=60.0)
    one.start()
    wait, calls = pool._wait, []

    def wait_and_kill(children):
        wait(children)
        calls.append(1)
        if len(calls) == 1:  # it has been sent the sample that it will sleep over
            os.kill(children[0].process.pid, signal.SIGKILL)

    monkeypatch.setattr(pool, "_wait", wait_and_kill)
    assert told(one.run(asks("sleep", "a", "b"))) == ["crash", 0.5, 0.5]
    assert one.replaced == 1


def test_a_child_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(pool.sys, "executable", "/bin/false")
    one = pool.Pool(2, 1.0, 512, **OPTIONS)
    with pytest.raises(RuntimeError, match="do not start .crash.: "):
        one.run([grade(7)])


def test_children_end_with_their_owner():
    one = pool.Pool(2, 60.0, 512, **OPTIONS)
    one.run([grade(7)] * 9)
    processes = [child.process for child in one._slots if child]
    assert processes
    del one
    assert all(process.poll() is not None for process in processes)


def test_a_child_that_has_lost_its_parent_ends(tmp_path):
    # The parent is killed while the child hangs: an alarm ends it, 10 s after the deadline; here
    # the child has nothing to do and sees the end of its input.
    code = (
        "import os, signal\n"
        "from g2rpo_jax.rewards import pool\n"
        f"one = pool.Pool(1, 60.0, 512, **{OPTIONS!r})\n"
        "one.start()\n"
        "print(one._slots[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid, stop = int(done.stdout), time.monotonic() + 30.0
    while time.monotonic() < stop and alive(pid):
        time.sleep(0.01)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_knows_no_jax_and_nothing_of_its_parents_main():
    code = (
        "import sys\n"
        "from g2rpo_jax.rewards import worker\n"
        "heavy = ('jax', 'numpy', 'sympy', 'math_verify', 'torch', 'pickle', 'ssl')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
