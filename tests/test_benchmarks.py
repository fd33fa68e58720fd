"""The pure parts of benchmarks/run.py: what is counted, taken in turns, told of failures."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from g2rpo_jax.data.processor import Processor
from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig, load
from g2rpo_jax.models.qwen3_vl.weights import tensor_shapes

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from speed import curves, model_files, picture, table  # noqa: E402
from speed.session import Worker, WorkerError  # noqa: E402
from speed.workloads import WORKLOADS  # noqa: E402

SMALL = dataclasses.replace(
    WORKLOADS["W1"], prompts=2, responses=3, tokens=5, side=64, text=7, vision_depth=2
)


@pytest.mark.parametrize("shared", [True, False])
def test_flops_are_those_of_the_checkpoints_matrices_and_of_attended_pairs(shared):
    w = SMALL
    S, G, T, N = w.prompt_tokens, w.responses, w.tokens, w.patches
    copies = 1 if shared else G
    tokens, patches = copies * S + G * T, copies * N
    total = 0
    for name, shape in tensor_shapes(Qwen3VLConfig.from_dict(w.config())).items():
        if len(shape) < 2 or "pos_embed" in name:
            continue
        if "merger" in name:
            passes = patches // 4
        elif "visual" in name:
            passes = patches
        else:
            passes = G * T if "embed_tokens" in name else tokens
        total += 2 * math.prod(shape) * passes
    width = w.heads * w.head_dim
    pairs = copies * sum(range(S)) + G * sum(S + t for t in range(T))
    total += w.layers * 4 * width * pairs
    total += copies * w.vision_depth * 4 * N * N * w.vision_hidden
    # The formula takes half of S^2 and T^2 for the triangle, without its diagonal's half.
    diagonal = w.layers * 4 * width * (copies * S + G * T) / 2
    assert w.forward_flops(shared) == pytest.approx(w.prompts * (total + diagonal), rel=1e-9)


def test_the_model_directory_gives_prompts_of_the_workloads_length(tmp_path):
    model_files.write(SMALL, tmp_path)
    rows = json.loads((tmp_path / "rows.json").read_text())
    processor = Processor(str(tmp_path))
    picture_path = str(tmp_path / rows[0]["images"][0])
    words = rows[0]["problem"].removeprefix("<image>")
    parts = [{"type": "image", "image": picture_path}, {"type": "text", "text": words}]
    prompt = processor.encode([{"role": "user", "content": parts}])
    assert len(prompt.input_ids) == SMALL.prompt_tokens
    assert prompt.pixel_values.shape == SMALL.prompts_of()[0].pixel_values.shape
    assert processor.decode(prompt.input_ids[-SMALL.text :]) == words
    assert min(processor.eos_ids) >= SMALL.vocabulary  # never sampled
    assert load(tmp_path).config.text.hidden_size == SMALL.hidden


def test_sides_work_in_turns_and_one_that_fails_drops_out():
    order = []

    def side(name, fails_at=None):
        def call():
            order.append(name)
            if order.count(name) == fails_at:
                raise WorkerError(f"{name} fell over")
            return {"ours": 2.0, "b": 3.0}[name] + order.count(name)

        return call

    sides = {"ours": side("ours"), "b": side("b"), "c": side("c", 1)}
    found, errors = table.in_turns(sides, rounds=2)
    assert order == ["ours", "ours", "b", "b", "c", "ours", "ours", "b", "b"]
    assert found == {"ours": [4.0, 6.0], "b": [5.0, 7.0]}  # the second call of each turn
    assert errors == {"c": "c fell over"}


def test_ratios_are_of_pairs():
    got = table.ratios([1.0, 2.0, 4.0], [3.0, 4.0, 4.0])
    assert got == {"ratio": 2.0, "ratio_low": 1.0, "ratio_high": 3.0}


def test_rows_hold_ratio_share_of_peak_and_errors():
    w = SMALL
    found = {"ours": [1.0, 1.0, 3.0], "trl": [4.0, 5.0, 6.0]}
    rows = table.rows_of(w, "policy_step", found, {"tunix": "no wheel"})
    good, bad = table.with_shares(rows, peak=1e9)
    assert good["ours_s"] == 1.0 and good["peer_s"] == 5.0 and good["ratio"] == 4.0
    assert good["peak_share"] == pytest.approx(3 * w.forward_flops(True) / 1e9, abs=1e-4)
    assert good["peer_peak_share"] == pytest.approx(3 * w.forward_flops(False) / 5 / 1e9, abs=1e-4)
    assert good["tokens_per_s"] == w.prompts * w.responses * w.tokens
    assert bad["peer"] == "tunix" and bad["error"] == "no wheel"
    lines = table.markdown([good, bad]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "4.00 (2.00-5.00)" in lines[2] and "no wheel" in lines[3]


def test_without_our_own_seconds_every_row_is_an_error():
    rows = table.rows_of(SMALL, "rollout", {"trl": [1.0]}, {"ours": "out of memory"})
    assert [row["error"] for row in rows] == ["out of memory"]


def test_a_worker_answers_and_its_failures_are_told(tmp_path):
    script = tmp_path / "side.py"
    script.write_text(
        "import os\nfrom speed.worker import serve\n"
        "def double(x):\n    print('noise')\n    return {'twice': 2 * x}\n"
        "serve({'double': double, 'leave': lambda: os._exit(3)})\n"
    )
    worker = Worker("side", Path(sys.executable), str(script), tmp_path / "log")
    try:
        assert worker.ask("double", x=21)["twice"] == 42
        with pytest.raises(WorkerError, match="side, double: TypeError"):
            worker.ask("double", x=None)
        with pytest.raises(WorkerError, match="side, leave: ended with 3"):
            worker.ask("leave")
        assert worker.ask("double", x=1)["twice"] == 2  # another one
        assert "noise" in (tmp_path / "log").read_text()
    finally:
        worker.close()


def test_a_missing_environment_is_named(tmp_path):
    worker = Worker("trl", tmp_path / "bin" / "python", "trl_peer.py", tmp_path / "log")
    with pytest.raises(WorkerError, match="trl: no .*python; see benchmarks/run.py --peers"):
        worker.ask("hello")


def test_the_bound_is_one_for_one_response_and_g_for_long_prompts():
    assert curves.bound(512, 1, 128) == 1.0
    assert curves.bound(10**9, 8, 128) == pytest.approx(8, rel=1e-5)
    assert curves.bound(256, 8, 128) == 8 * 384 / (256 + 1024)


def test_the_picture_is_drawn(tmp_path):
    entries = [
        {"prompt_tokens": S, "responses": G, "phase": phase}
        | {"shared_s": 1.0, "repeated_s": 2.0, "ratio": 2.0, "bound": 3.0}
        for S, G in curves.points(quick=False)
        for phase in ("policy_step", "rollout")
    ]
    picture.draw(entries, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    found = picture.series(entries, "policy_step", "prompt_tokens")
    np.testing.assert_array_equal(found["x"], curves.LENGTHS)
