"""Each metric against its published rule, written down a second time."""

import io
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from g2rpo_jax.evaluate import extract, metrics
from g2rpo_jax.evaluate.metrics import METRICS, Question
from g2rpo_jax.rewards import REWARDS

CHOICES = {"A": "cat", "B": "dog", "C": "horse"}


def ask(*truths, **fields):
    return Question(tuple(truths), **fields)


# --- multiple choice, exact, containment, short answers


def test_multiple_choice_takes_letter_or_text_as_truth():
    for truth in ("B", "(B)", "dog", "Dog."):
        assert metrics.multiple_choice("The answer is B.", ask(truth, choices=CHOICES)) == 1
        assert metrics.multiple_choice("a horse", ask(truth, choices=CHOICES)) == 0


def test_multiple_choice_without_listed_options_reads_letters():
    assert metrics.multiple_choice("Answer: D", ask("D")) == 1
    assert metrics.multiple_choice("A dog sits there", ask("A")) == 0


def test_exact_and_contains():
    assert metrics.exact("  New-York! ", ask("new-york")) == 1
    assert metrics.exact("New York City", ask("New York", "NYC")) == 0
    assert metrics.contains("It is New York City.", ask("Boston", "new york")) == 1
    assert metrics.contains("newyorker", ask("new york")) == 0
    assert metrics.contains("scatter", ask("cat")) == 0
    assert metrics.contains("anything", ask("")) == 0


@pytest.mark.parametrize(
    "answer, truth, right",
    [
        ("The total is 1,234.", "1234", 1),
        ("3.141", "3.14", 1),
        ("3.15", "3.14", 0),
        ("12%", "12", 1),
        ("green", "Green", 1),
        ("The line is green.", "green", 1),
        ("red", "green", 0),
        (" ".join(["green or red or blue"] * 9), "green", 0),
    ],
)
def test_short_answers(answer, truth, right):
    assert metrics.short_answer(answer, ask(truth)) == right


# --- ChartQA


@pytest.mark.parametrize(
    "answer, truth, right",
    [
        ("105", "100", 1),  # within 5%, the end included
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("2018", "2019", 1),  # years are numbers, too
        ("10%", "10%", 1),
        ("0.1", "10%", 1),
        ("10%", "10", 0),  # 0.1 against 10
        ("-5", "5", 0),
        ("0", "0", 1),
        ("0.0", "0", 0),  # no relative error: texts
        ("Yes", "yes", 1),
        ("yes.", "yes", 0),
        ("1,000", "1000", 0),  # the published code reads no separators
        ("nan", "1", 0),
        ("inf", "1", 0),
        ("Blue", "Green", 0),
    ],
)
def test_relaxed_accuracy_by_hand(answer, truth, right):
    assert metrics.relaxed(answer, ask(truth)) == right


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(0, 3))
def test_relaxed_accuracy_is_five_percent_of_the_truth(said, truth, places):
    said, truth = Fraction(said, 10**places), Fraction(truth, 10**places)
    assume(truth and abs(said - truth) != Fraction(1, 20) * abs(truth))  # there floats decide
    close = abs(said - truth) < Fraction(1, 20) * abs(truth)
    texts = f"{float(said):f}", f"{float(truth):f}"
    assert metrics.relaxed(texts[0], ask("no number", texts[1])) == close


# --- DocVQA, InfoVQA


