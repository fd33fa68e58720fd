"""A run folder -> what its page shows. Everything read is bounded, and nothing in it is trusted."""

import base64
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from g2rpo_jax import metrics
from g2rpo_jax.report import answers

MAX_POINTS = 400  # of a curve; longer runs show means over several steps
MAX_SERIES = 1_500
MAX_LINE = 64_000_000  # bytes of a line of samples.jsonl
MAX_RESPONSES = 64
MAX_PICTURES = 12
HEAD, TAIL = 6_000, 1_500  # characters kept of a long text
MAX_TEXT = 6_000_000  # characters of all samples together
HOST_FILE_BYTES = 64_000_000
PICTURE = re.compile(r"samples/[0-9a-f]{20}\.(png|jpg)")
# Controls, line separators that are no line feed, marks that change the direction of writing, and
# halves of surrogate pairs: text that would look like other text.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff]"
)
MIME = {"png": "image/png", "jpg": "image/jpeg"}


def check(run: Path) -> None:
    """Raises ValueError unless `run` is a folder that a training run has written to."""
    if not run.is_dir():
        raise ValueError(f"{run} is no folder: name the folder of a run (runs/...)")
    if not (run / "config.json").exists() and not (run / "metrics.jsonl").exists():
        raise ValueError(
            f"{run} holds no run: neither config.json nor metrics.jsonl is there; name the folder "
            "that launch/train.py wrote to (runs/...)"
        )


def json_file(path: Path) -> dict:
    """The object in a JSON file; {} where there is no such file, or no whole object in it."""
    try:
        if path.stat().st_size > HOST_FILE_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def run_data(run: Path, defaults: dict | None, samples: int, picture_bytes: int) -> dict:
    """All that the page of a run shows, ready for JSON.

    Args:
      run: a run folder: finished, interrupted, or still being written.
      defaults: the default configuration, to mark differences from it; None marks none.
      samples: rows of samples.jsonl to show at most.
      picture_bytes: size of all pictures together, before base64.
    Raises:
      ValueError: if the folder holds no run.
    """
    check(run)
    summary = json_file(run / "summary.json")
    config = json_file(run / "config.json")
    curves, last = curve_data(run / "metrics.jsonl")
    host = _newest_host_state(run)
    skipped = _object(host.get("skipped_rows"))
    rows, pictures, notes = sample_data(run, samples, picture_bytes)
    logged = {task for curve in curves for task in curve["series"]} - {""}
    # In the configuration's order; it may have tasks that the data have no row of.
    configured = [task for task in _object(config.get("tasks")) if task in logged]
    return {
        "name": run.resolve().name,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": configured + sorted(logged - {*configured}),
        "standing": _standing(run, summary, config, host, last),
        "description": _description(run),
        "outcome": outcome(summary, curves, config),
        "curves": curves,
        "thinned": math.ceil(last["rows"] / MAX_POINTS) if last["rows"] > MAX_POINTS else 1,
        "skipped": _counts(summary.get("rows_skipped") or host.get("skipped") or {}),
        "skipped_files": _counts(summary.get("rows_skipped_by_file") or _rows_by_file(host)),
        "skipped_first": _complaints(summary.get("rows_skipped_first") or skipped.get("messages")),
        "skipped_total": last["numbers"].get("data/skipped"),
        "failures": _counts(summary.get("reward_failures") or host.get("failures") or {}),
        "failures_total": last["numbers"].get("reward/failures"),
        "meanings": dict(answers.parse.KINDS),
        "config": _plain(config),
        "defaults": _plain(defaults),
        "samples": rows,
        "pictures": pictures,
        "sample_notes": notes,
    }


