"""The plan of a small run: exact sizes, counts of calls, suggestions, refused flags."""

import dataclasses
import subprocess
import sys

import pytest

from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel.mesh import MeshConfig
from g2rpo_jax.plan import advice, cost, faster, hardware, report, run
from g2rpo_jax.plan.collectives import Collective
from g2rpo_jax.plan.cost import Bucket
from tests.plan.small import CONFIG, SHAPE

BUCKET = Bucket(64, 0)
RUN = advice.with_fields(
    CONFIG,
    {
        "mesh": MeshConfig(1, 2, 2),
        "batch.prompts": 16,
        "batch.generate_prompts": 8,
        "model.remat": "full",
        "responses": 2,
        "max_tokens": 16,
        "decode_chunk": 4,
    },
)


def test_parameters_and_moments_are_divided_over_all_devices():
    mesh = meshes.make(RUN.mesh, _devices(4))
    whole = meshes.make(MeshConfig(1, 1, 1), _devices(1))
    trn1 = hardware.DEVICES["trn1"]
    parts = cost.arguments(RUN, SHAPE, trn1, mesh, BUCKET)["update"]
    all_of_it = cost.arguments(RUN, SHAPE, trn1, whole, BUCKET)["update"]
    for kind in ("parameters", "optimiser"):
        assert parts[kind] == pytest.approx(all_of_it[kind] / 4, rel=0.05)
    text = SHAPE.text
    assert all_of_it["parameters"] > 4 * text.vocab_size * text.hidden_size
    assert all_of_it["optimiser"] == pytest.approx(2 * all_of_it["parameters"], rel=1e-3)


def test_a_step_calls_every_program_as_often_as_training_does():
    assert cost.calls_of_step(RUN, 16) == {"prefill": 2, "decode": 8, "update": 1}
    assert cost.calls_of_step(RUN, 5)["decode"] == 4  # whole chunks
    twice = advice.with_fields(RUN, {"batch.minibatches": 2, "objective.kl_coefficient": 0.1})
    assert cost.calls_of_step(twice, 16)["score"] == 4  # old and reference


def test_a_group_that_leaves_its_node_goes_over_the_network():
    device = dataclasses.replace(hardware.DEVICES["h100"], node=4)
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}

    def speed(*axes):
        return cost.link_speed(Collective("all-reduce", axes, 2, 1, 1), device, mesh)

    assert speed("tensor") == speed("fsdp") == device.link_bytes_s
    assert speed("data") == speed("data", "tensor") == device.network_bytes_s


@pytest.mark.slow
def test_what_does_not_fit_is_changed_until_it_does():
    roomy = dataclasses.replace(hardware.DEVICES["v5e"], memory_gib=1.0)
    known = {}

    def build(config, bucket, device=roomy):
        mesh = meshes.make(config.mesh, _devices(4))
        return cost.build(config, SHAPE, device, mesh, bucket, known=known)

    plan = build(RUN, BUCKET)
    assert plan.fits
    text = report.markdown(plan, command="c", name="n", faster=faster.options(plan), rows=160)
    assert "It fits" in text and "rollout_copy=True" in text
    # A device in which the update misses by a little: one lever, micro-batches, must do.
    update = plan.phase("update")
    room = 0.8 * update.total / 2**30 / (1 - roomy.reserve)
    tight = dataclasses.replace(roomy, memory_gib=room)
    before = build(RUN, BUCKET, tight)
    assert not before.fits

    def exact(config, bucket):
        return cost.arguments(config, SHAPE, tight, meshes.make(config.mesh, _devices(4)), bucket)

    made = advice.advise(before, exact, lambda config, bucket: build(config, bucket, tight))
    assert made.plan.fits
    assert made.changes[0].fields.keys() == {"batch.microbatches"}
    assert made.plan.config.batch.microbatches > 1
    assert made.plan.phase("update").total < update.total
    assert "does not fit" in report.markdown(before, command="c", name="n", advice=made)


@pytest.mark.parametrize(
    "text, says",
    [
        ("fdsp:4", "unknown axis 'fdsp'; did you mean 'fsdp'"),
        ("fsdp:0", "above 0"),
        ("fsdp:2,fsdp:2", "once"),
    ],
)
def test_a_mesh_that_is_none_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        run.parse_mesh(text)


def test_a_mesh_names_what_it_has():
    assert run.parse_mesh("tensor:8, fsdp:4") == {"data": 1, "fsdp": 4, "tensor": 8}


def test_the_launcher_names_an_unknown_device():
    command = [sys.executable, "launch/plan.py", "--config=configs/onethinker.py"]
    done = subprocess.run(
        [*command, "--mesh=fsdp:4", "--device=trn3"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "trn3" in done.stderr and "trn2" in done.stderr


def _devices(count: int):
    import jax

    return jax.devices()[:count]
