"""The table of benchmarks: the paper's figures agree with its averages; what the flag may hold."""

from pathlib import Path

import pytest

from g2rpo_jax.evaluate.benchmarks import BENCHMARKS, DOMAINS, sources

# Averages of the paper's Table 4, and the three benchmarks of each domain where all are known.
FULL = {
    "general": ("mmmu", "mmbench", "mmstar"),
    "document": ("docvqa", "ocrbench", "infovqa"),
    "spatial": ("embspatial", "refspatial", "robospatial"),
    "grounding": ("refcoco", "refcoco+", "refcocog"),
}


@pytest.mark.parametrize("domain", FULL)
def test_the_papers_scores_average_to_its_table_of_averages(domain):
    chosen = [BENCHMARKS[name] for name in FULL[domain]]
    for field in ("baseline", "openvlthinker"):
        scores = [getattr(b, field) for b in chosen]
        if None not in scores:
            percent = [100 * s / b.scale for s, b in zip(scores, chosen, strict=True)]
            assert sum(percent) / 3 == pytest.approx(getattr(DOMAINS[domain], field), abs=0.051)
    assert chosen[0].openvlthinker is not None


def test_fifteen_of_the_papers_benchmarks_carry_its_figures():
    assert sum(b.openvlthinker is not None for b in BENCHMARKS.values()) == 15


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text("x")
    return str(tmp_path)


def test_sources_of_the_flag(tmp_path):
    folder = files(tmp_path, "a.tsv", "b,c.json", "DocVQA_VAL.tsv")
    text = f"chartqa:{folder}/a.tsv,refcoco:{folder}/b,c.json;{folder}/a.tsv, docvqa,"
    text += "rows:embedded:test?rows=6&tasks=ocr,math_reasoning"
    got = {source.name: source.paths for source in sources(text, folder)}
    assert got == {
        "chartqa": (f"{folder}/a.tsv",),
        "refcoco": (f"{folder}/b,c.json", f"{folder}/a.tsv"),
        "docvqa": (f"{folder}/DocVQA_VAL.tsv",),
        "rows": ("embedded:test?rows=6&tasks=ocr,math_reasoning",),
    }


def test_all_takes_the_benchmarks_whose_files_are_there(tmp_path):
    folder = files(tmp_path, "ChartQA_TEST.tsv", "MMStar.tsv", "RefSpatial_Location.tsv")
    assert [source.name for source in sources("all", folder)] == ["mmstar", "chartqa"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("chartq:x.tsv", "unknown benchmark 'chartq'; did you mean 'chartqa'"),
        ("chartqa:none.tsv", "there is no file 'none.tsv'"),
        ("chartqa", "write chartqa:PATH, or set data_dir to the folder of ChartQA_TEST.tsv"),
        ("rows", "write rows:PATH"),
        ("all", "needs data_dir"),
        ("", "nothing to evaluate"),
        ("rows:embedded:test,rows:embedded:test", "names rows twice"),
    ],
)
def test_what_the_flag_may_not_hold(text, said):
    with pytest.raises(ValueError, match=said):
        sources(text, "")


def test_the_documentation_names_every_benchmark_and_metric():
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    for name, benchmark in BENCHMARKS.items():
        assert f"`{name}`" in text and benchmark.metric in text
