"""Rewards by dotted path: found at the start, contained at work."""

import pytest

from g2rpo_jax import rewards
from g2rpo_jax.rewards import custom

MODULE = """
import json, os, sys, time
import helper_beside  # in the same folder

def length(response, answer, problem_type, data_type):
    return len(response) / 1000

def parts(response, answer, problem_type, data_type):
    return {"accuracy": 0.25, "format": 0.5, "structure": 0.75}

def only_format(response, answer, problem_type, data_type):
    return {"accuracy": 1, "format": 0}

def only_mine(response, answer, problem_type, data_type):
    return 0.125 if problem_type == "OCR" else None

def told(response, answer, problem_type, data_type):
    assert (answer, problem_type, data_type) == ("7", "numerical", "video"), answer
    return 1.0

def as_said(response, answer, problem_type, data_type):
    if response == "raise":
        raise ValueError("no")
    if response == "quit":
        sys.exit(0)
    if response == "recurse":
        return as_said("recurse", answer, problem_type, data_type)
    if response == "unprintable":
        raise Unprintable()
    if response == "sleep":
        time.sleep(100)
    return eval(response)  # the test's own texts

class Unprintable(Exception):
    def __str__(self):
        raise OSError

not_callable = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "helper_beside.py").write_text("")
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "needy_module.py").write_text("import not_installed_anywhere")
    (tmp_path / "math.py").write_text("raise RuntimeError('not the standard library')")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def scorer():
    made = []

    def make(name, by_task=None, **options):
        path = f"my_module:{name}" if name else ""
        made.append(rewards.Scorer(rewards.RewardConfig(custom=path, **options), by_task))
        return made[-1]

    yield make
    for one in made:
        one.close()


def respond(answer):
    return f"<thinking>so</thinking><answer>{answer}</answer>"


def test_a_number_is_the_accuracy(scorer):
    response = respond("7")
    score = scorer("length").score(response, "7", "numerical")
    accuracy = len(response) / 1000
    assert score == rewards.Score(accuracy, 1.0, 0.5, 0.9 * accuracy + 0.1 + 0.5)


def test_a_dict_names_the_parts_and_built_in_rewards_fill_the_rest(scorer):
    score = scorer("parts").score("anything", "7", "numerical")
    assert (score.accuracy, score.format, score.structure) == (0.25, 0.5, 0.75)
    assert score.total == pytest.approx(0.9 * 0.25 + 0.1 * 0.5 + 0.75)
    score = scorer("only_format").score(respond("x"), "7", "numerical")
    assert (score.accuracy, score.format, score.structure) == (1.0, 0.0, 0.5)


def test_none_leaves_it_to_the_built_in_reward(scorer):
    one = scorer("only_mine")
    items = [(respond("7"), "7", "numerical"), (respond("7"), "7", "OCR")]
    items += [(respond("1/2"), "0.5", "math"), (respond("8"), "7", "numerical")]
    assert [s.accuracy for s in one.score_batch(items)] == [1.0, 0.125, 1.0, 0.0]
    assert not one.failures


def test_a_reward_is_told_the_answer_without_its_tags(scorer):
    score = scorer("told").score("x", "<answer> 7 </answer>", "Numerical", "video")
    assert score.accuracy == 1.0 and score.failure is None


def test_a_task_may_have_its_own(scorer):
    by_task = {
        "mine": rewards.TaskReward(reward="my_module:parts", format_weight=1.0),
        "built in": rewards.TaskReward(reward="OCR"),
    }
    one = scorer("only_format", by_task)
    items = [rewards.Item("7", "7", "numerical", task=task) for task in ("mine", "built in", "")]
    scores = one.score_batch(items)
    assert [s.accuracy for s in scores] == [0.25, 1.0, 1.0]
    assert scores[0].total == 0.5 + 0.75
    assert [s.failure for s in scores] == [None, "no_answer_tags", None]


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("0", None),
        ("True", None),
        ("1", None),
        ("__import__('decimal').Decimal('0.5')", None),
        ("float('nan')", "bad_value"),
        ("float('inf')", "bad_value"),
        ("-0.001", "bad_value"),
        ("1.001", "bad_value"),
        ("10 ** 400", "bad_value"),
        ("'1'", "bad_value"),
        ("[1.0]", "bad_value"),
        ("{}", "bad_value"),
        ("{'accuracy': None}", "bad_value"),
        ("{'accuracy': 1.0, 'bonus': 1.0}", "bad_value"),
        ("{'accuracy': 1.0, 'format': float('nan')}", "bad_value"),
        ("raise", "raised"),
        ("quit", "raised"),
        ("recurse", "raised"),
        ("unprintable", "raised"),
        ("print('{}') or os.write(1, b'{}\\n') and 0.5", None),
        ("input()", "raised"),
        ("os.abort()", "crash"),
        ("sleep", "deadline"),
    ],
)
def test_whatever_it_does_the_others_are_scored(scorer, said, failure):
    one = scorer("as_said", deadline_s=1.0)
    scores = one.score_batch([(text, "7", "numerical") for text in ("0.25", said, "0.75")])
    assert [scores[0].accuracy, scores[2].accuracy] == [0.25, 0.75]
    assert scores[1].failure == failure
    assert one.failures == ({failure: 1} if failure else {})
    if failure:
        assert scores[1] == rewards.Score(0.0, 0.0, 0.0, 0.0, failure)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_modul:length", "custom reward 'my_modul:length': there is no module 'my_modul' in "),
        ("my_module:lenght", "has no function 'lenght'; did you mean 'length'"),
        ("my_module:not_callable", "has no function 'not_callable'"),
        ("broken_module:f", "cannot be imported: ZeroDivisionError"),
        ("needy_module:f", "imports 'not_installed_anywhere', which is missing"),
        ("my_module.inner:f", "there is no module 'my_module.inner'"),
    ],
)
def test_a_reward_that_is_not_there_ends_the_run_at_its_start(path, message):
    with pytest.raises(ValueError, match=message):
        rewards.Scorer(rewards.RewardConfig(custom=path))
    with pytest.raises(ValueError, match=message):
        rewards.Scorer(by_task={"a": rewards.TaskReward(reward=path)})


def test_a_stray_file_does_not_stand_in_for_the_standard_library(scorer):
    # math.py in the current folder: math-verify imports math after the custom reward was found.
    assert scorer("only_mine").score(respond("\\frac12"), "0.5", "math").accuracy == 1.0


def test_checked_values():
    assert custom.checked(None) is None
    assert custom.checked(True) == {"accuracy": 1.0}
    assert custom.checked({"accuracy": 1, "structure": 0.5}) == {"accuracy": 1.0, "structure": 0.5}
