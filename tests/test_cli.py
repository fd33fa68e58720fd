"""Where a run goes, with and without --resume and --requeue."""

import pytest

from g2rpo_jax import cli


def test_a_new_run_takes_a_free_folder_and_a_resumed_one_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = cli.workdir_of(None, "tiny", resume=False)
    assert first.is_dir() and str(first) == "runs/tiny"
    (first / "config.json").touch()
    second = cli.workdir_of(None, "tiny", resume=False)
    assert str(second) == "runs/tiny-2"
    assert cli.workdir_of(None, "tiny", resume=True) == first  # the second has not begun
    with pytest.raises(ValueError, match="holds no run to resume"):
        cli.workdir_of(None, "other", resume=True)


def test_a_named_folder_holds_a_run_or_not(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="holds no run to resume"):
        cli.workdir_of(str(folder), "", resume=True)
    assert cli.workdir_of(str(folder), "", resume=False) == folder
    (folder / "config.json").touch()
    assert cli.workdir_of(str(folder), "", resume=True) == folder
    with pytest.raises(ValueError, match="add --resume"):
        cli.workdir_of(str(folder), "", resume=False)


def test_a_job_of_a_queue_takes_the_folder_as_it_is(tmp_path):
    folder = tmp_path / "run"
    assert cli.workdir_of(str(folder), "", resume=False, requeue=True) == folder
    (folder / "config.json").touch()
    assert cli.workdir_of(str(folder), "", resume=False, requeue=True) == folder
    with pytest.raises(ValueError, match="--requeue needs --workdir"):
        cli.workdir_of(None, "tiny", resume=False, requeue=True)
