"""A small run folder, written through the same classes as a real run's, without a model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from g2rpo_jax import metrics, report
from g2rpo_jax.config import resolve, to_plain
from g2rpo_jax.data import embedded
from g2rpo_jax.data.example import Example
from g2rpo_jax.data.media import Limits
from g2rpo_jax.rewards import Score
from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train import samples
from g2rpo_jax.train.feed import Drawn
from g2rpo_jax.train.filtering import Collected
from g2rpo_jax.train.rows import Row
from tests.test_config import variant

G = 4
HOSTILE = (
    "<thinking></script><script>document.documentElement.dataset.error='run'</script>"
    "<img src=x onerror=\"document.documentElement.dataset.error='html'\">{{DATA}}</thinking>"
    "<answer>&lt;b&gt; <!-- \u2028 \u2029 \ud83d \x00 \u202eabc ]]></answer>"
)


def example(task: str, problem_type: str, answer: str, **fields) -> Example:
    """A row that asks about one picture."""
    base = Example(
        id=fields.pop("id", "x"),
        problem=fields.pop("problem", "<image> What is there?"),
        options=(),
        answer=answer,
        problem_type=problem_type,
        task=task,
        data_type="image",
        images=(Image.new("RGB", (60, 40), "steelblue"),),
        where="rows.json row 3",
    )
    return dataclasses.replace(base, **fields)


def embedded_example(raw: dict) -> Example:
    """A row of the built-in task set."""
    return example(
        raw["task_type"],
        raw["problem_type"],
        raw["answer"].removeprefix("<answer>").removesuffix("</answer>"),
        id=raw["problem_id"],
        problem=raw["problem"],
        options=tuple(raw["options"]),
        images=tuple(raw["images"]),
        where="embedded",
    )


def row(asked: Example, texts: list[str], accuracy: list[float], step: int, prompt_id: int) -> Row:
    """A sampled row; an accuracy below 0 stands for an answer that could not be read."""
    scores = [
        Score(max(a, 0.0), 1.0, 0.5, 0.9 * max(a, 0.0) + 0.6, "no_json" if a < 0 else None)
        for a in accuracy
    ]
    length_G = np.array([min(len(text), 60) for text in texts])
    mask_GT = np.arange(60)[None] < length_G[:, None]
    return Row(
        drawn=Drawn(prompt_id, asked, None, tokens=9),
        token_GT=np.zeros((len(texts), 60), np.int32),
        mask_GT=mask_GT,
        logp_GT=np.zeros((len(texts), 60), np.float32),
        ended_G=length_G < 60,
        texts=texts,
        scores=scores,
        length_reward_G=np.ones(len(texts), np.float32),
        length_weight=0.0,
        born=step,
    )


def said(answer: str, thinking: str = "") -> str:
    """A well-formed response."""
    return f"<thinking>{thinking}</thinking><answer>{answer}</answer>"


def boxed(x1: float, y1: float, x2: float, y2: float) -> str:
    """An answer that is one box."""
    return json.dumps({"boxes": [x1, y1, x2, y2]})


def make(folder: Path, steps: int = 6) -> Path:
    """A finished run of `steps` steps; its samples hold rows of every fate, and hostile text."""
    folder.mkdir(parents=True)
    config = resolve(variant("tiny"))
    (folder / "config.json").write_text(json.dumps(to_plain(config)))
    (folder / "description.txt").write_text(
        "model     assets/tiny: 681,200 parameters\ndevices   2 x cpu, mesh data 2\n"
    )
    tasks = list(embedded.TASKS)  # fewer than the configuration has
    write_metrics(folder, tasks, steps)
    log = report.SampleLog(folder, start=1)
    for step in range(1, steps + 1):
        log_step(log, step)
    log_video(log, steps)
    log.close()
    write_summary(folder, tasks, steps)
    return folder


def write_metrics(folder: Path, tasks: list[str], steps: int) -> None:
    """metrics.jsonl with evaluations at the first and the last step."""
    rng = np.random.default_rng(0)
    writer = metrics.Writer(folder, start=0, tensorboard=False)
    for step in range(steps + 1):
        numbers = {}
        if step in (0, steps):
            numbers["eval/accuracy"] = 0.3 + 0.2 * (step > 0)
            for task in tasks:
                numbers[f"eval/accuracy/{task}"] = 0.3 + 0.2 * (step > 0) + 0.01 * len(task)
                numbers[f"eval/accuracy_stderr/{task}"] = 0.02
        if step:
            for name in ("reward/accuracy", "policy/entropy", "rollout/length_tokens"):
                numbers[name] = float(rng.random())
                numbers |= {f"{name}/{task}": float(rng.random()) for task in tasks}
            numbers["rollout/gap"] = float("nan") if step == 2 else 1e-7 * step
            numbers["rollout/tokens_per_s"] = 12_345.0
        numbers |= {"data/skipped": 3, "reward/failures": 2}
        writer.write(step, numbers)
    writer.close()


def write_summary(folder: Path, tasks: list[str], steps: int, finished: bool = True) -> None:
    """summary.json as the loop writes it."""
    report.write_json(
        folder / "summary.json",
        {
            "steps": steps,
            "finished": finished,
            "wall_seconds": 75.0,
            "before": {task: 0.3 for task in tasks} | {"mean": 0.3},
            "after": {task: 0.5 for task in tasks} | {"mean": 0.5},
            "seconds": {"start": 5.0, "update": 49.9, "rollout": 20.0, "log": 0.1},
            "compile": {"count": 39, "read": 12, "seconds": 20.0},
            "rows_skipped": {"missing_image": 2, "prompt_too_long": 1},
            "rows_skipped_by_file": {"rows.json": {"missing_image": 2, "prompt_too_long": 1}},
            "rows_skipped_first": ["rows.json row 3: image a.png does not exist"],
            "reward_failures": {"no_json": 1, "no_box": 1},
        },
    )


def log_step(log: report.SampleLog, step: int) -> None:
    """Entries of one step: embedded rows, a row of boxes and points, and a hostile one."""
    read = [embedded_example(raw) for raw in embedded.from_spec("embedded:test?rows=12")]
    grounding = next(e for e in read if e.problem_type == "spatial grounding")
    other = [e for e in read if e.problem_type != "spatial grounding"][:3]
    guesses = [boxed(100, 200, 300, 600), boxed(0, 0, 500, 500), boxed(990, 10, 20, 500), "no box"]
    trained = [
        row(grounding, [said(g, "look here") for g in guesses], [0.2, 0.1, 0, -1], step, 10 * step),
        row(
            example("math_reasoning", "math", "42", problem=f"<image> {HOSTILE}", id="hostile"),
            [HOSTILE, said("42", "6 * 7"), said("41"), "x" * 2_000_000],
            [-1, 1, 0, -1],
            step,
            10 * step + 1,
        ),
    ]
    right = row(other[0], [said(other[0].answer)] * G, [1] * G, step, 10 * step + 2)
    wrong = row(other[1], [said("wrong")] * G, [0] * G, step, 10 * step + 3)
    half = [said(other[2].answer)] * 2 + [said("?")] * 2
    surplus = row(other[2], half, [1, 1, 0, 0], step, 10 * step + 4)
    got = Collected(trained, [surplus], [*trained, right, wrong, surplus], 1, 0)
    several = example("ocr", "OCR", "8", id="several", problem="<image><image><image> Which?")
    pictures = [Image.new("RGB", size, "olive") for size in ((80, 20), (600, 400), (20, 90))]
    several = dataclasses.replace(several, images=tuple(pictures))
    samples.write(
        log, step, [samples.Fate(row(several, ["8"] * 2, [1, 0], step, 1), "surplus")], 1, Limits()
    )
    adv_PG = np.array([[1.25, 0.5, -0.5, -1.25], [-0.3, 1.03, -0.3, -0.43]], np.float32)
    samples.write(log, step, samples.fates(got, adv_PG, FilterConfig()), 6, Limits())


def log_video(log: report.SampleLog, step: int) -> None:
    """A tracking row over a clip of six seconds, a temporal row, and a segmentation row."""
    clip_FHWC = np.zeros((12, 60, 80, 3), np.uint8)
    for f in range(12):
        picture = Image.new("RGB", (80, 60), (20, 30, 20 + 10 * f))
        ImageDraw.Draw(picture).rectangle([5 * f, 20, 5 * f + 15, 40], fill="gold")
        clip_FHWC[f] = np.asarray(picture)
    time_F = [f / 2 for f in range(12)]

    def track(shift: int) -> str:
        at = {str(t): [125 * t + shift, 333, 125 * t + 190 + shift, 680] for t in range(1, 6)}
        return json.dumps({"boxes": at})

    video = log.video(clip_FHWC, time_F, wanted=[1.0, 2.0, 3.0, 4.0, 5.0])
    points = {
        "boxes": [250, 250, 750, 750],
        "positive_points": [[400, 400], [500, 500], [600, 600]],
        "negative_points": [[100, 100], [900, 100], [900, 900]],
    }
    asked = [
        ("tracking", track(0), [track(0), track(60), track(400), "lost"], video),
        (
            "temporal grounding",
            '{"time": [1.5, 4.0]}',
            ['{"time": [1.0, 4.0]}', '{"time": [5, 5.5]}', "never", "{}"],
            video,
        ),
        (
            "segmentation",
            json.dumps(points),
            [json.dumps(points), boxed(200, 300, 700, 800), "{}", "nothing"],
            log.image(Image.new("RGB", (900, 700), "darkslategray")),
        ),
    ]
    for i, (kind, truth, guesses, media) in enumerate(asked):
        texts = [said(g) for g in guesses]
        made = row(example(kind, kind, truth, data_type="video"), texts, [1, 0.5, 0, -1], step, i)
        log.write(step, [made.to_log("trained", np.array([1.0, 0.2, -0.4, -0.8]), [media])])
