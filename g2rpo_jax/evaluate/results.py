"""Predictions to scores, and scores to tables shaped like the paper's."""

import collections
import statistics as std
from collections.abc import Sequence

from g2rpo_jax.evaluate import statistics
from g2rpo_jax.evaluate.benchmarks import (
    BENCHMARKS,
    DOMAINS,
    PAPER_BASELINE,
    PAPER_MODEL,
    Benchmark,
)
from g2rpo_jax.evaluate.statistics import mean_and_error


def summarise(
    header: dict, entries: list[dict], pass_at: Sequence[int] = (1,), right_from: float = 1.0
) -> dict:
    """Scores of every benchmark.

    Args:
      header, entries: from predictions.merge.
      pass_at, right_from: see EvalSettings.
    Returns:
      {"model": ..., "settings": ..., "benchmarks": {name: {...}}, "domains": {name: average}}; the
      fields of a benchmark are told in docs/evaluation.md.
    """
    settings, by_name = header["settings"], collections.defaultdict(list)
    for entry in entries:
        by_name[entry["benchmark"]].append(entry)
    benchmarks = {
        name: _summary(BENCHMARKS[name], by_name[name], pass_at, right_from)
        for name in header["rows"]
    }
    return {
        "model": header["model"],
        "settings": settings,
        "benchmarks": benchmarks,
        "domains": {name: _average(name, benchmarks) for name in DOMAINS},
    }


def _summary(
    benchmark: Benchmark, entries: list[dict], ks: Sequence[int], right_from: float
) -> dict:
    skipped = collections.Counter(e["skipped"] for e in entries if "skipped" in e)
    rows: dict[int, dict] = {}
    seeds = collections.defaultdict(list)
    responses = []
    for entry in entries:
        if "skipped" in entry:
            continue
        row = rows.setdefault(entry["row"], {"category": entry["category"], "scores": []})
        scores = [response["score"] for response in entry["responses"]]
        row["scores"] += scores
        seeds[entry["seed"]] += scores
        responses += entry["responses"]
    summary = {
        "title": benchmark.title,
        "domain": benchmark.domain,
        "metric": benchmark.metric,
        "scale": benchmark.scale,
        "rows": len(rows),
        "skipped": dict(skipped),
        "paper": {PAPER_BASELINE: benchmark.baseline, PAPER_MODEL: benchmark.openvlthinker},
    }
    if not rows:
        return summary | {"score": None}
    per_row = [std.fmean(row["scores"]) for row in rows.values()]
    score, error = mean_and_error(per_row)
    _, seed_error = mean_and_error([std.fmean(scores) for scores in seeds.values()])
    categories = collections.defaultdict(list)
    for row, mean in zip(rows.values(), per_row, strict=True):
        categories[row["category"]].append(mean)
    right = [sum(s >= right_from for s in row["scores"]) for row in rows.values()]
    made = [len(row["scores"]) for row in rows.values()]
    scale = benchmark.scale
    return summary | {
        "score": scale * score,
        "stderr_rows": scale * error,
        "stderr_seeds": scale * seed_error if len(seeds) > 1 else None,
        "pass": {
            str(k): 100.0 * std.fmean(map(statistics.pass_at, [k] * len(rows), made, right))
            for k in ks
        },
        "tokens": std.fmean(r["tokens"] for r in responses),
        "ended": std.fmean(r["ended"] for r in responses),
        "categories": {
            name: {"score": scale * std.fmean(values), "rows": len(values)}
            for name, values in sorted(categories.items())
        },
    }


def _of(domain: str) -> list[str]:
    return [name for name, benchmark in BENCHMARKS.items() if benchmark.domain == domain]


def _average(domain: str, benchmarks: dict) -> float | None:
    """The mean of a domain in percent, where all that the table has of it were run."""
    names = _of(domain)
    if any(benchmarks.get(name, {}).get("score") is None for name in names):
        return None
    return std.fmean(100.0 * benchmarks[n]["score"] / BENCHMARKS[n].scale for n in names)


def table(summary: dict) -> str:
    """Markdown: one table for each of the paper's, its figures beside ours ("-": not known, or not
    run), and one of what else was measured."""
    run, ours = summary["benchmarks"], summary["model"]["model"]
    if summary["model"]["step"]:
        ours += f" step {summary['model']['step']}"
    parts = []
    for title in dict.fromkeys(domain.table for domain in DOMAINS.values()):
        domains = [name for name, domain in DOMAINS.items() if domain.table == title]
        if any(name in run for domain in domains for name in _of(domain)):
            parts.append(f"**{title}**\n\n" + _table(domains, summary, ours))
    parts.append(
        "Ours: score ± standard error over rows; a domain's average needs all its benchmarks. "
        "Where the paper's figures come from stands in g2rpo_jax/evaluate/benchmarks.py.\n\n"
        + _details(run)
    )
    parts += [_categories(each) for each in run.values() if len(each.get("categories", {})) > 1]
    return "\n\n".join(parts) + "\n"


def _table(domains: list[str], summary: dict, ours: str) -> str:
    run = summary["benchmarks"]
    columns: list[tuple[str, list[str]]] = []
    for domain in domains:
        names = _of(domain)
        if domain == "other":
            names = [name for name in names if name in run]
        for name in names:
            b = BENCHMARKS[name]
            cells = [_number(b.baseline, b.scale), _number(b.openvlthinker, b.scale)]
            columns.append((b.title, [*cells, _ours(run.get(name))]))
        if domain != "other":
            d = DOMAINS[domain]
            average = summary["domains"][domain]
            cells = [_number(value) for value in (d.baseline, d.openvlthinker, average)]
            columns.append((f"{d.title}, average", cells))
    rows = [["model", *(title for title, _ in columns)]]
    for i, model in enumerate((PAPER_BASELINE, PAPER_MODEL, ours)):
        cells = [cells[i] for _, cells in columns]
        if i == 2 or set(cells) != {"-"}:
            rows.append([model, *cells])
    return _markdown(rows)


def _details(run: dict) -> str:
    ks = list(dict.fromkeys(k for each in run.values() for k in each.get("pass", {})))
    head = ["benchmark", "metric", "rows", "skipped", "score", "± rows", "± seeds"]
    rows = [[*head, *(f"pass@{k}" for k in ks), "tokens", "ended"]]
    for each in run.values():
        scale = each["scale"]
        cells = [each["title"], each["metric"], str(each["rows"])]
        cells += [str(sum(each["skipped"].values())), _number(each["score"], scale)]
        cells += [_number(each.get("stderr_rows"), scale, 2)]
        cells += [_number(each.get("stderr_seeds"), scale, 2)]
        cells += [_number(each.get("pass", {}).get(k)) for k in ks]
        ended = each.get("ended")
        cells += [_number(each.get("tokens")), "-" if ended is None else f"{100 * ended:.0f}%"]
        rows.append(cells)
    return _markdown(rows)


def _categories(result: dict) -> str:
    rows = [[result["title"], "rows", "score"]]
    for name, category in result["categories"].items():
        score = _number(category["score"], result["scale"])
        rows.append([name, str(category["rows"]), score])
    return _markdown(rows)


def _ours(result: dict | None) -> str:
    if result is None or result["score"] is None:
        return "-"
    scale = result["scale"]
    return f"{_number(result['score'], scale)} ± {_number(result['stderr_rows'], scale)}"


def _number(value: float | None, scale: float = 100.0, digits: int = 1) -> str:
    if value is None:
        return "-"
    return f"{value:.{0 if scale > 100 else digits}f}"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])