def levenshtein(a: str, b: str) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            cost = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(cost, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


@given(
    st.text("abc ", max_size=12), st.lists(st.text("abC \n", max_size=12), min_size=1, max_size=4)
)
def test_anls_is_one_minus_the_distance_over_the_longer_text(said, truths):
    best = 0.0
    for truth in truths:
        a, b = (" ".join(text.lower().split()) for text in (said, truth))
        similarity = 1 - levenshtein(a, b) / max(len(a), len(b)) if a or b else 1.0
        best = max(best, similarity if similarity >= 0.5 else 0.0)
    assert metrics.anls(said, ask(*truths)) == pytest.approx(best, abs=1e-12)


def test_anls_by_hand():
    assert metrics.anls("Hello  World", ask("hello world")) == 1
    assert metrics.anls("helo", ask("hello")) == pytest.approx(0.8)  # one of five
    assert metrics.anls("ab", ask("abcd")) == 0.5  # at the threshold
    assert metrics.anls("ab", ask("abcde")) == 0
    assert metrics.anls("x", ask("q", "x")) == 1  # the best of several truths
    assert metrics.anls("", ask("")) == 1


# --- OCRBench


def test_ocrbench_is_containment_in_lower_case():
    assert metrics.ocrbench("The word is CENTRE.", ask("Center", "centre")) == 1
    assert metrics.ocrbench("12\n34", ask("12 34")) == 1
    assert metrics.ocrbench("1234", ask("12 34")) == 0
    assert metrics.ocrbench("anything", ask("")) == 0


def test_ocrbench_formulas_keep_their_case_and_lose_their_blanks():
    formula = ask("\\frac { A } { b }", category=metrics.FORMULA)
    assert metrics.ocrbench("It reads \\frac{A}{b}.", formula) == 1
    assert metrics.ocrbench("\\frac{a}{b}", formula) == 0


# --- boxes


@given(
    st.lists(st.integers(0, 20), min_size=4, max_size=4),
    st.lists(st.integers(0, 20), min_size=4, max_size=4),
)
def test_iou_half_counts_pixels(said, right):
    grid = np.zeros((2, 20, 20), bool)
    for plane, (x1, y1, x2, y2) in zip(grid, (said, right), strict=True):
        plane[y1:y2, x1:x2] = True
    both, either = (grid[0] & grid[1]).sum(), (grid[0] | grid[1]).sum()
    solid = grid[0].any() and grid[1].any()
    expected = float(solid and 2 * both >= either)
    scaled = [[50 * v for v in box] for box in (said, right)]  # thousandths
    assume(max(map(max, scaled)) > 1)
    truth = ask(f'{{"boxes": {scaled[1]}}}')
    assert metrics.iou_half(f"The box is {scaled[0]}.", truth) == expected


def test_fractions_and_thousandths_mean_the_same_box():
    for said in ("[0.1, 0.2, 0.5, 0.6]", "[100, 200, 500, 600]"):
        for truth in ("[0.1, 0.2, 0.5, 0.6]", '{"boxes": [100, 200, 500, 600]}'):
            assert metrics.iou_half(said, ask(truth)) == 1
    assert metrics.iou_half("[500, 600, 100, 200]", ask("[100, 200, 500, 600]")) == 0


# --- points


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@given(st.lists(st.tuples(st.integers(-50, 1050), st.integers(-50, 1050)), max_size=6))
def test_points_inside_is_their_share_in_the_mask(points):
    rows, columns = 40, 80
    mask = np.zeros((rows, columns), np.uint8)
    mask[10:30, 20:60] = 255  # x in [0.25, 0.75), y in [0.25, 0.75)
    said = [{"point_2d": list(point)} for point in points]
    assume(not points or max(max(map(abs, p)) for p in points) > 1)
    inside = [250 <= x < 750 and 250 <= y < 750 for x, y in points]
    expected = np.mean(inside) if inside else 0.0
    got = metrics.points_inside(str(said).replace("'", '"'), ask("", region=png(mask)))
    assert got == pytest.approx(expected)


def test_a_broken_mask_scores_nothing_and_raises_nothing():
    assert metrics.points_inside("[[500, 500]]", ask("", region=b"no picture")) == 0


def winding(point, corners) -> bool:
    """By the sum of the angles under which the sides are seen."""
    total = 0.0
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        a = math.atan2(y1 - point[1], x1 - point[0])
        b = math.atan2(y2 - point[1], x2 - point[0])
        total += (b - a + math.pi) % (2 * math.pi) - math.pi
    return abs(total) > math.pi


@given(
    st.integers(3, 9),
    st.integers(0, 10**6),
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
)
def test_in_polygon_is_the_winding_number_of_star_shaped_polygons(count, seed, at):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    assume(np.diff(angles, append=angles[0] + 2 * math.pi).max() < 3)
    radius = rng.uniform(0.1, 0.5, count)
    corners = tuple(zip(0.5 + radius * np.cos(angles), 0.5 + radius * np.sin(angles), strict=True))
    point = (at[0] / 1000 + 1e-4, at[1] / 1000 + 1e-4)
    assert metrics.in_polygon(point, corners) == winding(point, corners)


def test_robospatial_by_hand():
    square = "[(0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4)]"
    assert metrics.robospatial('[{"point_2d": [200, 300]}]', ask(square)) == 1
    assert metrics.robospatial("(0.2, 0.3)", ask(square)) == 1
    assert metrics.robospatial("(0.5, 0.3), (0.2, 0.3)", ask(square)) == 0  # the first counts
    assert metrics.robospatial("I cannot tell", ask(square)) == 0
    assert metrics.robospatial("Yes, it can.", ask("Yes")) == 1
    assert metrics.robospatial("No.", ask("yes")) == 0
    assert metrics.robospatial("yesterday", ask("yes")) == 0


# --- relations


@pytest.mark.parametrize(
    "answer, truth, right",
    [
        ("The cup is to the left of the plate.", "left", 1),
        ("The cup is to the left of the plate.", "to the right of", 0),
        ("left or right", "left", 0),
        ("It is underneath the table", "below", 1),
        ("in front of", "front", 1),
        ("It stands behind", "in front of", 0),
        ("on the left", "left", 1),
        ("above and to the left", "left above", 1),
        ("to the left", "left above", 0),
        ("further away", "far", 1),
        ("overlapping", "overlapping", 1),
        ("touching", "overlapping", 0),
    ],
)
def test_relations_in_words(answer, truth, right):
    assert metrics.relation(answer, ask(truth)) == right


def test_relations_as_choice_and_as_yes_or_no():
    choices = {"A": "left", "B": "right"}
    assert metrics.relation("The answer is (B)", ask("B", choices=choices)) == 1
    assert metrics.relation("Yes, to the left", ask("yes")) == 1


# --- numbers


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_mra_is_the_share_of_thresholds_met(said, truth):
    assume(abs(truth) > 1e-3)
    said, truth = float(f"{said:.6f}"), float(f"{truth:.6f}")
    error = abs(said - truth) / abs(truth)
    thresholds = [0.5 + 0.05 * i for i in range(10)]
    assume(all(abs(error - (1 - t)) > 1e-9 for t in thresholds))
    expected = np.mean([error < 1 - t for t in thresholds])
    assert metrics.mra(f"about {said:.6f}", ask(f"{truth:.6f}")) == pytest.approx(expected)


def test_mra_without_a_number_is_zero():
    assert metrics.mra("many", ask("5")) == 0
    assert metrics.mra("5", ask("many")) == 0


def test_math_compares_plain_answers_itself_and_leaves_the_rest_to_the_worker():
    assert metrics.free_form_math("0.50", ask("0.5")) == 1
    assert metrics.free_form_math("the answer is \\boxed{7}", ask("8")) == 0
    assert metrics.free_form_math("x+1", ask("1+x")) == "math"
    with_choices = ask("B", choices=CHOICES)
    assert METRICS["choice_or_math"]("B", with_choices) == 1
    assert METRICS["choice_or_math"]("7", ask("7")) == 1
    assert METRICS["choice_or_short"]("It is 7", ask("7")) == 1


# --- the contract of the table

hostile = st.one_of(
    st.text(),
    st.text(alphabet="AB().*:{}[],0123456789 %\\\"'<>answeris\n-", max_size=300),
    st.builds(lambda part, n: part * n, st.text(min_size=1, max_size=8), st.integers(1, 3000)),
)
QUESTIONS = (
    ask("B", choices=CHOICES),
    ask("12", "13"),
    ask("[(0.1, 0.1), (0.4, 0.1), (0.4, 0.4)]"),
    ask('{"boxes": [1, 2, 300, 400]}', problem_type="spatial grounding"),
    ask("yes"),
)


@pytest.mark.parametrize("name", METRICS)
@given(answer=hostile)
def test_every_metric_is_a_score_for_any_text(name, answer):
    for question in QUESTIONS:
        score = METRICS[name](extract.answer_of(answer), question)
        if isinstance(score, str):
            assert score in REWARDS or score == "open-ended"
        else:
            assert 0.0 <= score <= 1.0


@given(hostile)
def test_no_truth_raises_either(truth):
    for name in METRICS:
        if name not in ("math", "choice_or_math"):  # a row's own truth is checked when it is read
            METRICS[name]("(B) 12 [1, 2, 3, 4] yes left", ask(truth))


LONG = ("a" * 10**6, "1" * 10**6, "(" * 10**6, "[1," * 10**5, "answer is " * 10**5, "A. " * 10**5)


@pytest.mark.parametrize("name", METRICS)
def test_a_megabyte_is_bounded_work(name):
    started = time.perf_counter()
    for text in LONG:
        for question in (*QUESTIONS, ask("a" * 9000)):
            METRICS[name](extract.answer_of(text), question)
    assert time.perf_counter() - started < 15  # 36 megabytes; one takes milliseconds
