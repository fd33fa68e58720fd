"""pass@k equals its definition by counting; means and errors equal the textbook's."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2rpo_jax.evaluate.statistics import mean_and_error, pass_at


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([i < right for i in range(n)], k))
        expected = sum(map(any, subsets)) / len(subsets)
        assert pass_at(k, n, right) == pytest.approx(expected, abs=1e-12)


def test_pass_at_one_is_the_mean_and_pass_at_n_asks_for_any():
    assert pass_at(1, 8, 3) == pytest.approx(3 / 8)
    assert pass_at(8, 8, 1) == 1.0 and pass_at(8, 8, 0) == 0.0


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match="make more samples"):
        pass_at(k, 4, 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_mean_and_error_are_the_textbooks(values):
    mean, error = mean_and_error(values)
    n = len(values)
    assert mean == pytest.approx(math.fsum(values) / n, abs=1e-12)
    if n == 1:
        assert error == 0.0
    else:
        variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
        assert error == pytest.approx(math.sqrt(variance / n), abs=1e-9)


def test_one_value_has_no_error():
    assert mean_and_error(np.array([0.25])) == (0.25, 0.0)
