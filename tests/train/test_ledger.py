"""The parts of all tasks are the whole gradient, however the minibatch is cut or divided."""

import dataclasses
import functools
import types

import jax
import numpy as np
import optax
import pytest

from g2rpo_jax import metrics
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make, row_sharding
from g2rpo_jax.settings import LogConfig
from g2rpo_jax.train import ledger, state
from g2rpo_jax.train.clock import Clock
from g2rpo_jax.train.policy_step import compile_step
from g2rpo_jax.train.trainer import Trainer
from tests import tiny
from tests.train.test_policy_step import CONFIG  # an entropy term on both sides of its band

TASKS = ("a", "b", "c")
RATE = 0.5


@functools.cache
def program(data=1, parts=1):
    config = dataclasses.replace(CONFIG, microbatches=parts)
    graphdef, params = tiny.model()
    mesh = make(MeshConfig(data, 1, 1), jax.devices()[:data])
    return ledger.compile_ledger(graphdef, config, mesh, params, tiny.NOTHING)


def placed(tree, mesh):
    return jax.device_put(tree, rules.shardings(tree, mesh))


def parts(batch, tasks, **cut):
    """Gradients of these tasks, on the host as one vector each, float64."""
    made = program(**cut)
    given = placed(tiny.model()[1], made.mesh), tiny.NOTHING
    given += (jax.device_put(batch, row_sharding(made.mesh)),)
    found = (made.part(*given, np.int32(task)) for task in tasks)
    return [
        np.concatenate([np.float64(x).ravel() for x in jax.tree.leaves(jax.device_get(tree))])
        for tree in found
    ]


def measured(batch, tasks, **cut):
    made = program(**cut)
    given = placed(tiny.model()[1], made.mesh), tiny.NOTHING
    return made.measure(*given, jax.device_put(batch, row_sharding(made.mesh)), tasks)


@functools.cache
def step():
    """The compiled update of `policy_step` with plain SGD: what it takes off is the gradient."""
    graphdef, params = tiny.model()
    mesh = make(MeshConfig(), jax.devices()[:1])
    train = state.create(params, optax.sgd(RATE))
    update = compile_step(graphdef, optax.sgd(RATE), CONFIG, mesh, train, tiny.NOTHING, False)
    return update, train


def updated(batch):
    """The gradient as an update of `policy_step` shows it."""
    update, train = step()
    new = update(train, tiny.NOTHING, batch)[0].params
    moved = jax.tree.map(
        lambda old, now: (np.float64(old) - np.float64(now)).ravel() / RATE, train.params, new
    )
    return np.concatenate(jax.tree.leaves(moved))


@pytest.mark.parametrize("cut", [{}, {"data": 2, "parts": 4}], ids=["whole", "cut"])
def test_the_parts_of_all_tasks_add_up_to_the_whole(cut):
    batch = tiny.batch()
    assert set(batch.task_P) == {-1, 0, 1, 2}
    whole, *each = parts(batch, [ledger.ALL, 0, 1, 2], **cut)
    assert all(np.linalg.norm(one) > 0.05 * np.linalg.norm(whole) for one in each)
    assert np.linalg.norm(sum(each) - whole) <= 1e-6 * np.linalg.norm(whole)


def test_the_whole_is_the_gradient_of_the_update():
    batch = tiny.batch()
    (whole,) = parts(batch, [ledger.ALL])
    # The update is read off float32 parameters of order one.
    assert np.linalg.norm(updated(batch) - whole) <= 1e-4 * np.linalg.norm(whole)


def test_a_part_is_the_gradient_of_the_tasks_rows_alone_under_the_weights_of_all():
    """Without the other rows every token weighs tokens / own tokens as much; advantages take that
    back, in which the clipped loss is linear. Entropy bounds are each task's own anyway."""
    batch = tiny.batch()
    own_P = batch.task_P == 1
    mask_PGT = batch.mask_PGT & own_P[:, None, None]
    alone = dataclasses.replace(
        batch,
        mask_PGT=mask_PGT,
        adv_PG=batch.adv_PG * np.float32(mask_PGT.sum() / batch.mask_PGT.sum()),
        task_P=np.where(own_P, 1, -1).astype(np.int32),
    )
    (part,) = parts(batch, [1])
    assert np.linalg.norm(updated(alone) - part) <= 1e-4 * np.linalg.norm(part)


