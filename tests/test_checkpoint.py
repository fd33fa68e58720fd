"""Checkpoints: exact, onto any mesh, and without compiling anything."""

import logging as python_logging
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from g2rpo_jax import checkpoint
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.metrics import CompileCounter
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.train import state
from tests import tiny
from tests.full_disk import full


def placed(mesh_sizes, seed=0):
    _, params = tiny.model(seed)
    mesh = make(MeshConfig(*mesh_sizes))
    # A TrainState: its leaves do not come in the order of their names.
    tree = state.create(params, optax.adam(1e-3))
    return jax.device_put(tree, rules.shardings(tree, mesh))


def test_arrays_and_host_facts_come_back_exactly_on_another_mesh(tmp_path):
    saved = placed((2, 2, 2))
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, saved, {"position": 7, "logps": [0.1, 1 / 3]})
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=2)
    assert again.latest() == 3
    other = placed((1, 8, 1), seed=1)
    got, host = again.restore(3, other)
    tiny.close(got, saved, rtol=0, atol=0)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, got, other)
    assert all(jax.tree.leaves(same))
    assert host == {"position": 7, "logps": [0.1, 1 / 3]}
    again.close()


def test_saving_compiles_nothing(tmp_path):
    tree = placed((8, 1, 1))
    counter = CompileCounter()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, tree, {})
    checkpoints.close()
    assert counter.count == 0


def test_another_model_is_a_clear_error(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"a": jnp.zeros(3)}, {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(ValueError, match="step 1 does not fit this configuration"):
        checkpoints.restore(1, {"a": jnp.zeros(3), "b": jnp.zeros(2)})
    checkpoints.close()


def numbered(step: int):
    """Arrays whose content tells the step; some small, one of 64 KiB that does not compress."""
    noise = np.random.default_rng(step).random((128, 128), np.float32)
    return {"big": jnp.asarray(noise), "small": jnp.full(3, step)}


def write(folder, steps, keep=10, keep_best=0, accuracy=None):
    """Checkpoints of some steps, closed."""
    checkpoints = Checkpoints(folder, keep, keep_best)
    for step in steps:
        checkpoints.save(step, numbered(step), {"step": step}, (accuracy or {}).get(step))
    checkpoints.close()


def test_the_newest_and_the_best_are_kept_across_lives(tmp_path):
    accuracy = {1: 0.5, 2: 0.9, 4: 0.1, 6: 0.2, 7: 0.9}
    write(tmp_path, [1, 2, 3, 4], 2, 1, accuracy)
    write(tmp_path, [5, 6], 2, 1, accuracy)
    reader = Checkpoints(tmp_path, keep=None)
    assert reader.steps() == [2, 5, 6]
    reader.close()
    write(tmp_path, [7, 8, 9], 2, 1, accuracy)  # as good as the best, and newer
    write(tmp_path, [10], 2, 1)
    reader = Checkpoints(tmp_path, keep=None)
    assert reader.steps() == [7, 9, 10] and reader.newest_sound() == 10
    reader.close()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [truncate, flip, lambda path: path.unlink()])
@pytest.mark.parametrize("which", ["arrays/**/d/*", "host/metadata", checkpoint.SEAL])
def test_a_damaged_newest_is_named_put_aside_and_written_again(tmp_path, caplog, which, harm):
    write(tmp_path, [1, 2, 3])
    # Of the files of arrays the largest: Orbax itself reads a flipped bit in it as a number.
    victim = max(tmp_path.glob(f"3/{which}"), key=lambda path: path.stat().st_size)
    harm(victim)
    reader = Checkpoints(tmp_path, keep=None)
    assert reader.newest_sound() == 2 and reader.steps() == [1, 2, 3]  # readers move nothing
    with pytest.raises(ValueError, match="step 3"):
        reader.restore_part(3, {"w": numbered(0)["big"]}, "p")
    reader.close()
    caplog.clear()
    checkpoints = Checkpoints(tmp_path, keep=10)
    assert checkpoints.newest_sound() == 2
    name = victim.relative_to(tmp_path / "3").as_posix()
    said = "step 3 is damaged (" + ("" if name == checkpoint.SEAL else name)
    assert said in caplog.text and "using step 2" in caplog.text
    got, host = checkpoints.restore(2, numbered(0))
    tiny.close(got, numbered(2), rtol=0, atol=0)
    assert host == checkpoints.host(2) == {"step": 2}
    assert checkpoints.steps() == [1, 2] and (tmp_path / checkpoint.ASIDE / "3").is_dir()
    checkpoints.save(3, numbered(3), {})
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=10)
    assert again.newest_sound() == 3
    again.close()


def test_two_damaged_ones_are_skipped_and_all_damaged_is_an_error(tmp_path):
    write(tmp_path, [1, 2, 3])
    for step in (2, 3):
        flip(tmp_path / str(step) / "host" / "metadata")
    checkpoints = Checkpoints(tmp_path, keep=10)
    assert checkpoints.newest_sound() == 1 and checkpoints.steps() == [1]
    checkpoints.close()
    (tmp_path / "1" / "host" / "metadata").unlink()
    checkpoints = Checkpoints(tmp_path, keep=10)
    with pytest.raises(ValueError, match="every checkpoint in .* is damaged") as bad:
        checkpoints.newest_sound()
    assert "step 1: host/metadata is missing" in str(bad.value)
    assert "remove the folder to begin again" in str(bad.value)
    assert (tmp_path / "1").is_dir()  # and nothing was touched
    checkpoints.close()


