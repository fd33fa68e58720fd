"""What may differ when a run goes on, and what is said of it."""

import dataclasses
import fnmatch
import json
import subprocess

import jax.numpy as jnp
import pytest

from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.config import resolve, to_plain
from g2rpo_jax.train import resume
from tests.test_config import variant


def plain(**changes):
    """The tiny variant as a checkpoint keeps it, with some fields (dots as __) changed."""
    config = variant("tiny")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return json.loads(json.dumps(to_plain(resolve(config))))


def names(section, path=""):
    """Every field of a plain configuration, with its sections."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from names(value, f"{path}{name}.")
        else:
            yield path + name


def test_every_pattern_is_of_a_field_that_exists():
    fields = list(names(plain()))
    for pattern in resume.MAY_CHANGE:
        assert fnmatch.filter(fields, pattern), pattern


def test_fields_that_decide_what_is_learnt_may_not_change():
    """Section by section, so that a new field is looked at before it is let through."""
    free = {
        field
        for field in names(plain())
        if any(fnmatch.fnmatchcase(field, pattern) for pattern in resume.MAY_CHANGE)
    }
    for section in (
        "optim",
        "objective",
        "advantage",
        "filter",
        "shaping",
        "sampling",
        "tasks",
        "selection",
        "curriculum",
        "replay",
    ):
        assert not [field for field in free if field.startswith(section + ".")], section
    for field in ("seed", "responses", "max_tokens", "batch.prompts", "batch.minibatches"):
        assert field not in free
    assert "data.template" not in free and "reward.mode" not in free


def test_what_differs_is_named_with_old_and_new_value_and_what_follows():
    allowed, forbidden = resume.differences(
        plain(),
        plain(
            optim__lr=1.0,
            tasks__ocr__share=0.5,
            log__samples=1,
            mesh__fsdp=2,
            steps=999,
            checkpoint__keep=7,
        ),
    )
    assert forbidden == ["optim.lr: 0.0003 -> 1.0", "tasks.ocr.share: 1.0 -> 0.5"]
    assert allowed == [
        "checkpoint.keep: 2 -> 7",
        "log.samples: 6 -> 1",
        f"mesh.fsdp: 1 -> 2 ({resume.CLOSE})",
        f"steps: 230 -> 999 ({resume.MAY_CHANGE['steps']})",
    ]
    assert resume.differences(plain(), plain()) == ([], [])


def test_a_field_that_the_older_code_did_not_have_had_its_default():
    old = plain(filter__max_age=2)
    del old["filter"]["max_age"]
    old["gone"] = {"since": 1}
    assert resume.differences(old, plain(filter__max_age=2)) == ([], [])
    assert resume.differences(old, plain(filter__max_age=9))[1] == ["filter.max_age: 2 -> 9"]


@pytest.fixture
def run(tmp_path):
    """A run folder with checkpoints of steps 3 and 4, and the facts it was begun with."""
    facts = {"config": plain(), "weights": "w", "code": {"g2rpo_jax": "0.1.0", "commit": "abc"}}
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (3, 4):
        checkpoints.save(step, {"x": jnp.ones(3)}, {"at": step, **facts})
    checkpoints.wait()
    yield tmp_path, checkpoints, facts
    checkpoints.close()


def test_the_same_configuration_goes_on_without_a_remark(run):
    folder, checkpoints, facts = run
    saved = resume.find(checkpoints, facts, folder)
    assert (saved.step, saved.host["at"], saved.remarks) == (4, 4, ())


def test_a_forbidden_change_is_one_message_with_the_way_out(run):
    folder, checkpoints, facts = run
    with pytest.raises(ValueError, match="optim.lr: 0.0003 -> 0.5") as bad:
        resume.find(checkpoints, facts | {"config": plain(optim__lr=0.5)}, folder)
    assert f"launch/export.py --run={folder}" in str(bad.value) and "mesh.*" in str(bad.value)


def test_other_weights_in_the_model_directory_are_an_error_wherever_they_lie(run, tmp_path):
    folder, checkpoints, facts = run
    moved = facts | {"config": plain(model__directory="elsewhere")}
    assert "model.directory" in resume.find(checkpoints, moved, folder).remarks[0]
    with pytest.raises(ValueError, match="'elsewhere' holds other weights"):
        resume.find(checkpoints, moved | {"weights": "v"}, folder)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "m.safetensors").write_bytes(b"same")
    stamp = resume.weights_stamp(str(tmp_path / "a"))
    assert stamp == resume.weights_stamp(str(tmp_path / "b"))
    (tmp_path / "b" / "m.safetensors").write_bytes(b"else")
    assert stamp != resume.weights_stamp(str(tmp_path / "b"))


def test_other_code_is_said(run):
    folder, checkpoints, facts = run
    saved = resume.find(checkpoints, facts | {"code": {"g2rpo_jax": "0.2.0"}}, folder)
    assert saved.remarks == (
        "changed   code: g2rpo_jax 0.1.0, commit abc -> g2rpo_jax 0.2.0 (numbers may differ)",
    )


def test_the_code_is_known_by_version_and_commit(monkeypatch):
    def git(command, **_):
        assert command[0] == "git"
        return subprocess.CompletedProcess(command, 0, stdout="1234abcd-dirty\n")

    monkeypatch.setattr(resume.Path, "exists", lambda path: True)
    monkeypatch.setattr(resume.subprocess, "run", git)
    found = resume.code_version()
    assert found["commit"] == "1234abcd-dirty" and set(found) == {"g2rpo_jax", "jax", "commit"}

    def no_git(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(resume.subprocess, "run", no_git)
    assert set(resume.code_version()) == {"g2rpo_jax", "jax"}


def test_facts_are_json_and_hold_the_whole_configuration():
    config = resolve(variant("tiny"))
    facts = resume.facts(dataclasses.replace(config, seed=7))
    assert json.loads(json.dumps(facts)) == facts and facts["config"]["seed"] == 7
    assert set(facts) == {"config", "weights", "code"}
