"""Every problem type through one contract: finite, in range, fast, and counted."""

import math
import subprocess
import sys
import time

import hypothesis as hyp
import pytest
from hypothesis import strategies as st

from g2rpo_jax import rewards
from g2rpo_jax.rewards import parse

# problem type -> (truth, a right answer, a partly right one and its accuracy or None, no answer)
CASES = {
    "multiple choice": ("B", "(B)", None, "A or B"),
    "numerical": ("1234.5", "1,234.50", None, "lots"),
    "regression": ("10", "10.0", ("9.3", 0.9), "ten"),
    "math": ("60", "$60$", None, "sixty"),
    "OCR": ("a b c d", "a b  c d", ("a b c", 0.75), "?"),
    "spatial grounding": (
        '{"boxes": [0, 0, 10, 10]}',
        '{"boxes": [0, 0, 10.0, 10]}',
        ('{"boxes": [0, 0, 10, 5]}', 0.5),
        '{"boxes": []}',
    ),
}
HOSTILE = [
    "",
    " ",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e-400",
    "9" * 100,
    "9" * 100_000,
    "[" * 100_000,
    '{"boxes":' * 10_000,
    '{"boxes": [NaN, Infinity, -Infinity, 1e400]}',
    '{"boxes": [0, 0, 1e308, 1e308]}',
    '{"boxes": {"0": [0, 0, 1, 1]}}',
    "\u0663\uff13\u00b2\u2460",
    "\ud800",
    "\x00",
    "a " * 500_000,
    "\n" * 1_000_000,
    "(" * 1_000_000,
    "1," * 500_000,
    "</answer><answer>" * 60_000,
    "<thinking>" * 100_000,
    "__import__('os').system('false')",
    "%s%n{0}{1}",
]
hostile_text = st.one_of(
    st.text(st.characters()),
    st.lists(
        st.sampled_from(
            ["<thinking>", "</thinking>", "<answer>", "</answer>", '{"boxes":', "[", "]", "}", ","]
            + ["NaN", "1e400", "-", ".", "9" * 100, "0", " ", "B", "\ud800", "\uff13", "$", "\\"]
        ),
        max_size=30,
    ).map("".join),
)
in_process = sorted(set(rewards.REWARDS) - {"math"})


def respond(answer: str) -> str:
    return f"<thinking>so</thinking>\n<answer>{answer}</answer>"


def check(score: rewards.Score, config: rewards.RewardConfig) -> None:
    assert 0.0 <= score.accuracy <= 1.0 and score.format in (0.0, 1.0)
    assert 0.0 <= score.structure <= (0.5 if score.format else 0.0)
    weight = config.format_weight
    expected = (1 - weight) * score.accuracy + weight * score.format
    expected += score.structure if config.structure else 0.0
    assert math.isclose(score.total, expected, abs_tol=1e-12) and 0.0 <= score.total <= 1.5
    assert score.failure is None or score.failure in parse.KINDS


@pytest.fixture(scope="module")
def scorer():
    one = rewards.Scorer(rewards.RewardConfig(math_timeout_s=1.0))
    yield one
    one.close()


def test_every_problem_type_has_cases():
    assert set(CASES) == set(rewards.REWARDS)


@pytest.mark.parametrize("problem_type", rewards.REWARDS)
def test_right_partly_right_and_wrong(problem_type):
    truth, right, partly, none = CASES[problem_type]
    for answer in (truth, f"<answer>{truth}</answer>"):
        full = {"accuracy": 1.0, "format": 1.0, "structure": 0.5, "total": 1.5}
        assert rewards.score(respond(right), answer, problem_type.upper()) == full
        if partly:
            score = rewards.score(respond(partly[0]), answer, problem_type)
            assert score["accuracy"] == partly[1]
            assert score["total"] == pytest.approx(0.9 * partly[1] + 0.1 + 0.5)
        wrong = rewards.score(respond(none), answer, problem_type)
        assert wrong["accuracy"] == 0.0 and wrong["format"] == 1.0


@pytest.mark.parametrize("problem_type", rewards.REWARDS)
def test_malformed_responses_keep_accuracy_and_lose_format_and_structure(problem_type):
    truth, right, _, _ = CASES[problem_type]
    for response in (right, f"<answer>{right}</answer>", respond(right) + "."):
        score = rewards.score(response, truth, problem_type)
        assert (score["accuracy"], score["format"], score["structure"]) == (1.0, 0.0, 0.0)
        assert score["total"] == pytest.approx(0.9)


@pytest.mark.parametrize("wrap", [str, respond], ids=["bare", "tagged"])
@pytest.mark.parametrize("problem_type", in_process)
def test_hostile_answers_are_finite_and_quick(scorer, problem_type, wrap):
    truth = CASES[problem_type][0]
    start = time.process_time()
    for answer in HOSTILE:
        check(scorer.score(wrap(answer), truth, problem_type), scorer.config)
    assert time.process_time() - start < 0.2 * len(HOSTILE)


def test_hostile_math_answers_are_finite_within_the_deadline(scorer):
    for answer in HOSTILE:
        start = time.monotonic()
        check(scorer.score(respond(answer), "\\frac{1}{2}", "math"), scorer.config)
        # The deadline, and the start of the worker that an overrun costs on a busy machine.
        assert time.monotonic() - start < scorer.config.math_timeout_s + 20.0


