"""From a run folder to one HTML file: every state of a run, old logs, hostile text, bounds."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2rpo_jax import report
from g2rpo_jax.config import RunConfig, to_plain
from g2rpo_jax.report import gather, page
from tests.report import run_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and what its page shows. Not to be changed."""
    folder = run_folder.make(tmp_path_factory.mktemp("runs") / "a<b>&run")
    return folder, shown(report.write_page(folder, to_plain(RunConfig())))


def shown(path):
    """The data of a page, read as a browser does: the block ends at the first `</script`."""
    text = path.read_text()
    block = re.search(r'<script type="application/json" id="data">(.*?)</script', text, re.S)
    return json.loads(block[1])


def run_of(tmp_path, samples=(), **files):
    """A minimal run folder with these entries in samples.jsonl."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    for name, text in files.items():
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def test_a_finished_run_shows_outcome_counts_and_standing(finished):
    data = finished[1]
    assert data["standing"]["state"] == "finished" and data["standing"]["seconds"] == 75
    assert data["standing"]["phases"]["rollout"] == 20
    outcome = {row["task"]: row for row in data["outcome"]["rows"]}
    assert outcome["ocr"]["before"] == 0.3 and outcome["mean"]["after"] == 0.5
    assert outcome["ocr"]["before_error"] == 0.02
    # The mean of six tasks with an error of 0.02 each.
    assert outcome["mean"]["after_error"] == pytest.approx(0.02 / 6**0.5, rel=1e-3)
    assert data["skipped"] == [["missing_image", 2], ["prompt_too_long", 1]]
    assert data["skipped_files"] == [
        ["rows.json: missing_image", 2],
        ["rows.json: prompt_too_long", 1],
    ]
    assert data["skipped_first"] == ["rows.json row 3: image a.png does not exist"]
    assert data["skipped_total"] == 3 and data["meanings"]["no_json"]
    assert data["config"]["steps"] == 230 and data["defaults"]["steps"] == 0
    assert len(data["tasks"]) == 6 and "devices" in data["description"]


def test_rows_carry_pictures_advantages_and_what_became_of_them(finished):
    rows = [row for row in finished[1]["samples"] if row["step"] == 1]
    assert {row["fate"] for row in rows} == {"trained", "surplus", "all right", "all wrong"}
    for row in rows:
        advantages = [response["advantage"] for response in row["responses"]]
        assert all(a is None for a in advantages) == (row["fate"] != "trained")
        assert all(item["file"] in finished[1]["pictures"] for item in row["media"])
    grounding = next(row for row in rows if row["task"] == "spatial_grounding")
    assert grounding["shapes"]["box"] == json.loads(grounding["answer"])["boxes"]
    assert [r["advantage"] for r in grounding["responses"]] == [1.25, 0.5, -0.5, -1.25]
    assert grounding["responses"][0]["shapes"] == {"box": [100, 200, 300, 600]}
    assert grounding["responses"][3]["failure"] == "no_json"


class Structure(html.parser.HTMLParser):
    """Elements of a page, as a parser sees them."""

    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_hostile_text_adds_no_element_and_no_address(finished):
    text = (finished[0] / "report.html").read_text()
    structure = Structure()
    structure.feed(text)
    assert sum(tag == "script" for tag, _ in structure.tags) == 2
    assert not any(tag in ("img", "iframe", "link", "object") for tag, _ in structure.tags)
    assert not any(name.startswith("on") for _, attrs in structure.tags for name in attrs)
    assert not re.search(r"(src|href)=.?https?:", text)
    (title,) = re.findall("<title>(.*?)</title>", text)
    assert title.startswith("a&lt;b&gt;&amp;run")
    # All that the run brought is in the data block, which is ASCII without markup.
    block = text[text.index('id="data">') + 10 : text.index("</script", text.index('id="data">'))]
    assert block.isascii() and not set("<>&\u2028\u2029") & set(block)


def test_text_that_hides_or_turns_is_spelt_out(finished):
    row = next(r for r in finished[1]["samples"] if r["id"] == "hostile")
    said = "".join(text for _, text in row["responses"][0]["segments"])
    for spelt in ("[U+2028]", "[U+2029]", "[U+D83D]", "[U+0000]", "[U+202E]"):
        assert spelt in said and spelt in row["problem"]
    assert "</script><script>" in said and "{{DATA}}" in said


def test_a_megabyte_response_is_cut_with_a_note(finished):
    row = next(r for r in finished[1]["samples"] if r["id"] == "hostile")
    ((kind, text),) = row["responses"][3]["segments"]
    assert kind == "text" and len(text) < gather.HEAD + gather.TAIL + 100
    assert f"{2_000_000 - gather.HEAD - gather.TAIL:,} characters left out" in text
    assert (finished[0] / "report.html").stat().st_size < 1_000_000


def test_the_policy_lets_only_the_pages_own_script_run(finished):
    text = (finished[0] / "report.html").read_text()
    policy = re.search('http-equiv="Content-Security-Policy" content="(.*?)"', text)[1]
    assert "default-src &#x27;none&#x27;" in policy and "unsafe" not in policy
    assert "img-src data:" in policy and policy.count("sha256-") == 2


def test_an_interrupted_and_a_running_run(tmp_path):
    folder = run_folder.make(tmp_path / "run", steps=4)
    tasks = ["ocr"]
    run_folder.write_summary(folder, tasks, steps=4, finished=False)
    assert gather.run_data(folder, None, 9, 10**6)["standing"]["state"] == "stopped"
    # The summary of an earlier stop says nothing of a run that has gone on since.
    run_folder.write_summary(folder, tasks, steps=3, finished=False)
    assert gather.run_data(folder, None, 9, 10**6)["standing"]["state"] == "unfinished"
    (folder / "summary.json").unlink()
    host = folder / "checkpoints" / "3" / "host"
    host.mkdir(parents=True)
    saved = {"wall_s": 12.5, "skipped": {"a": 2}, "failures": {"no_box": 7}}
    saved["skipped_rows"] = {"rows": {"x.json": {"a": [5, 9]}}, "messages": ["row 5"]}
    (host / "metadata").write_text(json.dumps(saved))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "reward/acc')
    data = gather.run_data(folder, None, 9, 10**6)
    assert data["standing"] | {"last_written": 0} == {
        "state": "unfinished",
        "step": 4,
        "planned": 230,
        "seconds": 12.5,
        "phases": None,
        "compile": None,
        "last_written": 0,
    }
    assert data["skipped"] == [["a", 2]] and data["failures"] == [["no_box", 7]]
    assert data["skipped_files"] == [["x.json: a", 2]] and data["skipped_first"] == ["row 5"]
    outcome = {row["task"]: row for row in data["outcome"]["rows"]}
    assert outcome["mean"]["before"] == 0.3 and outcome["mean"]["after"] == 0.5


def test_a_log_of_an_older_version_is_shown(tmp_path):
    old = {"step": 10, "prompt_id": 4, "id": "r", "task": "ocr", "problem": "?", "answer": "8"}
    old["responses"] = [{"text": "8", "tokens": 2, "reward": 1.5, "accuracy": 1.0}]
    (row,) = gather.run_data(run_of(tmp_path, [old]), None, 9, 10**6)["samples"]
    assert row["fate"] is None and row["media"] is None and row["prompt_id"] == "4"
    assert row["responses"][0]["advantage"] is None and row["responses"][0]["truncated"] is None
    assert page.render(gather.run_data(tmp_path, None, 9, 10**6))


@pytest.mark.parametrize(
    "entry",
    [
        {"responses": None},
        {"responses": ["x", {"text": 5, "reward": "high"}], "media": "none", "options": 3},
        {"responses": [{"text": "a", "accuracy": float("inf"), "tokens": 10**400}]},
        {"media": [{"kind": "image", "file": "../../etc/passwd"}, 5], "answer": ["<b>"]},
        {"media": [{"kind": "video", "frames": [1, {"file": "samples/../x.png", "time": "x"}]}]},
        {"task": {"a": 1}, "fate": 4, "problem": None},
    ],
)
def test_a_row_of_the_wrong_shape_is_no_trouble(tmp_path, entry):
    folder = run_of(
        tmp_path, [{"step": 1} | entry], metrics='5\n{"step": 1, "reward/total": "x"}\n'
    )
    data = gather.run_data(folder, None, 9, 10**6)
    assert len(data["samples"]) == 1 and not data["pictures"]
    assert page.render(data)


def test_long_runs_are_shown_as_means_that_keep_the_mean(tmp_path):
    values = np.random.default_rng(0).random(4321)
    lines = (json.dumps({"step": i + 1, "policy/loss": v}) for i, v in enumerate(values))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (curve,), last = gather.curve_data(tmp_path / "metrics.jsonl")
    steps, shown_values = curve["series"][""]
    assert last["rows"] == 4321 and last["step"] == 4321 and len(steps) <= gather.MAX_POINTS
    width = -(-4321 // gather.MAX_POINTS)
    assert shown_values[0] == pytest.approx(values[:width].mean(), rel=1e-4)
    assert steps[0] == (1 + width) / 2 and steps == sorted(steps)


def test_curves_know_metrics_from_tasks(tmp_path):
    row = {
        "step": 3,
        "eval/accuracy": 0.5,
        "eval/accuracy/ocr": 0.25,
        "made/up": 1,
        "policy/kl": None,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    curves, _ = gather.curve_data(tmp_path / "metrics.jsonl")
    assert [(c["name"], c["series"]) for c in curves] == [
        ("eval/accuracy", {"": [[3], [0.5]], "ocr": [[3], [0.25]]}),
        ("made/up", {"": [[3], [1]]}),
    ]


def test_more_samples_than_fit_are_thinned_over_the_run(tmp_path):
    entries = [{"step": step, "id": f"{step}-{i}"} for step in range(1, 101) for i in range(6)]
    data = gather.run_data(run_of(tmp_path, entries), None, 60, 10**6)
    steps = [row["step"] for row in data["samples"]]
    assert len(steps) == 60 and steps[0] == 1 and steps[-1] == 100 and len(set(steps)) == 10
    assert any("60 of 600 logged rows" in note for note in data["sample_notes"])


def test_pictures_stay_within_their_budget(tmp_path):
    log = report.SampleLog(run_of(tmp_path), start=1)
    rng = np.random.default_rng(0)
    for step in range(1, 41):
        noise = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        log.write(step, [{"media": [log.image(noise)]}])
    log.close()
    data = gather.run_data(tmp_path, None, 100, 60_000)
    total = sum(len(uri) * 3 / 4 for uri in data["pictures"].values())
    assert 30_000 < total < 62_000 and 9 <= len(data["samples"]) < 40
    assert len(data["pictures"]) == len(data["samples"]) and data["sample_notes"]
    assert data["samples"][-1]["step"] == 40


def test_a_folder_without_a_run_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no run: neither config.json"):
        report.write_page(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        report.write_page(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_launcher(tmp_path):
    folder = run_of(tmp_path)

    def launch(*arguments):
        command = [sys.executable, "launch/report.py", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = launch(folder)
    assert done.returncode == 0 and (folder / "report.html").exists(), done.stderr
    assert str(folder / "report.html") in done.stdout
    done = launch(f"--run={folder / 'x'}")
    assert done.returncode == 1 and "is no folder" in done.stderr and "Trace" not in done.stderr
