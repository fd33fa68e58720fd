"""Finished responses leave: who sits where afterwards, and that samples do not notice."""

import jax
import numpy as np
import pytest

from g2rpo_jax.metrics import CompileCounter
from g2rpo_jax.models.qwen3_vl import pack
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.rollout.compaction import Seats, ladder, move, steps_down
from g2rpo_jax.rollout.engine import Engine
from g2rpo_jax.rollout.sampler import SamplingConfig
from tests import tiny


def test_first_the_responses_of_a_row_halve_then_the_rows():
    assert ladder(6, 8, 4) == ((6, 8), (6, 4), (6, 2), (6, 1), (3, 1))
    assert ladder(3, 3, 9) == ((3, 3), (3, 2), (3, 1), (2, 1), (1, 1))
    assert ladder(6, 8, 0) == ((6, 8),)


@pytest.mark.parametrize("share", (0.9, 0.6, 0.5, 0.25, 0.1, 0.0))
def test_all_that_is_alive_has_one_seat_in_its_own_shard(share):
    ways, held, G = 2, 6, 5
    rng = np.random.default_rng(int(100 * share))
    shapes, seats = ladder(held, G, 4), Seats.all(ways * held, G)
    finished_PG = rng.random((ways * held, G)) >= share
    down = int(steps_down(finished_PG, shapes[1:], ways))
    assert down == int(jax.jit(steps_down, static_argnums=(1, 2))(finished_PG, shapes[1:], ways))
    assert (down == len(shapes)) == finished_PG.all()
    assert down >= {0.9: 0, 0.6: 0, 0.5: 0, 0.25: 1, 0.1: 2, 0.0: 5}[share]
    if down + 1 < len(shapes):  # the next one has no room in some shard
        smaller = shapes[down + 1]
        needed = -(-(~finished_PG).sum(1) // smaller.responses)
        assert needed.reshape(ways, -1).sum(1).max() > smaller.rows
    alive = {(int(p), int(g)) for p, g in zip(*np.nonzero(~finished_PG), strict=True)}
    from_PG = np.arange(ways * held * G).reshape(ways, -1)  # every slot's own number, by shard
    for shape in shapes[1 : down + 1]:
        to, seats = move(seats, finished_PG, shape, ways)
        assert to.slot_PG.shape == seats.response_PG.shape == (ways * shape.rows, shape.responses)
        seated = [
            (int(row), int(g))
            for row, of in zip(seats.row_P, seats.response_PG, strict=True)
            for g in of
            if g >= 0
        ]
        assert len(seated) == len(set(seated)) and set(seated) == alive
        np.testing.assert_array_equal(to.finished_PG, seats.response_PG < 0)
        # What the device copies is what the host thinks.
        shard_P = np.repeat(np.arange(ways), shape.rows)
        from_PG = from_PG[shard_P[:, None], to.slot_PG]
        expected_PG = seats.row_P[:, None] * G + seats.response_PG
        np.testing.assert_array_equal(from_PG[~to.finished_PG], expected_PG[~to.finished_PG])
        from_PG = from_PG.reshape(ways, -1)
        np.testing.assert_array_equal(seats.row_P // held, shard_P)
        finished_PG = to.finished_PG


def test_samples_are_those_of_a_batch_that_keeps_its_size():
    """The same tokens, near log-probs, fewer slots; and other lengths compile nothing."""
    graphdef, params = tiny.model()
    inputs = pack(tiny.prompts(8), tiny.CONFIG, 12, 8)
    limits = (np.array([2, 9, 0, 5, 11, 3, 1, 4]), np.array([3, 1, 9, 1, 2, 2, 11, 2]))

    def rollouts(mesh, halvings):
        engine = Engine(
            graphdef,
            mesh,
            responses=4,
            max_tokens=11,
            chunk=3,
            sampling=SamplingConfig(),
            eos=(5, 17),
            pad=0,
            halvings=halvings,
        )
        placed = jax.device_put(params, rules.shardings(params, mesh))
        outs = [engine.generate(placed, inputs, range(8), seed=1, limit_P=limits[0])]
        compiles = CompileCounter()
        outs.append(engine.generate(placed, inputs, range(8), seed=2, limit_P=limits[1]))
        assert compiles.count == 0
        return outs, engine.slots

    outs, slots = rollouts(make(MeshConfig(data=1), jax.devices()[:1]), halvings=0)
    smaller, fewer = rollouts(make(MeshConfig(2, 2, 2)), halvings=2)
    for out, small in zip(outs, smaller, strict=True):
        np.testing.assert_array_equal(small.token_PGT, out.token_PGT)
        np.testing.assert_array_equal(small.mask_PGT, out.mask_PGT)
        np.testing.assert_array_equal(small.ended_PG, out.ended_PG)
        np.testing.assert_allclose(small.logp_PGT, out.logp_PGT, rtol=1e-4, atol=1e-5)
    assert slots == 2 * 4 * 3 * 8 * 4 and fewer < 0.7 * slots
