"""Cells as processes: parallel, resumed, failed, stopped; a stub plays the training."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g2rpo_jax.config import to_plain
from g2rpo_jax.sweep import ending, plan, runner
from tests.sweep.test_plan import TINY

ONE = [runner.Slot()]
STUB = [sys.executable, str(Path(__file__).with_name("stub.py"))]


def cells(out, rates="0.01,0.02", seeds=("0", "1")):
    said = plan.from_flags({}, TINY, ["steps=4"], [f"optim.lr={rates}"], seeds, None)
    return plan.parse(said).cells(out)


def run(asked, places=ONE, bounded=False):
    """(failures, what was said)."""
    said = []
    failures = runner.run(asked, STUB, places, bounded=bounded, say=said.append, poll_s=0.01)
    return failures, said


def starts(cell):
    return (cell.folder / "starts").read_text().count("\n")


@pytest.mark.parametrize("bounded", [False, True])
def test_every_cell_runs_once_and_what_is_finished_not_again(tmp_path, bounded):
    asked = cells(tmp_path)
    failures, said = run(asked, ONE * 3, bounded)
    assert failures == {} and len(said) == 4
    assert "lr=0.02 seed 1: 0.530 after 4 steps, 2 s" in said
    assert all(runner.finished(cell) and runner.progress(cell) == 1 for cell in asked)
    more = cells(tmp_path, "0.01,0.02,0.03")
    assert run(more)[1] == [
        f"lr=0.03 seed {seed}: 0.5{seed + 3}0 after 4 steps, 2 s" for seed in (0, 1)
    ]
    assert [starts(cell) for cell in more] == [1] * 6


def test_a_failed_cell_is_told_with_its_last_lines_and_the_others_go_on(tmp_path):
    asked = cells(tmp_path, "9,0.01", seeds=("0",))
    failures, _ = run(asked)
    assert list(failures) == ["lr=9 seed 0"] and runner.finished(asked[1])
    told = failures["lr=9 seed 0"]
    assert "failed with exit code 1" in told and "error: the disk is full" in told
    assert "step 3" in told and "step 1" not in told  # of a bar what it showed last
    run(asked)
    assert [starts(cell) for cell in asked] == [2, 1]  # tried again


def test_ctrl_c_lets_cells_save_and_the_same_command_goes_on(tmp_path):
    asked = cells(tmp_path, "8,0.01", seeds=("0",))
    failures, said = run(asked)
    assert failures == {} and said == ["lr=8 seed 0: stopped; the same command goes on with it"]
    assert runner.summary(asked[0])["finished"] is False
    assert not (asked[1].folder / "starts").exists()  # none was started any more
    assert 0.24 < runner.progress(asked[0]) < 0.26
    run(asked)
    assert all(map(runner.finished, asked))


def test_a_second_ctrl_c_kills(tmp_path):
    asked = cells(tmp_path, "7", seeds=("0",))
    assert run(asked) == ({}, ["lr=7 seed 0: stopped; the same command goes on with it"])
    assert runner.summary(asked[0]) == {}


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    asked = cells(tmp_path)
    runner.check_begun(asked)
    asked[1].folder.mkdir(parents=True)
    there = asked[1].folder / "config.json"
    there.write_text(json.dumps(to_plain(asked[1].config)))
    runner.check_begun(asked)
    there.write_text(json.dumps(to_plain(dataclasses.replace(asked[1].config, steps=5))))
    with pytest.raises(ValueError, match="steps: 5 -> 4"):
        runner.check_begun(asked)


def test_one_sweep_at_a_time_holds_a_folder(tmp_path):
    with runner.alone(tmp_path / "out"):
        with pytest.raises(ValueError, match="another sweep"), runner.alone(tmp_path / "out"):
            pass
    with runner.alone(tmp_path / "out"):
        pass


def test_a_cell_that_a_killed_sweep_left_holds_the_folder_still(tmp_path):
    with runner.alone(tmp_path / "out") as hold:
        words = [sys.executable, "-c", "input()"]
        left = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=(hold,))
    with pytest.raises(ValueError, match="a killed one has left"), runner.alone(tmp_path / "out"):
        pass
    left.communicate(b"\n")
    with runner.alone(tmp_path / "out"):
        pass


def test_cores_are_shared_out(tmp_path, monkeypatch):
    asked = cells(tmp_path)  # of two devices each
    monkeypatch.setattr(runner, "cores", lambda: list(range(9)))
    assert [sorted(slot.cpus) for slot in runner.slots(asked)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [len(slot.cpus) for slot in runner.slots(asked, 2)] == [4, 4]
    assert runner.slots(asked, 1) == ONE
    assert runner.slots(asked, 10) == ONE * 10
    monkeypatch.setattr(runner, "cores", lambda: [0])
    assert runner.slots(asked) == ONE


def test_a_cell_keeps_to_its_cores_and_the_sweep_to_its_own(tmp_path):
    asked, mine = cells(tmp_path, "0.01", seeds=("0",)), os.sched_getaffinity(0)
    run(asked, [runner.Slot(cpus=frozenset([min(mine)]))])
    assert runner.summary(asked[0])["cpus"] == [min(mine)]
    assert os.sched_getaffinity(0) == mine


def test_gpus_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.platform, "detect", lambda: "gpu")
    monkeypatch.setattr(runner, "_gpus", lambda: list("0123"))
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    asked = cells(tmp_path)

    def visible(data, parallel=0):
        its = [c.config for c in asked]
        sized = [dataclasses.replace(c, mesh=dataclasses.replace(c.mesh, data=data)) for c in its]
        both = [dataclasses.replace(c, config=s) for c, s in zip(asked, sized, strict=True)]
        return [dict(slot.environment) for slot in runner.slots(both, parallel)]

    name, share = runner.VISIBLE, "XLA_PYTHON_CLIENT_MEM_FRACTION"
    assert visible(1) == [{name: i} for i in "0123"]
    assert visible(2) == [{name: "0,1"}, {name: "2,3"}]
    assert visible(-1) == [{name: "0,1,2,3"}]
    assert visible(3) == [{name: "0,1,2"}]
    assert visible(2, 4)[3] == {name: "2,3", share: "0.450"}


def test_other_machines_run_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.platform, "detect", lambda: "tpu")
    assert runner.slots(cells(tmp_path)) == ONE
    with pytest.raises(ValueError, match="one process takes all devices"):
        runner.slots(cells(tmp_path), 2)


def test_memory_bounds_how_many_run(tmp_path, monkeypatch):
    asked = cells(tmp_path)
    assert runner._fits(asked, [])
    first = [runner.Running(asked[0], runner.Slot(), None)]
    monkeypatch.setattr(runner, "_available_gib", lambda: 4.0)
    assert not runner._fits(asked, first)  # it has not told what it takes
    asked[0].folder.mkdir(parents=True)

    def takes(gib, step=1):
        row = {"step": step, "host/rss_gib": gib}
        (asked[0].folder / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 2, "ho')

    takes(3.0)
    assert runner._fits(asked, first)  # 3 x 1.25 is below 4
    takes(3.0, step=0)  # the update's memory is not in it yet
    assert not runner._fits(asked, first)
    takes(3.3)
    assert not runner._fits(asked, first)
    takes(1.5)
    second = runner.Running(asked[1], runner.Slot(), None)  # it will take 1.5 as well
    assert runner._fits(asked, first + [second])
    takes(1.7)
    assert not runner._fits(asked, first + [second])


def test_a_sweep_ends_with_table_numbers_and_curves(tmp_path):
    said = plan.from_flags({}, TINY, ["steps=4"], ["optim.lr=9,0.01,0.03"], ["0", "1"], "lr=0.01")
    asked = plan.parse(said)
    run(asked.cells(tmp_path))
    told = ending.conclude(asked, tmp_path)
    assert "4 of 6 cells are finished" in told and "missing  lr=9 seed 1" in told
    assert "| lr=0.03 | lr=0.01 | 2 of 2 | +0.020 ± 0.000 |" in told
    assert (tmp_path / "table.md").read_text() in told
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 5
    assert (tmp_path / "curves.png").stat().st_size > 10_000
