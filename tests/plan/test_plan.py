"""The plan of a small run: exact sizes, counts of calls, suggestions, refused flags."""

import dataclasses
import subprocess
import sys
from collections import Counter

import pytest

from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel.mesh import MeshConfig
from g2rpo_jax.plan import advice, cost, faster, hardware, memory, program, report, run, work
from g2rpo_jax.plan.collectives import Collective
from g2rpo_jax.plan.cost import Bucket
from g2rpo_jax.platform import BACKENDS
from g2rpo_jax.train import programs
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
    assert cost.calls_of_step(twice, 16)["score"] == 3  # old of the second, reference of both


def test_a_group_that_leaves_its_node_goes_over_the_network():
    device = dataclasses.replace(hardware.DEVICES["h100"], node=4)
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}

    def speed(*axes):
        return cost.link_speed(Collective("all-reduce", axes, 2, 1, 1), device, mesh)

    assert speed("tensor") == speed("fsdp") == device.link_bytes_s
    assert speed("data") == speed("data", "tensor") == device.network_bytes_s


def counted(call, taken=2**20):
    """Stands for a compiled program."""
    return program.Program(
        name=call.name,
        seconds=0.0,
        arguments=program.argument_bytes(call.args),
        results=0,
        temporaries=taken,
        peak=(memory.Value(taken, "dot.1", "f32[4]", "jit(f)/dot_general", 1, 2),),
        xla_temporaries=taken,
        flops=Counter({"float32": 4 * 10**12}),
        work=work.Work(10.0**12, 10.0**9, 0),
        collectives=(Collective("all-gather", ("fsdp",), 2, 3, 2**21),),
    )


def test_a_middling_step_is_packed_and_has_room_for_one_that_is_not(monkeypatch):
    monkeypatch.setattr(cost, "compile_call", lambda call, mesh: counted(call))
    config = advice.with_fields(RUN, {"batch.packed_shares": (0.5,)})
    mesh, device = meshes.make(RUN.mesh, _devices(4)), hardware.DEVICES["v5e"]

    plan = cost.build(config, SHAPE, device, mesh, BUCKET, response_tokens=8)
    found = {p.name: p.calls for p in plan.phases if p.name.startswith("update")}
    assert found == {"update": 0, "update_packed": 1}
    # 8 rows of a shard x 2 responses x 15 fed tokens: half of them are 120 places.
    made = programs.abstract(config, SHAPE, mesh, BACKENDS["tpu"])
    assert made.packs(8) and not made.packs(9)  # 112 and 128 of them


def test_what_does_not_fit_is_changed_until_it_does(monkeypatch):
    rows_at_hand = {}

    def count(call, mesh):
        """Temporaries grow with the rows at hand."""
        return counted(call, rows_at_hand["update"] * 2**24 if call.name == "update" else 2**20)

    monkeypatch.setattr(cost, "compile_call", count)
    device = dataclasses.replace(hardware.DEVICES["v5e"], memory_gib=0.2, reserve=0.0)

    def build(config, bucket):
        rows_at_hand["update"] = config.batch.prompts // config.batch.microbatches
        return cost.build(config, SHAPE, device, meshes.make(config.mesh, _devices(4)), bucket)

    def exact(config, bucket):
        return cost.arguments(config, SHAPE, device, meshes.make(config.mesh, _devices(4)), bucket)

    plan = build(RUN, BUCKET)  # 16 rows: 256 MiB
    assert not plan.fits
    made = advice.advise(plan, exact, build)
    assert made.plan.fits
    assert [change.fields for change in made.changes] == [{"batch.microbatches": 2}]
    (change,) = made.changes
    assert change.before == plan.phase("update").total
    assert change.after == pytest.approx(made.plan.phase("update").total, rel=0.1)
    text = report.markdown(
        plan, command="c", name="n", advice=made, faster=faster.options(plan), rows=160
    )
    for said in ("does not fit", "--config.batch.microbatches=2", "it fits", "rollout_copy=True"):
        assert said in text
    # 4e12 operations of four devices at 0.3 of a v5e's float32 peak, seen from one of them.
    seconds = 1e12 / 0.3 / device.flops["float32"]
    assert plan.phase("update").seconds(device.shares[0]) == pytest.approx(seconds)


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
