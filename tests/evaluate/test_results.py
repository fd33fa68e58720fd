"""From predictions to the table: every number by hand."""

import pytest

from g2rpo_jax.evaluate.results import summarise, table

SETTINGS = {"seeds": [0, 1], "hosts": 1}


def entry(name, row, seed, scores, category="c"):
    responses = [{"text": "t", "tokens": 4, "ended": s > 0, "score": s} for s in scores]
    return {"benchmark": name, "row": row, "seed": seed, "category": category} | {
        "responses": responses
    }


@pytest.fixture(scope="module")
def summary():
    rows = {"mmmu": 1, "mmbench": 1, "mmstar": 1, "ocrbench": 3}
    header = {"model": {"model": "mine", "step": 40}, "settings": SETTINGS, "rows": rows}
    entries = [
        entry(name, 0, seed, [1.0, 1.0 if name == "mmmu" else 0.0])
        for name in ("mmmu", "mmbench", "mmstar")
        for seed in (0, 1)
    ]
    entries += [
        entry("ocrbench", 0, 0, [1.0, 0.0], "words"),
        entry("ocrbench", 0, 1, [0.0, 0.0], "words"),
        entry("ocrbench", 1, 0, [0.0, 0.5], "formulas"),
        entry("ocrbench", 1, 1, [1.0, 1.0], "formulas"),
        {"benchmark": "ocrbench", "row": 2, "seed": None, "skipped": "broken_image"},
    ]
    return summarise(header, entries, pass_at=(1, 2, 4))


def test_score_and_errors_over_rows_and_seeds(summary):
    got = summary["benchmarks"]["ocrbench"]
    per_row = [0.25, 0.625]  # means of four samples
    assert got["score"] == pytest.approx(1000 * sum(per_row) / 2)
    assert got["stderr_rows"] == pytest.approx(1000 * abs(per_row[0] - per_row[1]) / 2)
    per_seed = [1.5 / 4, 2 / 4]
    assert got["stderr_seeds"] == pytest.approx(1000 * abs(per_seed[0] - per_seed[1]) / 2)
    assert got["rows"] == 2 and got["skipped"] == {"broken_image": 1}
    assert got["tokens"] == 4 and got["ended"] == pytest.approx(4 / 8)
    assert got["categories"]["words"] == {"score": pytest.approx(250), "rows": 1}


def test_pass_at_k_counts_whole_scores(summary):
    # Row 0: 1 right of 4; row 1: 2 of 4 (a half does not count).
    got = summary["benchmarks"]["ocrbench"]["pass"]
    assert got["1"] == pytest.approx(100 * (1 / 4 + 2 / 4) / 2)
    assert got["2"] == pytest.approx(100 * ((1 - 3 / 6) + (1 - 1 / 6)) / 2)
    assert got["4"] == pytest.approx(100)


def test_a_domain_has_an_average_once_all_of_it_was_run(summary):
    assert summary["domains"]["general"] == pytest.approx((100 + 50 + 50) / 3)
    assert summary["domains"]["document"] is None


def test_the_table_shows_the_papers_figures_beside_ours(summary):
    text = table(summary)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    cells = [cell.strip() for cell in lines["mine step 40"].split("|")[2:-1]]
    assert "**Visual reasoning**" in text and "**Visual grounding**" not in text
    general = text.split("**Documents and spatial reasoning**")[0].splitlines()
    ours = next(line for line in general if line.startswith("| mine step 40"))
    paper = next(line for line in general if line.startswith("| OpenVLThinkerV2"))
    assert ours.split("|")[2].strip() == "100.0 ± 0.0" and paper.split("|")[2].strip() == "71.6"
    assert ours.split("|")[5].strip() == "66.7" and paper.split("|")[5].strip() == "77.9"
    assert cells[1].startswith("438 ± 18")  # OCRBench, out of 1000
    assert "911" in text
    assert lines["formulas"].split("|")[2:4] == lines["words"].split("|")[2:3] + [" 625   "]


def test_a_benchmark_without_a_usable_row_has_no_score():
    header = {"model": {"model": "m", "step": None}, "settings": SETTINGS, "rows": {"mmmu": 1}}
    skipped = {"benchmark": "mmmu", "row": 0, "seed": None, "skipped": "missing_image"}
    got = summarise(header, [skipped])
    assert got["benchmarks"]["mmmu"]["score"] is None
    assert "| - " in table(got)
