"""The second look: what XLA's partitioner makes of a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from g2rpo_jax.neuron import partitioned
from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.parallel.mesh import MeshConfig, make


def compiled(function, *specs, dtype=jnp.float32, shape=(16, 16)):
    """The text of a program on a mesh of 2 x 4 devices."""
    mesh = make(MeshConfig(1, 2, 4))
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for spec in specs
    ]
    jitted = jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return jitted.trace(*shapes).lower().compile().as_text()


def rules(text, **options):
    found = partitioned.lint(text, "program", 8, **options)
    return {finding.rule for finding in found.findings}, found


def test_float_products_over_a_mesh_are_clean_and_counted():
    text = compiled(lambda a, b: a @ b, (None, "tensor"), ("tensor",))
    names, found = rules(text)
    assert not names and found.collectives == {"all-reduce": 1}
    assert found.groups == {((0, 1, 2, 3), (4, 5, 6, 7))}
    assert found.largest[0] == 16 * 16 * 4


def test_an_integer_sum_over_devices_is_an_error():
    text = compiled(lambda a: jnp.sum(a, axis=0), ("fsdp",), dtype=jnp.int32)
    names, found = rules(text)
    assert names == {"sum over devices"} and found.errors


def test_integers_that_only_travel_are_a_warning():
    names, found = rules(compiled(lambda a: a + 1, ("fsdp",), dtype=jnp.int32))
    assert names == {"integers between devices"} and not found.errors


def test_arrays_beyond_the_limit_are_found_where_they_lie_in_memory():
    text = compiled(lambda a, b: a @ b, (None, "tensor"), ("tensor",))
    names, _ = rules(text, limits=Limits(bytes=1000))
    assert names == {"large tensor"}


def test_what_the_cpu_widened_counts_as_it_was():
    line = "x = f32[4,100]{1,0} add(%a, %b)"
    limits = Limits(bytes=1000)
    was = {("bf16", (16, 200))}  # a part of 4 x 2 devices'
    assert rules(line, limits=limits)[0] == {"large tensor"}
    names, found = rules(line, limits=limits, shapes=was)
    assert not names and found.largest == (800, "bf16[4,100]")
    either = {*was, ("f32", (4, 100))}
    too_many, other = {("bf16", (16, 400))}, {("bf16", (400,))}
    for shapes in (either, too_many, other):
        assert rules(line, limits=limits, shapes=shapes)[0] == {"large tensor"}


def test_a_permutation_must_be_a_ring():
    line = "p = f32[4]{0} collective-permute(%%a), source_target_pairs={{0,1},{1,2},%s}"
    ring = "{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}"
    assert not rules(line % ring)[0]
    assert rules(line % "{2,3}")[0] == {"permutation"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x=1", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x=1", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x=1",
            [[0, 4], [1, 5], [2, 6], [3, 7]],
        ),
        ("replica_groups={}, x=1", [list(range(8))]),
    ],
)
def test_replica_groups_in_every_notation(text, expected):
    line = f"%r = f32[4]{{0}} all-reduce(%a), {text}"
    assert rules(line)[1].groups == {tuple(map(tuple, expected))}


def test_too_many_kinds_of_groups():
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(partitioned.COMMUNICATORS + 1):
        a, b = (",".join(map(str, half)) for half in rng.permutation(8).reshape(2, 4))
        lines.append(f"%r = f32[4]{{0}} all-reduce(%a), replica_groups={{{{{a}}},{{{b}}}}}")
    assert rules("\n".join(lines))[0] == {partitioned.GROUPS}
    assert not rules("\n".join(lines[:-1]))[0]


def test_source_lines_come_from_the_tables_at_the_head():
    text = f"""HloModule m

FileNames
1 "/elsewhere/jax/core.py"
2 "{partitioned.PACKAGE}/rollout/sampler.py"

FunctionNames
1 "bind"
2 "sample"

FileLocations
1 {{file_name_id=2 function_name_id=2 line=140 end_line=140 column=4 end_column=9}}
2 {{file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=9}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=2}}

ENTRY %main {{
  %r = s32[4]{{0}} all-reduce(%a), replica_groups=[1,8]<=[8], metadata={{stack_frame_id=2}}
}}
"""
    (finding,) = rules(text)[1].findings
    assert str(finding.place) == "g2rpo_jax/rollout/sampler.py:140"
    assert finding.place.function == "sample"
