"""What a sweep runs: names, values, baselines, and what is refused before anything starts."""

import json
from pathlib import Path

import pytest

from g2rpo_jax.sweep import plan

TINY = f"{Path(__file__).parents[2]}/configs/onethinker.py:tiny"


def grid(*axes, **rest):
    """A plan as flags say it."""
    asked = dict(config=TINY, common=[], grid=axes, seeds=["0"], baseline=None) | rest
    return plan.parse(plan.from_flags({}, **asked))


def test_a_grid_makes_every_combination_at_every_seed(tmp_path):
    asked = grid(
        "advantage.name=g2rpo,grpo", "optim.lr=1e-4,3e-4", seeds=["0", "7"], common=["steps=50"]
    )
    cells = asked.cells(tmp_path)
    assert [cell.seed for cell in cells] == [0] * 4 + [7] * 4
    assert list(asked.arms)[1] == "advantage=g2rpo,lr=3e-4"
    last = cells[-1]
    assert last.fields == {"advantage.name": "grpo", "optim.lr": 3e-4}
    assert last.folder == tmp_path / "cells/advantage=grpo,lr=3e-4/seed-7"
    assert last.flags[0] == f"--config={TINY}"  # before its fields
    assert {"--config.seed=7", "--config.steps=50"} < set(last.flags)
    for cell in cells:
        its = cell.config
        assert (its.steps, its.seed, its.optim.lr) == (50, cell.seed, cell.fields["optim.lr"])
        assert its.advantage.name == cell.fields["advantage.name"]


def test_names_keep_the_whole_field_where_two_end_alike():
    asked = grid("optim.b1=0.8", "eval.every=5", "checkpoint.every=7,9")
    assert list(asked.arms)[0] == "b1=0.8,eval.every=5,checkpoint.every=7"


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("optim.lr", "1e-4", 1e-4),
        ("optim.lr", "2", 2.0),
        ("steps", "50", 50),
        ("checkpoint.every", "0", 0),
        ("batch.packed_shares", "(0.5,)", (0.5,)),
        ("batch.packed_shares", "(0.25, 0.5)", (0.25, 0.5)),
        ("tasks.ocr.entropy", "(0.15,0.7)", (0.15, 0.7)),
        ("data.train", "embedded:train?rows=64&seed=2", "embedded:train?rows=64&seed=2"),
        ("log.tensorboard", "false", False),
        ("log.tensorboard", "True", True),
    ],
)
def test_a_value_has_its_fields_type_and_is_read_back_from_its_flag(field, text, value):
    asked = grid(common=[f"{field}={text}"])
    assert asked.common == {field: value} and type(asked.common[field]) is type(value)
    again = plan.typed_values(TINY, {field: plan.as_text(value)})
    assert again == {field: value} and type(again[field]) is type(value)


def test_commas_within_brackets_divide_nothing():
    assert plan.split("(0.5,),(0.25, 0.5)") == ["(0.5,)", "(0.25, 0.5)"]
    asked = grid("batch.packed_shares=(0.5,),(0.25,0.5)")
    values = [fields["batch.packed_shares"] for fields in asked.arms.values()]
    assert values == [(0.5,), (0.25, 0.5)]
    assert all("(" not in name and " " not in name for name in asked.arms)  # they are folders


def test_a_file_says_what_flags_say_and_flags_come_on_top(tmp_path):
    said = {
        "config": TINY,
        "set": {"steps": 50, "optim.lr": 1e-4},
        "arms": {"ours": {}, "grpo": {"advantage.name": "grpo", "optim.lr": 3e-4}},
        "grid": {"batch.packed_shares": [[0.5], [0.25, 0.5]]},
        "seeds": [0, 1],
        "baseline": {"batch.packed_shares": [0.5]},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(said))
    content = plan.read_file(tmp_path / "sweep.json")
    asked = plan.parse(plan.from_flags(content, None, ["steps=9"], [], ["3"], None))
    assert list(asked.arms)[2] == "grpo,packed_shares=0.5"
    assert asked.seeds == (3,) and asked.common == {"steps": 9, "optim.lr": 1e-4}
    rates = [config.optim.lr for config in asked.resolved.values()]
    assert rates == [1e-4, 1e-4, 3e-4, 3e-4]  # an arm's own field wins
    plan.write(asked, tmp_path)
    assert plan.parse(plan.read_file(tmp_path / plan.FILE)) == asked