@hyp.given(hostile_text, st.sampled_from(in_process), st.booleans())
@hyp.settings(max_examples=300)
def test_any_text_scores_in_range(text, problem_type, tagged):
    config = rewards.RewardConfig()
    one = rewards.Scorer(config)
    response = respond(text) if tagged else text
    score = one.score(response, CASES[problem_type][0], problem_type)
    check(score, config)
    assert one.failures == ({score.failure: 1} if score.failure else {})
    assert score.failure != "internal_error"


@hyp.given(hostile_text, st.sampled_from(in_process))
def test_any_truth_scores_in_range(text, problem_type):
    config = rewards.RewardConfig()
    score = rewards.Scorer(config).score(respond(CASES[problem_type][1]), text, problem_type)
    check(score, config)
    assert score.failure != "internal_error"


@hyp.given(st.text(st.characters(), max_size=30))
@hyp.settings(max_examples=40)
def test_any_text_scores_in_range_in_math(scorer, text):
    check(scorer.score(respond(text), "2", "math"), scorer.config)


def test_failures_are_counted_by_kind(scorer):
    one = rewards.Scorer()
    items = [
        (respond("3"), "3", "numerical"),
        (respond("4"), "3", "numerical"),
        (respond("many"), "3", "numerical"),
        (respond("few"), "3", "numerical"),
        (respond("1e400"), "3", "numerical"),
        ("3", "3", "numerical"),
        (respond("3"), "three", "numerical"),
        rewards.Item(respond("{}"), '{"boxes": [0, 0, 1, 1]}', "spatial grounding", "image"),
    ]
    scores = one.score_batch(items)
    assert [s.accuracy for s in scores] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert one.failures == {
        "no_number": 2,
        "not_finite": 1,
        "no_answer_tags": 1,
        "bad_truth": 1,
        "no_box": 1,
    }
    assert scores[1].failure is None  # wrong is not a failure


def test_a_bug_in_a_reward_is_counted_and_scores_zero(monkeypatch):
    broken = rewards.Reward(lambda *_: 1 / 0, lambda *_: {}["x"])
    monkeypatch.setitem(rewards.REWARDS, "broken", broken)
    one = rewards.Scorer()
    score = one.score(respond("1"), "1", "broken")
    assert (score.accuracy, score.structure, score.total) == (0.0, 0.0, 0.1)
    assert one.failures == {"internal_error": 1}


def test_options_change_what_they_name():
    def total(**options):
        config = rewards.RewardConfig(**options)
        return rewards.score(respond("B"), "B", "multiple choice", config=config)["total"]

    assert total() == 1.5
    assert total(structure=False) == 1.0
    assert total(think_tag="think") == 0.9  # the response says <thinking>
    half = rewards.RewardConfig(format_weight=0.5)
    assert rewards.score("B", "B", "multiple choice", config=half)["total"] == 0.5
    strict = rewards.RewardConfig(untagged_answers=False)
    assert rewards.score("B", "B", "multiple choice", config=strict)["total"] == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_weight", 1.1),
        ("format_weight", float("nan")),
        ("think_tag", "<think>"),
        ("think_tag", "answer"),
        ("math_timeout_s", 0.0),
        ("math_memory_mb", 16),
    ],
)
def test_bad_options_name_their_field(field, value):
    with pytest.raises(ValueError, match=f"reward.{field}="):
        rewards.RewardConfig(**{field: value})


@pytest.mark.parametrize("name", ["multiple choise", "", "bbox", "segmentation-3d"])
def test_an_unknown_problem_type_is_an_error_with_the_known_ones(name):
    with pytest.raises(ValueError, match="unknown problem_type .*multiple choice"):
        rewards.score("a", "a", name)
    with pytest.raises(ValueError, match="unknown problem_type"):
        rewards.truth_problem("a", name)


def test_a_near_miss_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'multiple choice'"):
        rewards.canonical("multiple choise")


def test_tasks():
    assert len(rewards.TASKS) == 6
    for task in rewards.TASKS:
        assert rewards.task_of(task.upper(), "math") == task
    for absent in (None, "", " ", float("nan")):
        assert rewards.task_of(absent, "ocr") == "OCR"
    with pytest.raises(ValueError, match="unknown task_type 'spatial_reasonin'.*spatial_reasoning"):
        rewards.task_of("spatial_reasonin", "math")


def test_a_rows_answer_must_reach_full_accuracy_itself():
    for problem_type, (truth, *_) in CASES.items():
        assert rewards.truth_problem(truth, problem_type) is None
    for truth, problem_type in [
        ("many", "numerical"),
        ("nan", "regression"),
        ("{}", "spatial grounding"),
        ('{"boxes": [5, 5, 5, 9]}', "spatial grounding"),
        ("", "math"),
    ]:
        assert repr(truth) in rewards.truth_problem(truth, problem_type)


@pytest.mark.parametrize("problem_type", rewards.REWARDS)
def test_two_thousand_scores_a_second(scorer, problem_type):
    truth, right, partly, none = CASES[problem_type]
    none = "61" if problem_type == "math" else none  # plain numbers: no worker
    thoughts = "<thinking>" + "because of this, " * 40 + "</thinking>"
    responses = [f"{thoughts}<answer>{a}</answer>" for a in (right, (partly or (right,))[0], none)]
    items = [rewards.Item(r, truth, problem_type) for r in responses] * 200
    best = math.inf
    for _ in range(3):
        start = time.process_time()
        scorer.score_batch(items)
        best = min(best, time.process_time() - start)
    assert len(items) / best > 2000


def test_importing_the_rewards_brings_no_jax_and_no_sympy():
    code = (
        "import sys, g2rpo_jax.rewards\n"
        "print([m for m in ('jax', 'numpy', 'sympy', 'math_verify', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
