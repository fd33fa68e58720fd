"""Masked reductions against numpy.ma, and what an empty mask gives."""

import hypothesis as hyp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import masked

REDUCTIONS = {"sum": masked.sum, "mean": masked.mean, "std": masked.std}
AXES = [None, 0, 1, (0, 1)]


@st.composite
def masked_arrays(draw):
    shape = draw(st.sampled_from([(1, 1), (3, 5)]))  # each shape is compiled once
    eighths = hnp.arrays(np.int64, shape, elements=st.integers(-80, 80))
    x = draw(eighths).astype(np.float32) / 8
    return x, draw(hnp.arrays(bool, shape))


@hyp.given(masked_arrays(), st.sampled_from(sorted(REDUCTIONS)), st.sampled_from(AXES))
def test_reductions_agree_with_numpy_masked_arrays(arrays, name, axis):
    x, mask = arrays
    reference = getattr(np.ma.array(x.astype(np.float64), mask=~mask), name)(axis=axis)
    expected = np.ma.filled(np.ma.asarray(reference), 0.0)  # ours: an empty mask gives 0
    assert_allclose(REDUCTIONS[name](x, mask, axis=axis), expected, atol=1e-5, rtol=1e-6)


@hyp.given(masked_arrays(), st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
def test_a_masked_value_is_never_read(arrays, poison):
    x, mask = arrays
    dirty = np.where(mask, x, np.float32(poison))
    for reduce in (*REDUCTIONS.values(), masked.center):
        assert_array_equal(reduce(dirty, mask, axis=1), reduce(x * mask, mask, axis=1))


@hyp.given(masked_arrays())
def test_integer_weights_count_as_repetitions(arrays):
    x, _ = arrays
    weight = (np.arange(x.size).reshape(x.shape) % 3).astype(np.float32)
    repeated = np.repeat(x.ravel().astype(np.float64), weight.ravel().astype(int))
    expected = (repeated.mean(), repeated.std()) if repeated.size else (0.0, 0.0)
    assert_allclose(masked.mean(x, weight), expected[0], atol=1e-5)
    assert_allclose(masked.std(x, weight), expected[1], atol=1e-5)


def test_sample_std_divides_by_one_less():
    x = np.array([[1.0, 2.0, 4.0, 9.0]], np.float32)
    mask = np.array([[True, True, True, False]])
    assert_allclose(masked.std(x, mask, axis=1, ddof=1), [np.std([1, 2, 4], ddof=1)], rtol=1e-6)
    assert_array_equal(masked.std(x, x == 1.0, axis=1, ddof=1), [0.0])  # one value has no spread


def test_center_and_std_of_equal_values_are_exactly_zero():
    # In float32, sum([0.1] * 5) / 5 differs from 0.1; over GRPO's 1e-6 that is no longer small.
    for value in (0.1, 0.7, 1 / 3, 0.9):
        x = np.full((1, 5), value, np.float32)
        assert_array_equal(masked.center(x, x > 0, axis=1), np.zeros((1, 5)))
        assert_array_equal(masked.std(x, x > 0, axis=1), [0.0])


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_gradients_are_finite_where_the_mask_is_empty_or_values_tie(name):
    x = np.array([[0.3, 0.3, np.nan], [np.nan, np.nan, np.nan]], np.float32)
    mask = np.array([[True, True, False], [False, False, False]])
    grad = jax.grad(lambda x: jnp.sum(REDUCTIONS[name](x, mask, axis=1)))(jnp.asarray(x))
    assert np.all(np.isfinite(grad))
    assert_array_equal(np.asarray(grad)[~mask], 0.0)


def test_integers_are_reduced_in_float():
    assert masked.sum(np.array([1, 2]), np.array([True, True])).dtype == np.float32


def test_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) but their mask \(3,\)"):
        masked.sum(np.ones((2, 3), np.float32), np.ones(3, bool))