def test_fields_as_a_baseline_pair_arms_that_differ_in_them_alone():
    asked = grid("advantage.name=g2rpo,grpo", "optim.lr=1e-4,3e-4", baseline="advantage.name=grpo")
    assert asked.opponent("advantage=g2rpo,lr=3e-4") == "advantage=grpo,lr=3e-4"
    assert asked.opponent("advantage=g2rpo,lr=1e-4") == "advantage=grpo,lr=1e-4"
    assert asked.opponent("advantage=grpo,lr=1e-4") is None
    # 0.0001 is the same value as 1e-4.
    asked = grid("optim.lr=1e-4,3e-4", baseline="optim.lr=0.0001")
    assert asked.opponent("lr=3e-4") == "lr=1e-4" and asked.opponent("lr=1e-4") is None


def test_an_arms_name_as_a_baseline_stands_against_all_others():
    asked = grid("optim.lr=1e-4,3e-4,1e-3", baseline="lr=3e-4")
    opponents = [asked.opponent(arm) for arm in asked.arms]
    assert opponents == ["lr=3e-4", None, "lr=3e-4"]
    assert grid("optim.lr=1e-4,3e-4").opponent("lr=3e-4") is None


@pytest.mark.parametrize(
    "said, message",
    [
        (dict(config=None), "which configuration"),
        (dict(config="configs/none.py:tiny"), "there is no config file configs/none.py"),
        (dict(config=TINY.replace("tiny", "huge")), "has no variant 'huge'"),
        (dict(grid=["optim.lrr=1"]), "unknown field optim.lrr; did you mean 'lr'"),
        (dict(grid=["optm.lr=1"]), "unknown field optm; did you mean 'optim'"),
        (dict(grid=["optim.lr.x=1"]), "unknown field optim.lr.x: optim.lr is no section"),
        (dict(grid=["optim=1"]), "optim is a section"),
        (dict(grid=["optim.lr=fast"]), "optim.lr.*fast"),
        (dict(grid=["optim.lr"]), "write --grid=FIELD=VALUE"),
        (
            dict(grid=["advantage.name=g2rpo,grppo"]),
            "advantage=grppo: unknown .*mean 'grpo'",
        ),
        (dict(common=["seed=3"]), "set sets seed"),
        (dict(grid=["optim.lr=1e-4,0.0001"]), "lr=1e-4 and lr=0.0001 are the same run"),
        (dict(grid=["data.train=a/b,a:b"]), "two arms would be called train=a_b"),
        (dict(common=["eval.every=0"]), "nothing held out would be compared"),
        (dict(seeds=["0", "0"]), "names one twice"),
        (dict(seeds=["x"]), "give whole numbers"),
        (dict(grid=["optim.lr=1,2"], baseline="optim.lr=3"), "no arm sets this"),
        (dict(grid=["optim.lr=1,2"], baseline="rl=1"), "unknown field rl"),
        (dict(grid=["optim.lr=1,2"], baseline="grpo"), "unknown arm as the baseline 'grpo'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(said, message):
    with pytest.raises(ValueError, match=message):
        grid(*said.pop("grid", []), **said)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"gird": {}}, "unknown key 'gird' of a sweep; did you mean 'grid'"),
        ({"arms": ["a"]}, "'arms' must be an object"),
        ({"arms": {"a": 3}}, "arm a must be an object"),
        ({"arms": {"a": {"steps": None}}}, "None cannot be set"),
        ({"grid": {"steps": 3}}, "grid of steps: give a list"),
        ({"arms": {"..": {}}}, "cannot be a folder"),
        ({"arms": {"a" * 121: {}}}, "cannot be a folder"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        plan.parse({"config": TINY} | content)
