"""Mathematical answers: the plain comparison, and symbolic comparison in a child process."""

import hypothesis as hyp
import math_verify
import pytest
from hypothesis import strategies as st

from g2rpo_jax import rewards
from g2rpo_jax.rewards import math, pool, symbolic, worker
from g2rpo_jax.rewards.parse import Unscorable

OVERRUNS = {
    "tower": "$9^{9^{9^{9}}}$",
    "factorial": "$10000000!$",
    "latex": "$" + "{" * 1000 + "2" + "}" * 1000 + "$",
}


@pytest.fixture(scope="module")
def patient():
    """Time enough for any honest comparison on a busy machine."""
    one = rewards.Scorer(rewards.RewardConfig(deadline_s=60.0, workers=1))
    yield one
    one.close()


def asked(scorer, answer, truth):
    score = scorer.score(f"<answer>{answer}</answer>", truth, "math")
    return score.failure or score.accuracy


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("8657", "8657", 1.0),
        ("$$60$$", "60", 1.0),
        ("\\(60\\)", "60", 1.0),
        ("1,234", "1234", 1.0),
        ("-5.10", "-5.1", 1.0),
        ("+7", "7", 1.0),
        ("1.5e3", "1500", 1.0),
        (".5", "0.5", 1.0),
        ("80.0000001", "80", 1.0),  # six decimals count
        ("80.00001", "80", 0.0),
        ("5", "-5", 0.0),
        ("9" * 100, "9" * 99 + "8", 0.0),
        ("no solution", "no  solution", 1.0),
        ("$\\frac12$", "\\frac12", 1.0),
        ("0.5", "1/2", None),
        ("1,5", "15", None),
        ("x", "2", None),
        ("\uff13", "3", None),
    ],
)
def test_plain_answers_are_compared_without_a_worker(answer, truth, right):
    assert math.equal_if_plain(answer, truth) == right


def test_what_needs_no_reading_is_refused():
    for answer, truth, kind in [
        (" ", "2", "no_expression"),
        ("1" * 10**6, "2", "too_long"),
        ("2", "1" * 10**6, "bad_truth"),
    ]:
        with pytest.raises(Unscorable) as caught:
            math.equal_if_plain(answer, truth)
        assert caught.value.kind == kind


plain = st.one_of(
    st.integers(-10_000, 10_000).map(str),
    st.integers(1000, 9_999_999).map("{:,}".format),
    st.integers(-40, 40).map(lambda i: f"{i / 4:.2f}"),
    st.integers(-40, 40).map(lambda i: f"{i / 4:.4f}"),
)


@hyp.given(plain, plain)
@hyp.settings(max_examples=40)
def test_the_plain_comparison_is_math_verifys(a, b):
    for x, y in ((a, b), (a, a.replace(",", ""))):
        found = math_verify.verify(math_verify.parse(x), math_verify.parse(y))
        assert math.equal_if_plain(y, x) == float(found)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("0.5", "\\frac{1}{2}", 1.0),
        ("\\pi", "$$\\pi $$", 1.0),
        ("\\sqrt{2}/3", "$\\frac{\\sqrt{2}}{3}$", 1.0),
        ("(x+1)^2", "x^2+2x+1", 1.0),
        ("\\boxed{2}", "2", 1.0),
        ("The answer is 2", "2", 1.0),
        ("5 cm^2", "5", 1.0),
        ("x = 3", "3", 1.0),
        ("50%", "0.5", 1.0),
        ("3, 2", "2, 3", 1.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("1 1/2", "1.5", 1.0),
        ("2**10", "1024", 1.0),
        ("2", "3", 0.0),
        ("(1, 3)", "(1,2)", 0.0),
        ("\\frac{1}{3}", "\\frac{1}{2}", 0.0),
        # Bare formulas of which math-verify by itself reads one number.
        ("2", "2^{10}", 0.0),
        ("2x", "2", 0.0),
        ("3", "2, 3", 0.0),
        ("3", "x > 3", 0.0),
        ("2\\pi", "2", 0.0),
        # Nothing to compare.
        ("no idea", "2", "no_expression"),
        ("\ud800\x00", "2", "no_expression"),
        ("2", "no idea", "bad_truth"),
    ],
)
def test_expressions_are_compared_by_the_worker(patient, answer, truth, right):
    assert asked(patient, answer, truth) == right


def test_an_overrun_scores_nothing_and_the_rest_of_its_batch_is_scored():
    # One child, so that what follows an overrun in its queue has to be asked again.
    scorer = rewards.Scorer(rewards.RewardConfig(deadline_s=2.0, workers=1))
    honest = [(f"<answer>{i}/8</answer>", f"{i / 8}", "math") for i in range(1, 5)]
    hostile = [(f"<answer>{text}</answer>", "2", "math") for text in OVERRUNS.values()]
    mixed = [item for pair in zip(hostile, honest, strict=False) for item in pair] + hostile[-1:]
    scores = scorer.score_batch(mixed)
    for item, score in zip(mixed, scores, strict=True):
        if item in honest:
            assert score.accuracy == 1.0
        else:
            # some are refused at once, which is as well
            assert score.accuracy == 0.0
    # equal pairs are asked once, and each overrun costs one child
    assert scorer.failures["deadline"] >= scorer.replaced - scorer.failures["memory"] > 0
    assert scorer.failures["crash"] == 0
    scorer.close()


def test_an_exception_inside_is_a_kind(monkeypatch):
    child = worker.Child({"mode": "sound", "think_tag": "t", "untagged": True, "custom": []})
    monkeypatch.setattr(symbolic, "expressions", lambda text: 1 / 0)
    assert child.reply({"op": "equal", "answer": "1", "truth": "2"})["kind"] == "not_compared"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ImportError('not here')", "not here.*pip install math-verify"),
        ("import os; os._exit(1)", "do not start .crash.: .*math_verify"),
    ],
)
def test_a_missing_math_verify_is_an_error_not_a_zero(monkeypatch, tmp_path, module, message):
    (tmp_path / "math_verify.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    scorer = rewards.Scorer()
    with pytest.raises(RuntimeError, match=message):
        scorer.score("<answer>1/2</answer>", "0.5", "math")
    scorer.close()


def test_equal_questions_are_asked_once(monkeypatch):
    asked = []

    def run(self, requests):
        asked.extend(requests)
        return [{"accuracy": 1.0}] * len(requests)

    monkeypatch.setattr(pool.Pool, "run", run)
    scorer = rewards.Scorer()
    item = rewards.Item("<answer>1/2</answer>", "0.5", "math")
    for _ in range(2):
        assert [s.accuracy for s in scorer.score_batch([item] * 5)] == [1.0] * 5
    assert [(request["answer"], request["truth"]) for request in asked] == [("1/2", "0.5")]
