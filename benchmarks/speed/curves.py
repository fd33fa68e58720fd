"""Seconds of the policy step and the rollout against prompt length and against G: shared prompts
beside repeated ones, with the most that sharing can save of the linear layers' work."""

import dataclasses
import statistics

from speed.parts import VARIANTS, Run
from speed.session import WorkerError
from speed.table import in_turns, ratios
from speed.workloads import WORKLOADS, Workload

PROMPTS, TOKENS = 2, 128
LENGTHS = (64, 512, 1024, 4096)  # at 8 responses
GROUPS = (1, 2, 8, 32)  # at 512 prompt tokens


def workload_of(length: int, responses: int) -> Workload:
    """W1's model on text alone."""
    return dataclasses.replace(
        WORKLOADS["W1"],
        name=f"S{length}G{responses}",
        prompts=PROMPTS,
        responses=responses,
        tokens=TOKENS,
        side=0,
        text=length - 2,
    )


def bound(S: int, G: int, T: int) -> float:
    """Token passes repeated over shared: G (S + T) / (S + G T)."""
    return G * (S + T) / (S + G * T)


def measure(run: Run, points: list[tuple[int, int]]) -> list[dict]:
    """One entry for each (prompt length, G) and phase."""
    workers, found = {side: run.workers[side] for side in VARIANTS}, []
    for S, G in points:
        w = workload_of(S, G)
        folder = str(run.folder / "curves")
        asked = dataclasses.asdict(w)
        for side, worker in workers.items():
            worker.ask("prepare", workload=asked, folder=folder, variants=[VARIANTS[side]])
        # A part of about 2,048 tokens a device: the work of a part is what costs, not its count.
        rows = PROMPTS * G // min(2, PROMPTS)
        parts = max(1, min(rows, rows * (S + TOKENS) // 2048))
        while rows % parts:
            parts += 1
        workers["ours-repeated"].ask("set_microbatches", variant="repeated", microbatches=parts)
        for phase in ("policy_step", "rollout"):
            calls = {
                VARIANTS[side]: lambda w=worker, v=VARIANTS[side], p=phase: w.ask(
                    "time", phase=p, variant=v
                )["seconds"]
                for side, worker in workers.items()
            }
            took, errors = in_turns(calls, 1)  # a call takes up to a minute
            if errors:
                raise WorkerError("; ".join(errors.values()))
            entry = {"prompt_tokens": S, "responses": G, "tokens": TOKENS, "phase": phase}
            entry |= {f"{v}_s": round(statistics.median(t), 5) for v, t in took.items()}
            entry |= ratios(took["shared"], took["repeated"])
            entry |= {"bound": round(bound(S, G, TOKENS), 3), "repeated_microbatches": parts}
            found.append(entry)
            got = f"{entry['ratio']:.2f} times, bound {entry['bound']:.2f}"
            run.say(f"curves S={S} G={G} {phase}: {got}")
    return found


def points(quick: bool) -> list[tuple[int, int]]:
    """Prompt lengths at 8 responses, then numbers of responses at 512 tokens."""
    if quick:
        return [(64, 8)]
    return list(dict.fromkeys([(S, 8) for S in LENGTHS] + [(512, G) for G in GROUPS]))