def curve_data(path: Path) -> tuple[list[dict], dict]:
    """Every number of metrics.jsonl as curves of at most MAX_POINTS points.

    Returns:
      Curves in the order of metrics.METRICS, unknown names at the end: {"name", "about",
      "series": {task or "": [steps, values]}}; and {"rows", "step", "numbers"} of the last row.
    """
    total = _lines(path)
    width = max(1, math.ceil(total / MAX_POINTS))
    # name -> bucket -> [sum of steps, sum of values, count]: memory does not grow with the run.
    sums: dict[str, dict[int, list[float]]] = {}
    last = {"rows": 0, "step": 0, "numbers": {}}
    for i, row in enumerate(metrics.rows(path)):
        numbers = {k: v for k, v in row.items() if k != "step" and _number(v) is not None}
        last = {"rows": i + 1, "step": row["step"], "numbers": numbers}
        for name, value in numbers.items():
            if name not in sums and len(sums) >= MAX_SERIES:
                continue
            cell = sums.setdefault(name, {}).setdefault(i // width, [0.0, 0.0, 0])
            cell[0] += row["step"]
            cell[1] += value
            cell[2] += 1
    curves: dict[str, dict] = {}
    order = list(metrics.METRICS)
    for name, cells in sums.items():
        base, task = name, ""
        if name not in metrics.METRICS and name.rpartition("/")[0] in metrics.METRICS:
            base, _, task = name.rpartition("/")
        about = metrics.METRICS.get(base, "not a metric of this version")
        curve = curves.setdefault(base, {"name": base, "about": about, "series": {}})
        curve["series"][task] = [
            [_short(steps / n) for steps, _, n in cells.values()],
            [_short(value / n) for _, value, n in cells.values()],
        ]
    known = [curves.pop(name) for name in order if name in curves]
    return known + [curves[name] for name in sorted(curves)], last


def outcome(summary: dict, curves: list[dict], config: dict) -> dict:
    """Held-out accuracy before and after, with standard errors over rows.

    From the summary where there is one (its `after` is the mean of the last eval.final_count
    evaluations), else from the first and the newest evaluation in the metrics.
    """
    series = {c["name"]: c["series"] for c in curves}
    accuracy, errors = series.get("eval/accuracy", {}), series.get("eval/accuracy_stderr", {})
    tasks = sorted(set(accuracy) - {""})
    if not tasks:
        return {"rows": [], "note": "No held-out evaluation was made."}
    before, after = summary.get("before") or {}, summary.get("after") or {}
    steps = accuracy[tasks[0]][0]
    count = config.get("eval", {}).get("final_count", 1)
    later = [step for step in steps if step > 0]
    if after and min(count, len(later)) > 1:
        note = f"After: mean of the last {min(count, len(later))} evaluations."
    else:
        note = f"After: the evaluation at step {later[-1]:g}." if later else "No evaluation since."
    rows = []
    for task in [*tasks, "mean"]:
        points = accuracy.get(task if task != "mean" else "", [[], []])[1]
        first = points[0] if points and steps[0] == 0 else None
        newest = points[-1] if points and steps[-1] > 0 else None
        rows.append(
            {
                "task": task,
                "before": _number(before.get(task, first)),
                "after": _number(after.get(task, newest)),
                "before_error": _error(errors, tasks, task, 0),
                "after_error": _error(errors, tasks, task, -1),
            }
        )
    return {"rows": rows, "note": note + " ±: one standard error over the held-out rows."}


def _error(errors: dict, tasks: list[str], task: str, at: int) -> float | None:
    found = [errors[t][1][at] for t in (tasks if task == "mean" else [task]) if t in errors]
    return _short(math.sqrt(sum(e * e for e in found)) / len(found)) if found else None


def _standing(run: Path, summary: dict, config: dict, host: dict, last: dict) -> dict:
    """How far the run is, how long it took."""
    planned = config.get("steps") or None
    if summary and summary.get("steps", 0) >= last["step"]:
        state = "finished" if summary.get("finished") else "stopped"
        seconds = summary.get("wall_seconds")
    else:
        state = "unfinished"
        seconds = host.get("wall_s")
    path = run / "metrics.jsonl"
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.exists() else None
    return {
        "state": state,
        "step": last["step"],
        "planned": planned,
        "seconds": _number(seconds),
        "phases": _plain(summary.get("seconds")),
        "compile": _plain(summary.get("compile")),
        "last_written": written and written.isoformat(timespec="seconds"),
    }


def _description(run: Path) -> str:
    try:
        with (run / "description.txt").open(errors="replace") as file:
            return file.read(40_000)
    except OSError:
        return ""


def _newest_host_state(run: Path) -> dict:
    """Host facts of the newest checkpoint: counts by kind of a run without a summary."""
    folder = run / "checkpoints"
    steps = [p.name for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if not steps:
        return {}
    return json_file(folder / max(steps, key=int) / "host" / "metadata")


def _object(value: object) -> dict:
    return value if isinstance(value, dict) else {}


def _rows_by_file(host: dict) -> dict:
    """Counts by file and reason from a checkpoint, which has the numbers of the rows."""
    files = _object(_object(host.get("skipped_rows")).get("rows"))
    return {
        file: {kind: len(rows) for kind, rows in _object(kinds).items() if isinstance(rows, list)}
        for file, kinds in files.items()
    }


def _complaints(messages: object) -> list[str]:
    listed = messages if isinstance(messages, list) else []
    return [text for message in listed[:20] if (text := _text(message, 1000))]


def _counts(counts: dict, prefix: str = "") -> list[list]:
    """Counts by kind, largest first; nested tables (kind, then file) with joined names."""
    out = []
    for name, value in counts.items() if isinstance(counts, dict) else ():
        if isinstance(value, dict):
            out += _counts(value, f"{prefix}{name}: ")
        elif _number(value) is not None:
            out.append([f"{prefix}{name}"[:300], value])
    return sorted(out, key=lambda pair: -pair[1])[:200]


def sample_data(run: Path, most: int, picture_bytes: int) -> tuple[list[dict], dict, list[str]]:
    """Rows of samples.jsonl for the page, their pictures as data URIs, and what was left out."""
    path = run / "samples.jsonl"
    found, notes = _index(path)
    if not found:
        return [], {}, [*notes, "The run has logged no samples (log.samples, log.samples_every)."]
    chosen = _spread(found, most)
    rows = _read_at(path, chosen)
    while len(rows) > 8 and _picture_bytes(run, rows) > picture_bytes:
        rows = _thin(rows)
    text, kept = 0, []
    for row in rows:
        shown = _row(row)
        text += len(json.dumps(shown))
        if text > MAX_TEXT and kept:
            break
        kept.append(shown)
    if len(kept) < len(found):
        notes.append(
            f"{len(kept)} of {len(found):,} logged rows are on this page (a limit on its size: "
            "--samples, --megabytes); samples.jsonl has all."
        )
    pictures, missing = _pictures(run, kept, picture_bytes)
    if missing:
        notes.append(f"{missing} pictures are not on this page: not found, or over its size.")
    return kept, pictures, notes


def _index(path: Path) -> tuple[list[tuple[int, int]], list[str]]:
    """(step, byte offset) of every readable line; lines that are too long are told of."""
    found, long = [], 0
    if not path.exists():
        return [], []
    with path.open("rb") as file:
        offset = 0
        while line := file.readline(MAX_LINE):
            size = len(line)
            if not line.endswith(b"\n") and size == MAX_LINE:
                long += 1
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    size += len(rest)
                size += len(rest)
            elif (row := _parsed(line)) is not None:
                found.append((row["step"], offset))
            offset += size
    return found, [f"{long} rows of samples.jsonl are too long to read."] if long else []


def _parsed(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _spread(found: list[tuple[int, int]], most: int) -> list[int]:
    """Offsets of at most `most` rows: whole steps at even distances, first and last included."""
    by_step: dict[int, list[int]] = {}
    for step, offset in found:
        by_step.setdefault(step, []).append(offset)
    steps = sorted(by_step)
    keep = max(1, min(len(steps), most * len(steps) // len(found)))
    at = np.linspace(0, len(steps) - 1, keep).round().astype(int)
    offsets = [offset for i in dict.fromkeys(at.tolist()) for offset in by_step[steps[i]]]
    return _thin(offsets, most) if len(offsets) > most else offsets


def _thin(items: list, most: int | None = None) -> list:
    """`most` items (default four fifths of them) at even distances."""
    most = most or max(1, len(items) * 4 // 5)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _read_at(path: Path, offsets: list[int]) -> list[dict]:
    rows = []
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            # None if the run started again from an earlier checkpoint meanwhile.
            if (row := _parsed(file.readline(MAX_LINE))) is not None:
                rows.append(row)
    return rows


def _files(media: object) -> list[str]:
    """Thumbnails that a row's media name, first ones first."""
    out = []
    for item in media if isinstance(media, list) else []:
        if isinstance(item, dict):
            frames = item.get("frames")
            for part in [item, *(frames if isinstance(frames, list) else [])]:
                name = part.get("file") if isinstance(part, dict) else None
                if isinstance(name, str) and PICTURE.fullmatch(name):
                    out.append(name)
    return out[:MAX_PICTURES]


def _picture_bytes(run: Path, rows: list[dict]) -> int:
    names = {name for row in rows for name in _files(row.get("media"))}
    return sum((run / name).stat().st_size for name in names if (run / name).exists())


def _pictures(run: Path, rows: list[dict], budget: int) -> tuple[dict[str, str], int]:
    out, missing = {}, 0
    for name in dict.fromkeys(name for row in rows for name in _files(row["media"])):
        path = run / name
        if not path.is_file() or path.stat().st_size > budget:
            missing += 1
            continue
        content = path.read_bytes()
        budget -= len(content)
        kind = MIME[name.rpartition(".")[2]]
        out[name] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return out, missing


def _row(row: dict) -> dict:
    """One logged row, checked and bounded; None for what an older version did not log."""
    listed = row.get("responses")
    responses = [r for r in listed if isinstance(r, dict)] if isinstance(listed, list) else []
    options = row.get("options")
    truth = row.get("answer")
    return {
        **{name: _text(row.get(name), 300) for name in LABELS},
        **{name: _number(row.get(name)) for name in ("step", "born", "length_weight")},
        "problem": _text(row.get("problem")),
        "options": [_text(o, 500) for o in options[:50]] if isinstance(options, list) else [],
        "answer": _text(truth),
        "shapes": answers.shapes(truth) if isinstance(truth, str) else None,
        "media": _media(row.get("media")),
        "responses": [_response(r) for r in responses[:MAX_RESPONSES]],
        "more_responses": max(0, len(responses) - MAX_RESPONSES),
    }


LABELS = ("id", "prompt_id", "where", "task", "problem_type", "data_type", "fate")
NUMBERS = ("tokens", "reward", "accuracy", "format", "structure", "total", "length_reward")


def _response(response: dict) -> dict:
    text = response.get("text")
    text = text if isinstance(text, str) else ""
    truncated = response.get("truncated")
    return {
        **{name: _number(response.get(name)) for name in (*NUMBERS, "advantage")},
        "truncated": truncated if isinstance(truncated, bool) else None,
        "failure": _text(response.get("failure"), 100),
        "segments": [[s.kind, _text(s.text)] for s in answers.segments(text)],
        "shapes": answers.shapes(text),
    }


def _media(media: object) -> list[dict] | None:
    if not isinstance(media, list):
        return None
    out = []
    for item in media[:MAX_PICTURES]:
        if not isinstance(item, dict):
            continue
        frames = item.get("frames") if isinstance(item.get("frames"), list) else []
        out.append(
            {
                "kind": _text(item.get("kind"), 20),
                "reason": _text(item.get("reason"), 500),
                **{name: _number(item.get(name)) for name in ("width", "height", "count")},
                "file": _text(item.get("file"), 100),
                "frames": [
                    {"file": _text(f.get("file"), 100), "time": _number(f.get("time"))}
                    for f in frames[:MAX_PICTURES]
                    if isinstance(f, dict)
                ],
            }
        )
    return out


def _text(value: object, limit: int = 0) -> str | None:
    """The text, its middle left out where it is too long, characters that hide or turn text
    spelt out; numbers as text; None for the rest."""
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        return None
    head, tail = (limit, 0) if limit else (HEAD, TAIL)
    if len(value) > head + tail:
        note = f" [… {len(value) - head - tail:,} characters left out …] "
        value = value[:head] + note + value[len(value) - tail :]
    return INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", value)


def _number(value: object) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def _plain(value: object) -> object:
    """The same with numbers that JSON does not have (infinities, NaN) as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float) -> float:
    """Five significant digits: what a curve can show."""
    short = float(f"{value:.5g}")
    return int(short) if short == int(short) and abs(short) < 1e9 else short


def _lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
