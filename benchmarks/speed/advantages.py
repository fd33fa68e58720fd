"""Seconds of the advantage estimators over [P, 8] rewards: ours, and torch two ways.

    python benchmarks/speed/advantages.py --torch=PYTHON [--groups 1024 65536] [--rounds 3]

PYTHON is an interpreter that has torch (the same one, where the project's has it); each side works
in a process of its own, in turn (ours, torch, ours, torch ...). Prints a JSON list, a row for each
estimator, number of groups and peer:

- `torch loop`: one group after the other, as public implementations of GRPO and of the paper's
  release go about it;
- `torch vectorised`: the same sums over the whole [P, 8] at once.

Rewards are accuracy in eighths and a format share, so that groups have ties. `max_difference` is
the largest difference of any advantage between ours and the peer's. An estimator without a peer
here has a row of its own time alone.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RESPONSES, TASKS = 8, 6
GROUPS = (1024, 65536)
MANY = 65536
LOOP, VECTORISED = "torch loop", "torch vectorised"
LEAST_S = 0.2  # a time is the mean over at least so long
# Ranks within a whole batch compare every pair of it: (P G)^2. Beyond this, the sorting form.
PAIRS_AT_MOST = 2**28


def rewards_of(groups: int) -> dict[str, np.ndarray]:
    """accuracy, format and total float32 [P, 8]; tokens float32 [P, 8]; task int32 [P]."""
    rng = np.random.default_rng(0)
    shape = (groups, RESPONSES)
    accuracy = (rng.integers(0, 9, shape) / 8).astype(np.float32)
    marks = (rng.random(shape) < 0.8).astype(np.float32)
    return {
        "accuracy": accuracy,
        "format": marks,
        "total": 0.9 * accuracy + 0.1 * marks,
        "tokens": rng.integers(1, 512, shape).astype(np.float32),
        "surprise": rng.uniform(0.05, 2.0, shape).astype(np.float32),
        "task": rng.integers(0, TASKS, groups).astype(np.int32),
    }


# Our side


def ours(groups: int, values: Path) -> list[dict]:
    """A row for each estimator; the advantages go to `values`."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import jax

    from g2rpo_jax import advantages

    given = rewards_of(groups)
    rows, found = [], {}
    for name, estimator in advantages.ESTIMATORS.items():
        ranked_in_batch = name in ("g2rpo_task", "g2rpo_release", "gaussian_gdpo")
        many_pairs = (groups * RESPONSES) ** 2 > PAIRS_AT_MOST
        if many_pairs and (estimator.by_row or name == "risk_po"):
            continue  # these compare all prompts, or all papers, with each other
        sorting = ranked_in_batch and many_pairs
        options = advantages.AdvantageConfig(name, ranks="erfinv" if sorting else "comparison")
        group = advantages.Group(
            given["total"],
            np.ones_like(given["total"], bool),
            given["task"],
            {key: given[key] for key in ("accuracy", "format")},
            given["tokens"],
            TASKS,
            surprise_PG=given["surprise"],
            logp_PG=-given["surprise"] * given["tokens"],
            row_P=np.arange(groups, dtype=np.int32),
            num_rows=groups,
        )
        run = jax.jit(estimator, static_argnums=2)
        state = advantages.init_state(options, TASKS, groups)
        group, state = jax.device_put((group, state))
        compiled = run.lower(group, state, options).compile()
        found[name] = np.asarray(compiled(group, state)[0])
        seconds = timed(lambda: jax.block_until_ready(compiled(group, state)))  # noqa: B023
        rows.append({"estimator": name, "form": options.ranks, "seconds": seconds})
    np.savez(values, **found)
    return rows


# Torch


def torch_side(groups: int, values: Path) -> list[dict]:
    """A row for each estimator and form; the advantages go to `values`, as `estimator form`."""
    import torch

    given = {key: torch.from_numpy(value) for key, value in rewards_of(groups).items()}
    ways = {
        ("g2rpo", LOOP): lambda: _each(quantile_ranks, given["total"]),
        ("g2rpo", VECTORISED): lambda: quantile_ranks_of_rows(given["total"]),
        ("g2rpo_release", LOOP): lambda: _second_stage(
            _each(quantile_ranks, given["total"]), given["task"]
        ),
        ("g2rpo_release", VECTORISED): lambda: _second_stage(
            quantile_ranks_of_rows(given["total"]), given["task"]
        ),
        ("grpo", LOOP): lambda: _each(_z_score, given["total"]),
        ("grpo", VECTORISED): lambda: _z_score(given["total"]),
        ("dr_grpo", LOOP): lambda: _each(_centred, given["total"]),
        ("dr_grpo", VECTORISED): lambda: _centred(given["total"]),
        ("rloo", LOOP): lambda: _each(_leave_one_out, given["total"]),
        ("rloo", VECTORISED): lambda: _leave_one_out(given["total"]),
    }
    rows, found = [], {}
    for (name, form), run in ways.items():
        found[f"{name} {form}"] = run().numpy()
        rows.append({"estimator": name, "form": form, "seconds": timed(run)})
    np.savez(values, **found)
    return rows


def _each(rank, reward_PG):
    import torch

    return torch.stack([rank(reward_G) for reward_G in reward_PG])


