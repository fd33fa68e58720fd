"""Counting in compiled programs: what is parsed, alive, multiplied and sent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from g2rpo_jax.plan import hlo, memory
from g2rpo_jax.plan.collectives import collectives
from g2rpo_jax.plan.flops import product_flops
from g2rpo_jax.plan.work import work

F32, F16 = jnp.float32, jnp.float16


def compiled(function, *args, **options):
    """(its jaxpr, XLA's compiled program, the same parsed)."""
    traced = jax.jit(function, **options).trace(*args)
    done = traced.lower().compile()
    return traced.jaxpr, done, hlo.parse(done.as_text())


def shape(*dims, dtype=F32, sharding=None):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.asarray(jax.devices()).reshape(1, 4, 2), ("data", "fsdp", "tensor"))


def layers(w_nDD, x_BD):
    """A stack of layers in a scan, as the model has them."""

    def layer(x_BD, w_DD):
        return jax.nn.silu(jnp.matmul(x_BD, w_DD, preferred_element_type=F32).astype(x_BD.dtype))

    return jax.lax.scan(lambda x, w: (layer(x, w), None), x_BD, w_nDD)[0]


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("nothing of the kind")


def test_tuples_brackets_and_trip_counts_are_read():
    line = (
        "  ROOT %while.7 = (s32[], (f32[2,3]{1,0}, pred[]), /*index=2*/bf16[4]{0}) "
        "while(%tuple.1), condition=%c.2, body=%b.3, "
        'backend_config={"known_trip_count":{"n":"36"}}'
    )
    text = f"ENTRY %main (p: f32[]) -> f32[] {{\n{line}\n}}\n"
    loop = hlo.parse(text).entry.instructions[0]
    assert (loop.opcode, loop.operands, loop.trips) == ("while", ("tuple.1",), 36)
    assert (loop.called("body"), loop.called("condition")) == ("b.3", "c.2")
    assert loop.widths == (1, 2, 1)
    assert [a.bytes for a in loop.arrays] == [4, 24, 1, 8]


def test_products_of_a_scan_count_as_often_as_it_runs():
    jaxpr, _, module = compiled(layers, shape(5, 32, 32), shape(16, 32))
    expected = 5 * 2 * 16 * 32 * 32
    assert product_flops(jaxpr) == {"float32": expected}
    assert work(module).flops == expected
    # Two operands in, one result out, each time.
    assert work(module).bytes == 5 * 4 * (32 * 32 + 2 * 16 * 32)


def test_products_that_are_computed_again_are_counted_again():
    def loss(w, x, remat):
        def body(x):
            return jnp.tanh(jnp.tanh(x @ w) @ w)

        return (jax.checkpoint(body) if remat else body)(x).sum()

    args = shape(32, 32), shape(16, 32)
    one = 2 * 16 * 32 * 32
    counts = [
        product_flops(jax.jit(jax.grad(functools.partial(loss, remat=r))).trace(*args).jaxpr)
        for r in (False, True)
    ]
    # Two forward, two for the weights, one for the value between them; or two again.
    assert [c["float32"] for c in counts] == [5 * one, 7 * one]


def test_flops_agree_with_xla_where_there_is_no_loop():
    def two(a, b):
        return jnp.einsum("bij,bjk->bik", a, b) @ b[0]

    jaxpr, done, module = compiled(two, shape(3, 64, 128), shape(3, 128, 128))
    said = done.cost_analysis()
    said = said[0] if isinstance(said, list) else said
    assert product_flops(jaxpr).total() == work(module).flops
    assert said["flops"] == pytest.approx(work(module).flops, rel=0.01)


def test_a_loop_without_a_known_end_is_refused():
    def until(x):
        return jax.lax.while_loop(lambda x: x.sum() < 1e3, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="depends on data"):
        product_flops(jax.jit(until).trace(shape(8, 8)).jaxpr)


def test_collectives_are_found_with_their_axes_counts_and_bytes(mesh):
    def place(*spec):
        return NamedSharding(mesh, PartitionSpec(*spec))

    def function(w_nDF, x_BD):
        def layer(x_BD, w_DF):
            w_DF = jax.lax.with_sharding_constraint(w_DF, place(None, "tensor"))  # over fsdp
            y_BF = jax.lax.with_sharding_constraint(x_BD @ w_DF, place("fsdp", "tensor"))
            x_BD = jax.lax.with_sharding_constraint(y_BF @ w_DF.T, place("fsdp"))  # over tensor
            return x_BD, None

        return jax.lax.scan(layer, x_BD, w_nDF)[0]

    _, _, module = compiled(
        function,
        shape(3, 32, 64, sharding=place(None, "fsdp", "tensor")),
        shape(16, 32, sharding=place("fsdp")),
    )
    found = {(c.kind, c.axes): c for c in collectives(module, mesh.shape)}
    gathered = found["all-gather", ("fsdp",)]
    assert (gathered.group, gathered.count, gathered.bytes) == (4, 3, 3 * 32 * 32 * 4)
    assert gathered.wire_bytes == gathered.bytes * 3 / 4
    reduced = found["all-reduce", ("tensor",)]
    assert (reduced.group, reduced.count, reduced.bytes) == (2, 3, 3 * 4 * 32 * 4)
    assert reduced.wire_bytes == reduced.bytes
    assert len(found) == 2


@pytest.mark.parametrize(
    "groups, axes, size",
    [
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("fsdp",), 4),
        ("replica_groups=[4,2]<=[8]", ("tensor",), 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("fsdp",), 4),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", ("tensor",), 2),
        ("replica_groups={}", ("data", "fsdp", "tensor"), 8),
    ],
)
def test_every_way_of_writing_groups_is_understood(groups, axes, size):
    text = (
        "ENTRY %main (p: f32[64]) -> f32[64] {\n"
        "  %p.1 = f32[64]{0} parameter(0)\n"
        f"  ROOT %r = f32[64]{{0}} all-reduce(%p.1), channel_id=1, {groups}, to_apply=%add\n}}\n"
    )
    (found,) = collectives(hlo.parse(text), {"data": 1, "fsdp": 4, "tensor": 2})
    assert (found.axes, found.group, found.bytes) == (axes, size, 256)


def test_the_peak_agrees_with_xlas_own_assignment():
    def loss(w_nDD, x_BD):
        return layers(w_nDD, x_BD).sum()

    args = shape(6, 256, 256), shape(2048, 256)
    _, done, module = compiled(jax.grad(loss), *args)
    found, said = memory.peak(module), done.memory_analysis().temp_size_in_bytes
    assert found.bytes == pytest.approx(said, rel=0.15)
    assert found.values[0].bytes >= 2048 * 256 * 4
    assert sum(v.bytes for v in found.values) == found.bytes


def test_sixteen_bits_take_half_though_the_cpu_widens_them():
    def loss(w_nDD, x_BD):
        return layers(w_nDD, x_BD).astype(F32).sum()

    peaks, said = {}, {}
    for dtype in (F32, F16):
        _, done, module = compiled(
            jax.grad(loss), shape(6, 256, 256, dtype=dtype), shape(2048, 256, dtype=dtype)
        )
        peaks[dtype] = memory.peak(module).bytes
        said[dtype] = done.memory_analysis().temp_size_in_bytes
    # Between half and a little more (products give float32 before they are narrowed).
    assert 0.45 * peaks[F32] < peaks[F16] < 0.75 * peaks[F32]
    assert peaks[F16] < 0.95 * said[F16]
