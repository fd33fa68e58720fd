"""Whole evaluations of the shipped tiny model: formats, interruption, hosts, the trainer's own."""

import dataclasses
import json

import pytest
from PIL import Image

from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.evaluate import evaluate, predictions
from g2rpo_jax.evaluate.benchmarks import Source
from g2rpo_jax.evaluate.readers import Rows
from g2rpo_jax.evaluate.run import Evaluator, conclude, run
from g2rpo_jax.evaluate.settings import EvalSettings
from g2rpo_jax.rollout.sampler import SamplingConfig
from tests.evaluate import files

ROWS = 60
EMBEDDED = f"rows:embedded:test?rows={ROWS}"
GREEDY = EvalSettings(
    model="assets/tiny",
    benchmarks=EMBEDDED,
    prompts=24,
    max_tokens=28,
    decode_chunk=7,
    decode_halvings=0,
    data=DataConfig(template="plain", prompt_tokens=(48,), patches=(64,)),
)


@pytest.fixture(scope="module")
def greedy():
    evaluator = Evaluator(GREEDY)
    yield evaluator
    evaluator.close()


@pytest.fixture(scope="module")
def whole(greedy, tmp_path_factory):
    """(folder, summary, predictions) of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    summary = run(GREEDY, folder, loaded=greedy)
    return folder, summary, predictions.merge(folder)[1]


def bare(entries):
    """What does not depend on where rows come from."""
    return [(e["row"], e["seed"], e["category"], e["truths"], e["responses"]) for e in entries]


@pytest.mark.parametrize("form", ["tsv", "json"])
def test_the_same_rows_in_another_format_give_the_same_responses(greedy, whole, form, tmp_path):
    if form == "tsv":
        path = files.embedded_tsv(tmp_path / "rows.tsv", ROWS)
    else:
        path = files.embedded_json(tmp_path, ROWS)
    settings = dataclasses.replace(GREEDY, benchmarks=f"rows:{path}")
    summary = run(settings, tmp_path, loaded=greedy)
    assert bare(predictions.merge(tmp_path)[1]) == bare(whole[2])
    assert summary["benchmarks"] == whole[1]["benchmarks"]
    assert 0 < summary["benchmarks"]["rows"]["score"] < 100


def test_training_measures_the_same_accuracy(greedy, whole):
    rows = Rows(Source("rows", (EMBEDDED.removeprefix("rows:"),)), GREEDY.data)
    examples = [rows.row(i).example for i in range(ROWS)]
    items = [(example, greedy.encoder.encode(example)) for example in examples]
    scores = evaluate(
        greedy.engine,
        greedy.params,
        items,
        greedy.pack,
        greedy.processor.decode,
        greedy.scorer,
        GREEDY.prompts,
    )
    categories = whole[1]["benchmarks"]["rows"]["categories"]
    assert scores.keys() == categories.keys()
    for task, score in scores.items():
        assert 100 * score.accuracy == pytest.approx(categories[task]["score"])
        assert score.rows == categories[task]["rows"]


def test_what_a_run_leaves_behind(whole):
    folder, summary, entries = whole
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(summary))
    assert "assets/tiny" in (folder / "results.md").read_text()
    assert json.loads((folder / "config.json").read_text())["model"] == "assets/tiny"
    assert len(entries) == ROWS
    assert all(e["responses"][0]["tokens"] > 0 for e in entries)


def test_hosts_together_are_one(greedy, whole, tmp_path):
    for host in (0, 1, 2):
        share = dataclasses.replace(GREEDY, host=host, hosts=3)
        assert run(share, tmp_path, loaded=greedy) is None
    summary = conclude(tmp_path, GREEDY, lambda text: None)
    assert summary["benchmarks"] == whole[1]["benchmarks"]
    assert bare(predictions.merge(tmp_path)[1]) == bare(whole[2])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path):
    settings = dataclasses.replace(
        GREEDY,
        benchmarks="rows:embedded:test?rows=20",
        samples=2,
        seeds=(3, 4),
        pass_at=(1, 4),
        prompts=8,
        sampling=SamplingConfig(temperature=1.0, top_p=0.9),
    )
    evaluator = Evaluator(settings)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    summary = run(settings, tmp_path / "a", loaded=evaluator)
    there = predictions.path_of(tmp_path / "a", 0, 1).read_bytes()
    # Stopped in the middle of the 20th line: rows are left with none and with one seed of two.
    lines = there.splitlines(keepends=True)
    path = predictions.path_of(tmp_path / "b", 0, 1)
    path.write_bytes(b"".join(lines[:19]) + lines[19][:40])
    again = run(settings, tmp_path / "b", resume=True, loaded=evaluator)
    assert predictions.merge(tmp_path / "b") == predictions.merge(tmp_path / "a")
    assert again == summary
    assert path.read_bytes().startswith(b"".join(lines[:19]))
    texts = [[r["text"] for r in e["responses"]] for e in predictions.merge(tmp_path / "a")[1]]
    assert any(a != b for a, b in texts)  # samples differ
    assert summary["benchmarks"]["rows"]["stderr_seeds"] > 0
    with pytest.raises(ValueError, match="settings.rows was 0, is 5"):
        run(dataclasses.replace(settings, rows=5), tmp_path / "b", resume=True, loaded=evaluator)
    with pytest.raises(ValueError, match="a loaded model serves other"):
        run(dataclasses.replace(settings, max_tokens=14), tmp_path, loaded=evaluator)
    evaluator.close()


def test_bad_rows_are_skipped_counted_and_bounded(greedy, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    path = files.embedded_json(folder, 24)
    (folder / "images/3.png").unlink()
    (folder / "images/5.png").write_bytes(b"no picture")
    Image.new("RGB", (640, 640)).save(folder / "images/7.png")  # beyond the bucket
    settings = dataclasses.replace(GREEDY, benchmarks=f"rows:{path}")
    with pytest.raises(ValueError, match="3 of 24 rows could not be used.*max_bad_share"):
        run(settings, tmp_path, loaded=greedy)
    lenient = dataclasses.replace(
        settings, data=dataclasses.replace(settings.data, max_bad_share=0.2)
    )
    summary = conclude(tmp_path, lenient, lambda text: None)
    got = summary["benchmarks"]["rows"]
    assert got["rows"] == 21 and sum(got["skipped"].values()) == 3
    assert "missing_image" in got["skipped"] and "prompt_too_long" in got["skipped"]


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"samples": 2}, "would all be equal"),
        ({"seeds": (1, 1)}, "different numbers"),
        ({"pass_at": (2,)}, "make more samples"),
        ({"max_tokens": 30}, "not a multiple of decode_chunk"),
        ({"host": 1}, "host=1 must be below hosts=1"),
        ({"prompts": 0}, "prompts=0 must be at least 1"),
        ({"dtype": "half"}, "none of auto"),
        ({"right_from": 0.0}, "right_from"),
        ({"data": DataConfig(train="mine.json")}, "data.train is training's"),
    ],
)
def test_settings_that_cannot_work(fields, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(GREEDY, **fields)