def test_two_devices_and_micro_batches_measure_the_same():
    batch = tiny.batch()
    one, cut = (measured(batch, {0, 1, 2}, **how) for how in ({}, {"data": 2, "parts": 4}))
    whole, *each = parts(batch, [ledger.ALL, 0, 1, 2])
    for task, part in enumerate(each):
        want = [part @ part, part @ (whole - part), (whole - part) @ (whole - part)]
        scale = whole @ whole
        np.testing.assert_allclose(one[task], want, rtol=1e-4, atol=1e-6 * scale)
        np.testing.assert_allclose(cut[task], want, rtol=1e-4, atol=1e-6 * scale)


def test_a_task_alone_has_the_whole_share_and_no_cosine():
    batch = tiny.batch()
    alone = dataclasses.replace(batch, task_P=np.where(batch.task_P < 0, -1, 2).astype(np.int32))
    found = measured(alone, {2})
    assert found[2][0] > 0 and found[2][1] == found[2][2] == 0
    numbers = ledger.numbers(found, TASKS)
    assert set(numbers) == {"ledger/norm/c", "ledger/share/c"}
    assert numbers["ledger/share/c"] == 1


def test_a_task_without_rows_has_no_gradient():
    batch = tiny.batch()
    other = dataclasses.replace(batch, task_P=np.where(batch.task_P == 1, 0, batch.task_P))
    (part,) = parts(other, [1])
    assert not part.any()


def test_numbers_of_parts_known_in_closed_form():
    """A linear loss sum_k c_k . w: its parts are the c_k, here 3, 4 and 5 long."""
    c = {0: [3.0, 0.0], 1: [0.0, 4.0], 2: [-3.0, -4.0]}
    as_tree = {k: {"x": np.float32(v[:1]), "y": np.float32(v[1:])} for k, v in c.items()}
    whole = {"x": np.float32([0.0]), "y": np.float32([0.0])}
    found = {k: ledger.products(part, whole) for k, part in as_tree.items()}
    numbers = ledger.numbers(found, TASKS)
    for task, length in zip(TASKS, (3, 4, 5), strict=True):
        assert numbers[f"ledger/norm/{task}"] == pytest.approx(length)
        assert numbers[f"ledger/share/{task}"] == pytest.approx(length / 12)
        # They cancel: the rest is always the opposite of the part.
        assert numbers[f"ledger/cosine/{task}"] == pytest.approx(-1)
    whole = {"x": np.float32([3.0]), "y": np.float32([4.0])}  # of the first two alone
    two = ledger.numbers({k: ledger.products(as_tree[k], whole) for k in (0, 1)}, TASKS)
    assert two["ledger/cosine/a"] == two["ledger/cosine/b"] == 0
    silent = ledger.numbers({0: np.zeros(3)}, TASKS)
    assert silent == {"ledger/norm/a": 0}


def test_a_run_looks_every_so_many_steps_at_the_tasks_that_are_there():
    asked = []

    def measure(params, frozen, minibatch, tasks):
        asked.append((params, minibatch, tasks))
        return {task: np.array([4.0, 0.0, 1.0]) for task in tasks}

    trainer = Trainer.__new__(Trainer)
    trainer.config = types.SimpleNamespace(log=LogConfig(ledger_every=3))
    trainer.tasks, trainer.frozen, trainer.clock = TASKS, None, Clock()
    trainer.state = types.SimpleNamespace(params="params")
    trainer.programs = types.SimpleNamespace(ledger=types.SimpleNamespace(measure=measure))
    rows = [types.SimpleNamespace(example=types.SimpleNamespace(task=t)) for t in ("c", "a", "c")]
    logged = []
    for step in range(1, 8):
        trainer._look("minibatch", rows, step)
        logged.append(trainer.ledger)
    assert asked == [("params", "minibatch", {0, 2})] * 2
    assert [bool(numbers) for numbers in logged] == [False, False, True, False, False, True, False]
    names = {f"ledger/{what}/{task}" for what in ("norm", "share", "cosine") for task in "ac"}
    assert set(logged[2]) == names and all(metrics.known(name) for name in names)
    assert logged[2]["ledger/share/a"] == 0.5 and logged[2]["ledger/cosine/a"] == 0
    assert trainer.clock.seconds["ledger"] > 0