def quantile_ranks(value_N):
    """The paper's Algorithm 1 over one group: sort, erfinv, mean over ties, put back."""
    import torch

    number = value_N.numel()
    if number <= 1:
        return torch.zeros_like(value_N)
    sorted_N, order_N = torch.sort(value_N)
    k_N = torch.arange(1, number + 1, dtype=value_N.dtype)
    q_N = math.sqrt(2) * torch.erfinv(2 * (k_N - 0.5) / number - 1)
    _, tie_N, ties_M = torch.unique_consecutive(sorted_N, return_inverse=True, return_counts=True)
    if ties_M.numel() == 1:
        return torch.zeros_like(value_N)
    mean_M = torch.zeros(ties_M.numel()).index_add_(0, tie_N, q_N) / ties_M
    return torch.empty_like(value_N).index_copy_(0, order_N, mean_M[tie_N])


def quantile_ranks_of_rows(value_PG):
    """`quantile_ranks` of every row at once."""
    import torch

    number = value_PG.shape[1]
    sorted_PG, order_PG = torch.sort(value_PG, dim=1)
    k_G = torch.arange(1, number + 1, dtype=value_PG.dtype)
    q_PG = (math.sqrt(2) * torch.erfinv(2 * (k_G - 0.5) / number - 1)).expand_as(value_PG)
    tie_PG = torch.zeros_like(order_PG)
    tie_PG[:, 1:] = torch.cumsum(sorted_PG[:, 1:] != sorted_PG[:, :-1], dim=1)
    sum_PG = torch.zeros_like(value_PG).scatter_add_(1, tie_PG, q_PG)
    ties_PG = torch.zeros_like(value_PG).scatter_add_(1, tie_PG, torch.ones_like(value_PG))
    mean_PG = torch.gather(sum_PG / ties_PG.clamp(min=1), 1, tie_PG)
    mean_PG = mean_PG * (tie_PG[:, -1:] > 0)  # all equal: exactly 0
    return torch.empty_like(value_PG).scatter_(1, order_PG, mean_PG)


def _second_stage(rank_PG, task_P):
    """Ranks of the first stage's values within each task. Rounded first: sums over ties differ in
    the last bit by their order (those that cancel, say), and the second stage would rank by it."""
    import torch

    rank_PG = torch.round(rank_PG, decimals=5)
    out_PG = torch.zeros_like(rank_PG)
    for task in range(TASKS):
        here_P = task_P == task
        out_PG[here_P] = quantile_ranks(rank_PG[here_P].flatten()).view(-1, RESPONSES)
    return out_PG


def _z_score(reward_PG):
    return _centred(reward_PG) / (reward_PG.std(-1, keepdim=True) + 1e-6)


def _centred(reward_PG):
    return reward_PG - reward_PG.mean(-1, keepdim=True)


def _leave_one_out(reward_PG):
    return _centred(reward_PG) * (RESPONSES / (RESPONSES - 1))


# Both


def timed(run) -> float:
    """Seconds of one call: the mean over at least LEAST_S, after a call to warm up; of a call that
    takes as long by itself, that one."""
    began = time.perf_counter()
    run()
    if (first := time.perf_counter() - began) > LEAST_S:
        return first
    calls, began = 0, time.perf_counter()
    while not calls or time.perf_counter() - began < LEAST_S:
        run()
        calls += 1
    return (time.perf_counter() - began) / calls


def compare(torch_python: str, groups: int, rounds: int) -> list[dict]:
    """Both sides in turn, `rounds` times each.

    Raises:
      RuntimeError: a side failed; says what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {side: Path(folder) / f"{side}.npz" for side in SIDES}
        pythons = {"ours": sys.executable, "torch": torch_python}
        told = {side: [] for side in SIDES}
        for _ in range(rounds):
            for side in SIDES:
                told[side].append(_run(pythons[side], side, groups, files[side]))
        mine, theirs = (np.load(files[side]) for side in SIDES)
        return table(groups, told["ours"], told["torch"], mine, theirs)


def table(groups: int, mine: list, theirs: list, mine_PG, theirs_PG) -> list[dict]:
    """Rows of the comparison: medians over the rounds; ratios round by round.

    Args:
      mine, theirs: for each round, what a side printed.
      mine_PG: advantages by estimator. theirs_PG: by `estimator form`.
    """
    rows = []
    for at, first in enumerate(mine[0]):
        name = first["estimator"]
        seconds = [told[at]["seconds"] for told in mine]
        row = {
            "workload": f"{groups} groups of {RESPONSES}",
            "phase": f"advantages {name}",
            "ours_s": statistics.median(seconds),
        }
        if first["form"] != "comparison":
            row["note"] = f"ranks={first['form']}"
        peers = [i for i, other in enumerate(theirs[0]) if other["estimator"] == name]
        for i in peers:
            peer = theirs[0][i]["form"]
            others = [told[i]["seconds"] for told in theirs]
            ratios = [b / a for a, b in zip(seconds, others, strict=True)]
            apart = np.abs(mine_PG[name] - theirs_PG[f"{name} {peer}"]).max()
            rows.append(
                row
                | {
                    "peer": peer,
                    "peer_s": statistics.median(others),
                    "ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                    "max_difference": float(apart),
                }
            )
        if not peers:
            rows.append(row)
    return rows


def _run(python: str, side: str, groups: int, values: Path) -> list[dict]:
    line = [python, __file__, f"--side={side}", f"--groups={groups}", f"--values={values}"]
    # Compiled anew in every round: programs read from JAX's cache have been seen to run faster.
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"the {side} side ({python}) failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


SIDES = {"ours": ours, "torch": torch_side}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="one side alone, of one number of groups")
    parser.add_argument("--values", type=Path, help="with --side: where the advantages go")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side](asked.groups[0], asked.values)))
        return
    # A loop over many groups takes minutes a round, and repeats itself often enough within one.
    rounds = {g: asked.rounds if g < MANY else 1 for g in asked.groups}
    rows = [row for g in asked.groups for row in compare(asked.torch, g, rounds[g])]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