def test_an_empty_folder_has_no_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", keep=2)
    assert checkpoints.newest_sound() is None and checkpoints.latest() is None
    checkpoints.close()


def test_what_a_killed_save_left_is_not_a_checkpoint_and_goes(tmp_path):
    write(tmp_path, [1])
    left = tmp_path / "2.orbax-checkpoint-tmp" / "arrays.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    reader = Checkpoints(tmp_path, keep=None)
    assert reader.steps() == [1] and left.exists()  # it may be a run that is writing just now
    reader.close()
    write(tmp_path, [2])
    assert not list(tmp_path.glob("*tmp*"))
    reader = Checkpoints(tmp_path, keep=None)
    assert reader.newest_sound() == 2
    reader.close()


# TensorStore tells a loop that has ended of its other writes, which fail too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_reported_once_and_older_checkpoints_stay(tmp_path, caplog):
    caplog.set_level(python_logging.WARNING)
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, numbered(step), {"step": step})
    checkpoints.wait()
    for count, step in enumerate((3, 4), 1):
        with full(20_000):
            checkpoints.save(step, numbered(step), {"step": step})
            deadline = time.monotonic() + 60
            while checkpoints.failures < count and time.monotonic() < deadline:
                checkpoints.poll()
        assert checkpoints.failures == count and "too large" in checkpoints.error.lower()
        assert checkpoints.steps() == [1, 2]
    ours = [r for r in caplog.records if "could not be written" in r.getMessage()]
    assert [r.levelname for r in ours] == ["ERROR"] * 2
    assert "step 3 could not" in ours[0].getMessage() and "is of step 2" in ours[0].getMessage()
    checkpoints.save(5, numbered(5), {"step": 5})
    checkpoints.wait()
    assert checkpoints.error is None and checkpoints.failures == 2
    assert checkpoints.newest_sound() == 5 and checkpoints.steps() == [2, 5]
    assert not list(tmp_path.glob("*tmp*"))  # late writes too: the next save looks again
    checkpoints.close()


def test_a_save_that_cannot_even_begin_is_reported_too(tmp_path, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    checkpoints = Checkpoints(tmp_path, keep=2)
    monkeypatch.setattr(checkpoints._manager, "save", refuse)
    checkpoints.save(1, numbered(1), {})
    assert checkpoints.failures == 1 and "there is no checkpoint yet" in caplog.text
    checkpoints.save(2, numbered(2), {})
    checkpoints.close()
    assert checkpoints.failures == 1 and (tmp_path / "2").is_dir()


def test_several_processes_look_for_room_before_they_write(tmp_path, caplog, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, numbered(1), {})
    checkpoints.wait()
    free = numbered(1)["big"].nbytes  # but not for the small one
    usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=free)
    with monkeypatch.context() as several:
        several.setattr(checkpoint.jax, "process_count", lambda: 2)
        several.setattr(checkpoint.shutil, "disk_usage", lambda folder: usage)
        several.setattr(checkpoint, "_from_first_process", lambda value: value)
        checkpoints.save(2, numbered(2), {})
        assert checkpoints.failures == 1 and checkpoints.steps() == [1]
        assert "step 2 could not be written" in caplog.text and "not enough room" in caplog.text
        with pytest.raises(OSError, match="gone"):  # the others wait: better to end and resume
            checkpoints.failed(2, OSError("gone"))
    checkpoints.close()


def test_a_host_fact_that_json_cannot_hold_is_our_mistake(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(TypeError):
        checkpoints.save(1, numbered(1), {"x": object()})
        checkpoints.wait()


def test_arrays_that_do_not_fit_are_named(tmp_path):
    write(tmp_path, [1])
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.raises(ValueError, match=r"big is float32\[128, 128\] there, float32\[4\] here"):
        checkpoints.restore(1, {"big": jnp.zeros(4), "small": jnp.zeros(3, int)})
    with pytest.raises(ValueError, match="small is only in the checkpoint"):
        checkpoints.restore(1, {"big": numbered(1)["big"]})
    checkpoints.close()


def test_a_seal_notices_every_kind_of_change(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "deep" / "b").write_bytes(bytes(range(256)) * 40_000)  # several blocks
    assert checkpoint.damage(tmp_path) == f"{checkpoint.SEAL} is missing"
    checkpoint.seal(tmp_path)
    (tmp_path / "later").touch()
    assert checkpoint.damage(tmp_path) is None
    flip(tmp_path / "deep" / "b")
    assert checkpoint.damage(tmp_path).startswith("deep/b is not what was written")
    truncate(tmp_path / "a")
    assert checkpoint.damage(tmp_path) == "a has 2 bytes instead of 3"
    (tmp_path / checkpoint.SEAL).write_text('{"a": 3}')
    assert "cannot be read" in checkpoint.damage(tmp_path)
