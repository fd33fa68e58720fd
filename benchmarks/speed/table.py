"""Seconds measured in turns -> rows, and rows -> a table for people."""

import statistics
from collections.abc import Callable

from speed.session import WorkerError
from speed.workloads import Workload

# What the ratio is to reach.
TARGETS = {
    ("W1", "rollout", "transformers"): 3.0,
    ("W2", "rollout", "transformers"): 6.0,
    ("W3", "rollout", "transformers"): 2.0,
    ("W1", "policy_step", "transformers"): 1.7,
    ("W2", "policy_step", "transformers"): 4.5,
    ("W3", "policy_step", "transformers"): 2.0,
    ("W1", "policy_step", "transformers+compile"): 1.2,
    ("W1", "rl_step", "trl"): 2.5,
    ("W2", "rl_step", "trl"): 6.0,
    ("W3", "rl_step", "trl"): 2.0,
    ("W1", "policy_step", "ours-repeated"): 1.45,
    ("W2", "policy_step", "ours-repeated"): 4.0,
    ("W3", "policy_step", "ours-repeated"): 2.2,
}
SHARES = {"W1": 0.38, "W2": 0.38, "W3": 0.55}  # of the peak, by our own policy step


def in_turns(
    sides: dict[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Calls every side in turns, A, B, A, B, ...; a side that fails drops out.

    A turn is two calls of which the second counts: a run goes step after step, whereas the memory
    of a process that waits for the others' turns may have gone cold (virtual machines take it).
    Args:
      sides: name -> a call that does the work and returns its seconds.
      rounds: turns of each side.
    Returns:
      ({name: seconds of each round}, {name: error}).
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    errors: dict[str, str] = {}
    for _ in range(rounds):
        for name, call in sides.items():
            if name in errors:
                continue
            try:
                call()
                found[name].append(call())
            except WorkerError as error:
                errors[name] = str(error)
    return {name: took for name, took in found.items() if name not in errors}, errors


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Theirs over ours, pair by pair of one round: median, lowest, highest."""
    each = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": round(statistics.median(each), 3),
        "ratio_low": round(min(each), 3),
        "ratio_high": round(max(each), 3),
    }


def spread(name: str, seconds: list[float]) -> dict[str, float]:
    """Median, lowest and highest under `name`_s, `name`_low_s, `name`_high_s."""
    values = statistics.median(seconds), min(seconds), max(seconds)
    keys = (f"{name}_s", f"{name}_low_s", f"{name}_high_s")
    return {key: round(value, 5) for key, value in zip(keys, values, strict=True)}


def rows_of(
    workload: Workload,
    phase: str,
    found: dict[str, list[float]],
    errors: dict[str, str],
    text_only: tuple[str, ...] = (),
) -> list[dict]:
    """A row for every peer; "ours" among `found` is what they are compared with.

    Args:
      text_only: peers that were given no images.
    """
    base = {"workload": workload.name, "phase": phase}
    if "ours" not in found:
        return [base | {"peer": name, "error": errors["ours"]} for name in errors]
    times = {"rollout": 1, "policy_step": 3, "rl_step": 4}[phase]
    base |= spread("ours", found["ours"])
    took = base["ours_s"]
    tokens = workload.prompts * workload.responses * workload.tokens
    prompt = workload.prompts * workload.prompt_tokens
    base |= {
        "gflop": round(times * workload.forward_flops(True) / 1e9, 4),
        "tokens_per_s": round(tokens / took),
        "tokens_per_s_prompt_once": round((tokens + prompt) / took),
        "tokens_per_s_prompt_repeated": round((tokens + prompt * workload.responses) / took),
    }
    rows = []
    for name, theirs in found.items():
        if name == "ours":
            continue
        row = base | {"peer": name} | spread("peer", theirs) | ratios(found["ours"], theirs)
        work = times * workload.forward_flops(False)
        row["peer_gflop"] = round(work / 1e9, 4)
        row["target"] = TARGETS.get((workload.name, phase, name))
        if name in text_only:
            row |= {"text_only": True, "peer_gflop": None}
        rows.append(row)
    return rows + [base | {"peer": name, "error": error} for name, error in errors.items()]


def with_shares(rows: list[dict], peak: float) -> list[dict]:
    """The rows with each side's share of the peak, FLOP/s, and what ours is to be."""
    found = []
    for row in rows:
        shares = {}
        for name in ("", "peer_"):
            took, work = row.get(f"{name or 'ours_'}s"), row.get(f"{name}gflop")
            if took and work:
                shares[f"{name}peak_share"] = round(work * 1e9 / took / peak, 4)
        if row["phase"] == "policy_step" and row["workload"] in SHARES:
            shares["target_peak_share"] = SHARES[row["workload"]]
        found.append(row | shares)
    return found


HEAD = (
    "workload",
    "phase",
    "ours s (lowest-highest)",
    "peer",
    "peer s (lowest-highest)",
    "times faster",
    "to reach",
    "share of peak",
    "peer's",
    "tokens/s",
)


def markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: dict) -> tuple[str, ...]:
    peer = row.get("peer", "") + (" (text only)" if row.get("text_only") else "")
    theirs = row.get("error", "")[:60] or _seconds(row, "peer")
    ratio = ""
    if "ratio" in row:
        ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"
    target = row.get("target")
    return (
        row["workload"],
        row["phase"],
        _seconds(row, "ours"),
        peer,
        theirs,
        ratio,
        f"{target:g}" if target else "",
        _percent(row.get("peak_share"))
        + (f" (of {row['target_peak_share']:.0%})" if "target_peak_share" in row else ""),
        _percent(row.get("peer_peak_share")),
        f"{row['tokens_per_s']:,}" if row.get("tokens_per_s") else "",
    )


def _seconds(row: dict, name: str) -> str:
    if f"{name}_s" not in row:
        return ""
    low, high = row.get(f"{name}_low_s"), row.get(f"{name}_high_s")
    return f"{row[f'{name}_s']:.3g}" + ("" if low is None else f" ({low:.3g}-{high:.3g})")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
