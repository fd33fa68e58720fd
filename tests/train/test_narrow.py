"""Rounding by chance: right on average, the same each time, and where nearest would stand still."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from g2rpo_jax.train import narrow


def test_rounded_numbers_are_neighbours_and_right_on_average():
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=64) * 10.0 ** rng.integers(-6, 3, 64))
    draw = jax.jit(lambda count: narrow.rounded(x, jnp.bfloat16, narrow.salt(count)))
    draws = np.stack([np.float32(draw(jnp.int32(count))) for count in range(1024)])
    unit = 2.0 ** (np.floor(np.log2(np.abs(x))) - 7)
    assert (np.abs(draws - x) <= unit).all()
    # Of 1024 independent draws the mean would be off by 1/64 unit at one standard deviation.
    np.testing.assert_allclose((draws.mean(0) - x) / unit, 0, atol=0.06)
    np.testing.assert_array_equal(np.float32(draw(jnp.int32(7))), draws[7])


def test_what_bfloat16_holds_stays():
    x = np.float32([0.0, -0.0, 1.0, -3.5, 2.0**-100, 0.15625])
    for count in range(50):
        got = narrow.rounded(x, jnp.bfloat16, narrow.salt(jnp.int32(count)))
        np.testing.assert_array_equal(np.float32(got), x)


def test_a_float32_parameter_is_updated_as_optax_does():
    rng = np.random.default_rng(1)
    p, u = np.float32(rng.normal(size=(2, 9)))
    got = narrow.apply({"p": p}, {"p": u}, jnp.int32(3))
    np.testing.assert_array_equal(got["p"], optax.apply_updates({"p": p}, {"p": u})["p"])


def test_a_bfloat16_weight_follows_steps_far_below_its_spacing():
    """1000 steps of 2e-6 move weights of 0.02 by 2e-3; rounded to the nearest, by nothing."""
    p = {"p": jnp.linspace(0.017, 0.028, 256).astype(jnp.bfloat16)}
    # Two weights with the same bits and the same step get the same draw: their steps differ.
    u = {"p": jnp.asarray(np.random.default_rng(4).uniform(1.9e-6, 2.1e-6, 256), jnp.float32)}
    assert (optax.apply_updates(p, u)["p"] == p["p"]).all()
    step = jax.jit(lambda p, count: narrow.apply(p, u, count))
    now = p
    for count in range(1000):
        now = step(now, jnp.int32(count))
    moved = np.float32(now["p"]) - np.float32(p["p"])
    np.testing.assert_allclose(moved.mean(), 2e-3, rtol=0.1)


def test_float32_moments_are_those_of_optax():
    rng = np.random.default_rng(2)
    params = {"p": np.float32(rng.normal(size=5))}
    ours, theirs = narrow.adam(0.9, 0.99, 1e-8, "float32"), optax.scale_by_adam(0.9, 0.99, 1e-8)
    a, b = ours.init(params), theirs.init(params)
    for _ in range(3):
        grads = {"p": np.float32(rng.normal(size=5))}
        (u, a), (v, b) = ours.update(grads, a), theirs.update(grads, b)
        jax.tree.map(np.testing.assert_array_equal, (u, tuple(a)), (v, (b.count, b.mu, b.nu)))


def test_bfloat16_moments_stay_near_float32_where_nearest_would_stand_still():
    """b2 = 0.999: a second moment of gradients ten times smaller than before must still decay."""
    params = {"p": jnp.zeros(512)}
    tx, reference = narrow.adam(0.9, 0.999, 1e-8, "bfloat16"), optax.scale_by_adam(0.9, 0.999, 1e-8)
    a, b = tx.init(params), reference.init(params)
    assert {x.dtype for x in jax.tree.leaves((a.mu, a.nu))} == {jnp.dtype(jnp.bfloat16)}
    step_a, step_b = jax.jit(tx.update), jax.jit(reference.update)
    rng = np.random.default_rng(3)
    for number in range(600):
        scale = 1.0 if number < 200 else 0.1
        grads = {"p": np.float32(scale * rng.normal(size=512))}
        (_, a), (_, b) = step_a(grads, a), step_b(grads, b)
    np.testing.assert_allclose(np.float32(a.nu["p"]).mean(), np.mean(b.nu["p"]), rtol=0.02)
    np.testing.assert_allclose(np.float32(a.nu["p"]), b.nu["p"], rtol=0.2)


def test_the_draws_of_one_update_are_spread_over_the_numbers():
    """Of numbers that differ, as many are rounded up at any one update as should be."""
    x = jnp.asarray(np.random.default_rng(5).uniform(1, 1.9921875, 2**14), jnp.float32)
    up = np.float32(x) - np.float32(
        jax.lax.bitcast_convert_type(
            jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000), jnp.float32
        )
    )
    for count in range(20):
        got = narrow.rounded(x, jnp.bfloat16, narrow.salt(jnp.int32(count)))
        error = (np.float32(got) - np.float32(x)) * 128
        # 16,384 independent draws would give a mean of 0.003 at one standard deviation, and
        # no correlation with what was cut off.
        assert abs(error.mean()) < 0.012
        assert abs(np.corrcoef(error, up)[0, 1]) < 0.04
