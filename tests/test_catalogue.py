"""docs/methods.md is what the tables say; docstrings are read as they are written."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from g2rpo_jax.catalogue import entries as catalogue
from g2rpo_jax.catalogue.page import PAPERS, page, reached
from g2rpo_jax.catalogue.paper import Paper
from g2rpo_jax.config import RunConfig

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_tables_say():
    text = (DOCS / "methods.md").read_text()
    assert text == page(), "run python -m g2rpo_jax.catalogue"
    rows = [line for line in text.split("## By paper")[0].splitlines() if line.startswith("| `")]
    assert len(rows) >= 30
    # Every cell is closed: bars inside are escaped.
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_every_table_that_a_method_is_chosen_from_has_a_section():
    listed = {(section.table.split(":")[1], section.field) for section in catalogue.SECTIONS}
    for name in ("advantage", "objective", "shaping", "filter", "selection", "curriculum"):
        section = getattr(RunConfig(), name, None)
        source = "".join(
            inspect.getsource(cls.__post_init__)
            for cls in type(section).__mro__
            if "__post_init__" in vars(cls)
        )
        for table, field in re.findall(r"lookup\(\s*([A-Z_]+),\s*self\.(\w+)", source):
            assert (table, f"{name}.{field}") in listed or table in OPTIONS, table


# Choices inside one method, which its own docstring tells.
OPTIONS = ("REC_MASKS", "REC_WEIGHTS", "IMPORTANCE_LEVELS")


def test_sections_name_fields_of_the_configuration():
    for section in catalogue.SECTIONS:
        owner, field = section.field.rsplit(".", 1)
        owner = RunConfig().tasks["ocr"] if owner == "tasks.NAME" else getattr(RunConfig(), owner)
        assert field in {one.name for one in dataclasses.fields(owner)}, section.field


def documented(function):
    return catalogue.entry("table.name=f", function)


def test_a_docstring_is_read_as_it_is_written():
    def f():
        """Divides by the sum, as in eq. 2 of Lee et al. (2024). More is said here.

            A = R / sum
            B = |R|

        Args:
          x: a thing that goes on
            on the next line.
        Cost: one more pass
          over the data.
        Source: "A Paper" (2025),
        eq. 2.
        """

    found = documented(f)
    assert found.what == "Divides by the sum, as in eq. 2 of Lee et al. (2024)"
    assert found.formula == ("A = R / sum", "B = |R|")
    assert found.cost == "one more pass over the data"
    assert found.source == '"A Paper" (2025), eq. 2'
    assert found.place == "tests/test_catalogue.py:f"


def test_an_equation_may_stand_on_a_line_of_its_own():
    def f():
        """Centres.

        A = R - mean. Nothing is divided.
        Raises:
          ValueError: never,
              as one sees.
        """

    found = documented(f)
    assert (found.formula, found.cost, found.source) == (("A = R - mean",), "", "")


def test_an_entry_without_equation_or_source_is_an_error(monkeypatch):
    def bare(group, state, options):
        """Does something."""

    from g2rpo_jax import advantages

    monkeypatch.setitem(advantages.ESTIMATORS, "bare", advantages.Estimator(bare))
    with pytest.raises(ValueError, match="advantage.name=bare .*no formula\n.*no source"):
        page()


def test_a_paper_is_done_as_soon_as_one_of_its_ways_is_there():
    one = Paper("X", "x", ("advantage.name=x", "filter.no_such_field", "objective.clip_high=0.28"))
    assert reached(one, set()) == ["`objective.clip_high=0.28`"]
    assert reached(one, {"advantage.name=x"})[0] == "`advantage.name=x`"
    for absent in ("advantage.name=x", "no_section.x=1", "filter.max_rounds=0", "tasks.NAME.no"):
        assert not reached(dataclasses.replace(one, ways=(absent,)), set())
    with pytest.raises(ValueError, match="X: say by which ways"):
        Paper("X", "x")


def test_no_paper_stands_twice():
    names = [paper.name for paper in PAPERS]
    assert len(set(names)) == len(names)
