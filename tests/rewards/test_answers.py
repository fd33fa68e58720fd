"""Multiple choice, numerical, regression."""

from fractions import Fraction

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards.answers import multiple_choice, numerical, regression
from g2rpo_jax.rewards.parse import Unscorable


@pytest.mark.parametrize(
    "answer",
    ["B", "b", " B ", "B.", "(B)", "**B**", "$B$", "\\boxed{B}", "\\text{B}", "B. no", "B) no"]
    + ["B: no", "(B) no", "`B`", "(B).", "\\boxed{\\text{B}}"],
)
def test_every_way_to_name_an_option(answer):
    assert multiple_choice(answer, "B") == 1.0


@pytest.mark.parametrize(
    "answer",
    ["A", "", "AB", "A or B", "A, B", "BB", "no", "B or not", "A. B", "(A) B", "8", "-B C"],
)
def test_what_does_not_name_the_option(answer):
    assert multiple_choice(answer, "B") == 0.0


def test_options_that_are_no_single_letter():
    assert multiple_choice("A, C", "AC") == 1.0
    assert multiple_choice("A", "AC") == 0.0
    assert multiple_choice("Yes.", "yes") == 1.0
    assert multiple_choice("5", "-5") == multiple_choice("15", "1.5") == 0.0
    assert multiple_choice("B", "B. nonlinear") == multiple_choice("B. nonlinear", "B") == 1.0


def test_a_very_long_choice_is_refused():
    with pytest.raises(Unscorable, match="longer"):
        multiple_choice("B" * 10**6, "B")


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("3", "3", 1.0),
        ("3.0", "3", 1.0),
        ("1,234", "1234", 1.0),
        ("40.334", "40.33", 1.0),
        ("40.34", "40.33", 0.0),
        ("40.336", "40.33", 0.0),
        ("-0.001", "0", 1.0),
        ("-3", "3", 0.0),
        ("9" * 100, "9" * 100, 1.0),
        ("1.7e308", "3", 0.0),
    ],
)
def test_numerical_is_equality_after_rounding_to_two_places(answer, truth, right):
    assert numerical(answer, truth) == right


@pytest.mark.parametrize("answer", ["", "three", "3 m", "NaN", "Infinity", "1e400"])
@pytest.mark.parametrize("accuracy", [numerical, regression])
def test_an_answer_that_is_no_number_is_unscorable(accuracy, answer):
    with pytest.raises(Unscorable):
        accuracy(answer, "3")


@pytest.mark.parametrize("accuracy", [numerical, regression])
def test_a_truth_that_is_no_number_is_the_rows_fault(accuracy):
    with pytest.raises(Unscorable) as caught:
        accuracy("3", "nan")
    assert caught.value.kind == "bad_truth"


def mean_relative_accuracy(answer: Fraction, truth: Fraction) -> Fraction:
    """The formula in exact fractions: mean over t of [|a - y| / |y| < 1 - t]."""
    thresholds = [Fraction(50 + 5 * i, 100) for i in range(10)]
    return Fraction(sum(abs(answer - truth) / abs(truth) < 1 - t for t in thresholds), 10)


hundredths = st.integers(-100_000, 100_000)


@hyp.given(hundredths, hundredths.filter(bool))
def test_regression_is_mean_relative_accuracy(a, y):
    expected = mean_relative_accuracy(Fraction(a, 100), Fraction(y, 100))
    assert regression(f"{a / 100:.2f}", f"{y / 100:.2f}") == float(expected)


@hyp.given(st.integers(1, 10), st.integers(1, 1000), st.sampled_from([-1, 1]))
def test_regression_on_a_threshold_misses_it(k, y, side):
    # A relative error of exactly k / 20 is not below 1 - t = k / 20: k - 1 .. 1 are missed too.
    answer = Fraction(y) * (1 + Fraction(side * k, 20))
    assert regression(f"{float(answer):.2f}", str(y)) == (10 - k) / 10


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("2.55", "2.55", 1.0),
        ("2.60", "2.55", 1.0),  # off by 2 %
        ("9.3", "10", 0.9),  # 7 %: below 0.10 .. 0.50, not below 0.05
        ("6", "10", 0.2),  # 40 %: below 0.50 and 0.45
        ("5", "10", 0.0),
        ("-10", "10", 0.0),
        ("1e300", "10", 0.0),
        ("10", "1e-300", 0.0),
        ("0", "0.0", 1.0),
        ("0.001", "0.0", 0.0),
    ],
)
def test_regression_worked_by_hand(answer, truth, right):
    assert regression(answer, truth) == right
