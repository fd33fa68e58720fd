"""Supervised training from a model that is there."""

import json

import pytest

from tests.launch.test_eval import launch

FROM_TINY = ("--config=configs/cold_start.py", "--config.model=assets/tiny")


@pytest.mark.slow
def test_it_goes_on_from_a_model_on_one_device(tmp_path):
    small = {"steps": 3, "eval_every": 2, "eval_rows": 6, "prompts": 4, "rows": 4}
    small |= {"caption_steps": 0, "microbatches": 1, "host_devices": 1, "stop": 1.0}
    flags = [f"--config.{name}={value}" for name, value in small.items()]
    done = launch("sft", *FROM_TINY, f"--config.directory={tmp_path / 'model'}", *flags)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "model" / "cold_start.json").read_text())
    assert [look["step"] for look in told["history"]] == [2, 3]  # the last step is looked at, too
    # A model from nothing has 6 nats a token; this one goes on.
    assert told["history"][-1]["nll"] < 2
    assert (tmp_path / "model" / "tokenizer.json").exists()


def test_a_model_is_not_written_over():
    done = launch("sft", *FROM_TINY, "--config.directory=assets/tiny")
    assert (
        done.returncode == 1 and "directory=assets/tiny is what model goes on from" in done.stderr
    )
    assert "Traceback" not in done.stderr
