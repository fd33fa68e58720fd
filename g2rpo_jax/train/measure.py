"""From a step's rows and the policy step's sums to logged numbers (names: metrics.METRICS)."""

from collections.abc import Mapping

import numpy as np

from g2rpo_jax.settings import FilterConfig
from g2rpo_jax.train.filtering import Collected, keeps
from g2rpo_jax.train.rows import Row


def _by_task(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.example.task, []).append(row)
    return groups


def _mean(numbers: dict[str, float], name: str, groups: dict[str, list[Row]], value) -> None:
    """Writes the mean of value(row) over all rows, and per task; every row weighs the same."""
    per_task = {
        task: np.array([value(row) for row in rows], float).reshape(len(rows), -1).mean(1)
        for task, rows in groups.items()
    }
    numbers[name] = float(np.concatenate(list(per_task.values())).mean())
    numbers |= {f"{name}/{task}": float(values.mean()) for task, values in per_task.items()}


def rollout_numbers(collected: Collected, filter_config: FilterConfig) -> dict[str, float]:
    """Reward parts, lengths and filter shares of everything sampled in this step."""
    numbers = {
        "rollout/rounds": collected.rounds,
        "rollout/surplus": len(collected.surplus),
        "rollout/dropped": collected.dropped,
        "rollout/replayed": collected.replayed,
        "batch/rows": len(collected.rows),
    }
    groups = _by_task(collected.sampled)
    if not groups:
        return numbers
    for part in ("accuracy", "format", "structure"):
        _mean(numbers, f"reward/{part}", groups, lambda row, part=part: row.part(part))
    _mean(numbers, "reward/length", groups, lambda row: row.length_reward_G)
    _mean(numbers, "reward/total", groups, lambda row: row.reward_G)
    _mean(numbers, "rollout/length_tokens", groups, lambda row: row.length_G)
    _mean(numbers, "rollout/truncated_share", groups, lambda row: ~row.ended_G)
    _mean(numbers, "rollout/zero_variance_share", groups, lambda row: np.ptp(row.reward_G) == 0)
    _mean(numbers, "rollout/kept_share", groups, lambda row: keeps(filter_config, row))
    return numbers


def update_numbers(sums: list[dict], tasks: tuple[str, ...]) -> dict[str, float]:
    """Averages from the sums of a step's updates (fetched to the host).

    The sampler-trainer gap counts fresh rows in the first update only, where the parameters are
    those that sampled.
    """
    first = sums[0]
    total = {name: np.sum([s[name] for s in sums], axis=0) for name in first}
    numbers = {
        "policy/loss": total["loss"] / len(sums),
        "policy/kl": total["kl"] / len(sums),
        "policy/gradient_norm": total["gradient_norm"] / len(sums),
        "policy/skipped": sums[-1]["skipped"],
        "rollout/gap": first["gap"] / max(first["gap_tokens"], 1.0),
        "rollout/gap_max": first["gap_max"],
    }
    tokens_K = total["task_tokens"]
    numbers["policy/importance_cut_share"] = total["importance_cut"] / max(tokens_K.sum(), 1.0)
    for name, key in (("entropy", "entropy"), ("nll", "nll"), ("clip_share", "clipped")):
        value_K = total[f"task_{key}"]
        numbers[f"policy/{name}"] = value_K.sum() / max(tokens_K.sum(), 1.0)
        for k, task in enumerate(tasks):
            if tokens_K[k]:
                numbers[f"policy/{name}/{task}"] = value_K[k] / tokens_K[k]
    return numbers


def padding_numbers(packed: Mapping[str, int]) -> dict[str, float]:
    """Shares of padding in what was packed (rollout.encoder.Encoder.packed); patches only where the
    bucket has any, responses only where the step had an update."""
    shares = {}
    kinds = ("tokens", "token_slots"), ("patches", "patch_slots"), ("responses", "response_slots")
    for name, slots in kinds:
        if packed[slots]:
            shares[f"batch/padding_{name}_share"] = 1 - packed[name] / packed[slots]
    return shares
