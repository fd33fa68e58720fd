"""Multiple choice, numerical, regression, counting, label sets."""

from fractions import Fraction

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax.rewards.answers import (
    choice_subset,
    counting,
    label_set,
    multiple_choice,
    numerical,
    regression,
)
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


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("A, C", "AC", 1.0),
        ("A", "AC", 0.5),
        ("C", "A, C", 0.5),
        ("a", "AC", 0.5),
        ("A, B, C", "AC", 0.0),  # one wrong option spoils it
        ("B", "AC", 0.0),
        ("", "AC", 0.0),
        ("AA", "AC", 0.0),
        ("B. a cat", "BD", 0.5),
        ("B", "B", 1.0),
        ("no", "yes", 0.0),  # words are no options
        ("es", "yes", 0.0),
        ("yes", "yes", 1.0),
    ],
)
def test_a_part_of_the_right_options_earns_its_share(said, right, score):
    assert choice_subset(said, right) == score


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("100", "100", 1.0),
        ("90", "100", 1.4 / 1.5),
        ("110", "100", 1.4 / 1.5),
        ("51", "100", 1.01 / 1.5),
        ("50", "100", 0.0),  # one half is too much
        ("150", "100", 0.0),
        ("0", "100", 0.0),
        ("0", "0", 1.0),
        ("1", "0", 0.0),
        ("1e300", "7", 0.0),
    ],
)
def test_counting_worked_by_hand(said, right, score):
    assert counting(said, right) == pytest.approx(score)


@hyp.given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_nearer_count_earns_no_less(right, a, b):
    near, far = sorted((a, b), key=lambda said: abs(said - right))
    found, worse = counting(str(near), str(right)), counting(str(far), str(right))
    assert 1.0 >= found >= worse >= 0.0
    assert worse == 0.0 or worse > 2 / 3


@pytest.mark.parametrize(
    ("said", "right", "score"),
    [
        ("a; b", "B;A", 1.0),
        ("a", "a; b", 0.5),
        ("a; c", "a; b", 1 / 3),
        ("a\nb;;", "a;b", 1.0),
        ("left axis deviation", "left axis deviation; sinus rhythm", 0.5),
        ("c", "a", 0.0),
    ],
)
def test_label_sets_worked_by_hand(said, right, score):
    assert label_set(said, right) == pytest.approx(score)
    assert label_set(said, right) == label_set(right, said)


def test_what_names_no_labels():
    with pytest.raises(Unscorable) as caught:
        label_set(" ;\n", "a")
    assert caught.value.kind == "no_labels"
    with pytest.raises(Unscorable) as caught:
        label_set("a", ";")
    assert caught.value.kind == "bad_truth"
