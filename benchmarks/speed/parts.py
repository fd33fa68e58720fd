"""What is measured: each part asks the workers in turns and gives rows."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from speed.session import Worker, WorkerError
from speed.table import in_turns, rows_of
from speed.workloads import WORKLOADS

AGREEMENT = 2e-3  # largest difference of a log-prob between ours and transformers, float32
# Sequences at a time that TRL is tried with; 0: all. W2 was 14.7 and 13.0 s at 0, 20.8 and 19.1 at
# 16; W3 18.5 and 19.8 s at 0, 17.4 and 17.0 at 8: not tried again every time.
TRL_PARTS = {"W1": (0, 32), "W2": (0,), "W3": (8,)}
VARIANTS = {"ours": "shared", "ours-repeated": "repeated"}  # one process each
# Torch's updates: with 128 W1 and W2 took 51 and 23 % longer than with 32, with 8 W1 to W3 took 37,
# 23 and 3 % longer.
TORCH_PARTS = {"W1": (32, 8), "W2": (32,), "W3": (32,)}
COMPILED = ("W1",)  # torch.compile takes a minute for every model
TUNIX = ("W1",)  # its steps of W2 and W3 take a quarter and half a minute
SLOWEST = 300  # seconds that one call of a peer may take


class Run:
    """Workers, folders and what is common to all parts.

    Attributes:
      rounds: counted ones of every comparison. quick: no peer is tuned.
      rows: of the table so far. notes: settings that workers chose, and what else is to be known.
    """

    def __init__(
        self, workers: dict[str, Worker], folder: Path, rounds: int, quick: bool, say: Callable
    ):
        self.workers, self.folder, self.rounds, self.say = workers, folder, rounds, say
        self.quick = quick
        self.rows: list[dict] = []
        self.notes: dict[str, dict] = {}
        self.peak = 0.0

    def hello(self, names: list[str]) -> dict:
        """Versions of every side; the peak is the best rate of any of them."""
        said = {}
        for name in names:
            try:
                said[name] = self.workers[name].ask("hello")
            except WorkerError as error:
                said[name] = {"error": str(error)}
        self._see_peak(said)
        return said

    def _see_peak(self, said: dict) -> None:
        self.peak = max([self.peak, *(each.get("gemm_flops", 0.0) for each in said.values())])

    def workload(self, name: str) -> None:
        """Agreement, rollout, policy step and whole step of one workload."""
        note = self.notes.setdefault(name, {})
        folder = str(self.folder / name)
        ours = self.workers["ours"]
        self.say(f"{name}: loading and tuning")
        self._see_peak({"ours": ours.ask("hello")})  # the machine's speed changes over minutes
        sides = {"ours": ours, "ours-repeated": self.workers["ours-repeated"]}
        for side, worker in sides.items():
            worker.ask("prepare", workload=name, folder=folder, variants=[VARIANTS[side]])
            note[side] = worker.ask("settle", variant=VARIANTS[side])
        for peer in ("transformers", "transformers+compile"):
            if peer.endswith("compile") and name not in COMPILED:
                continue
            try:
                note[peer] = self._prepare_torch(peer, name, folder)
                sides[peer] = self.workers[peer]
            except WorkerError as error:
                self._failed(name, ("rollout", "policy_step"), peer, error)
        for phase in ("rollout", "policy_step"):
            self._phase(name, phase, sides)
        for peer in ("ours-repeated", "transformers", "transformers+compile"):
            self.workers[peer].close()
        self._rl_steps(name, folder)

    def _prepare_torch(self, peer: str, name: str, folder: str) -> dict:
        compiled, worker = peer.endswith("compile"), self.workers[peer]
        began = time.perf_counter()
        worker.ask("prepare", workload=name, folder=folder, compiled=compiled)
        note = self.notes[name]
        note[f"largest difference of log-probs, {peer}"] = self._agreement(name, worker)
        if compiled:  # every size compiles again: the eager ones' best size and head
            tuned = note.get("transformers", {"microbatch": 32, "head": "plain"})
            chosen = {"sizes": [tuned["microbatch"]], "heads": [tuned["head"]]}
        else:
            quick = {"sizes": [32], "heads": ["plain"]}
            chosen = quick if self.quick else {"sizes": TORCH_PARTS[name]}
        tuned = worker.ask("tune", timeout=SLOWEST, **chosen)
        return tuned | {"tuning_s": round(time.perf_counter() - began, 1)}

    def _agreement(self, name: str, torch: Worker) -> float:
        """The largest difference of a log-prob of the given responses, before any update."""
        paths = [str(self.folder / f"{name}.{side}.npy") for side in ("ours", "torch")]
        self.workers["ours"].ask("logps", out=paths[0])
        torch.ask("logps", out=paths[1])
        difference = float(np.abs(np.load(paths[0]) - np.load(paths[1])).max())
        if difference > AGREEMENT:
            raise WorkerError(f"{name}: log-probs differ by {difference:.1e}: not the same model")
        return difference

    def _phase(self, name: str, phase: str, sides: dict[str, Worker]) -> None:
        def call(peer: str, worker: Worker) -> Callable[[], float]:
            extra = {}
            if peer.startswith("ours"):
                extra["variant"] = VARIANTS[peer]
            elif phase == "rollout":
                extra["compiled"] = peer.endswith("compile")

            def one() -> float:
                reply = worker.ask("time", timeout=SLOWEST, phase=phase, **extra)
                self._noted(name, phase, peer, reply)
                return reply["seconds"]

            return one

        asked = [peer for peer in sides if phase == "policy_step" or peer != "ours-repeated"]
        calls = {peer: call(peer, sides[peer]) for peer in asked}  # "curves" has repeated rollouts
        self._add(name, phase, *in_turns(calls, self.rounds))

    def _noted(self, name: str, phase: str, peer: str, reply: dict) -> None:
        """Keeps the highest memory, and the seconds that the first call spent compiling."""
        seen = self.notes[name].setdefault("calls", {}).setdefault(f"{phase} {peer}", {})
        seen["peak_rss_gib"] = reply["peak_rss_gib"]
        seen["compile_s"] = round(seen.get("compile_s", 0.0) + reply.get("compile_s", 0.0), 2)
        if "numbers" in reply:
            seen.setdefault("numbers", []).append(reply["numbers"])

    def _add(self, name: str, phase: str, found: dict, errors: dict, text_only=()) -> None:
        for seen in self.notes[name].get("calls", {}).values():
            if isinstance(seen.get("numbers"), list):
                seen["numbers"] = _typical(seen["numbers"][-self.rounds :])
        rows = rows_of(WORKLOADS[name], phase, found, errors, text_only)
        self.rows += rows
        note = self.notes[name]
        calls = note.get("calls", {})
        for row in rows:
            own = calls.get(f"{phase} ours", {})
            tuned = note["ours"]["compile_s"] if phase == "policy_step" else 0.0
            row["ours_compile_s"] = round(own.get("compile_s", 0.0) + tuned, 2)
            row["ours_peak_rss_gib"] = own.get("peak_rss_gib")
            row["peer_peak_rss_gib"] = calls.get(f"{phase} {row['peer']}", {}).get("peak_rss_gib")
            got = row.get("error") or f"{row['ratio']:.2f} times, {row['ours_s']:.3f} s"
            self.say(f"{name} {phase} against {row['peer']}: {got}")

    def _failed(self, name: str, phases: tuple[str, ...], peer: str, error: Exception) -> None:
        self.say(f"{name}: {error}")
        self.rows += [
            {"workload": name, "phase": phase, "peer": peer, "error": str(error)}
            for phase in phases
        ]

    def _rl_steps(self, name: str, folder: str) -> None:
        """Whole steps through each side's trainer: pictures and texts in, an update at the end."""
        note, ours = self.notes[name], self.workers["ours"]
        ours.ask("begin")
        sides = {"ours": ours}
        trl, tunix = self.workers["trl"], self.workers["tunix"]
        try:
            tried = {}
            parts = TRL_PARTS[name][: 1 if self.quick else None]
            for micro in parts:
                trl.ask("prepare", workload=name, folder=folder, micro=micro)
                if len(parts) > 1:
                    trl.ask("time", phase="rl_step")
                    tried[micro] = trl.ask("time", phase="rl_step")["seconds"]
            best = min(tried, key=tried.get, default=micro)
            if best != micro:
                trl.ask("prepare", workload=name, folder=folder, micro=best)
            sides["trl"] = trl
            note["trl"] = {"microbatch": best, "tried": tried}
        except WorkerError as error:
            self._failed(name, ("rl_step",), "trl", error)
        try:
            if name in TUNIX:
                note["tunix"] = tunix.ask("prepare", workload=name, folder=folder)
                sides["tunix"] = tunix
        except WorkerError as error:
            self._failed(name, ("rl_step",), "tunix", error)

        def call(peer: str, worker: Worker) -> Callable[[], float]:
            def one() -> float:
                reply = worker.ask("time", phase="rl_step")
                self._noted(name, "rl_step", peer, reply)
                return reply["seconds"]

            return one

        calls = {peer: call(peer, worker) for peer, worker in sides.items()}
        self._add(name, "rl_step", *in_turns(calls, self.rounds), text_only=("tunix",))
        trl.close()
        tunix.close()

    def tiny_step(self) -> None:
        """W4: the tiny config's own step, and where its time goes."""
        ours, steps = self.workers["ours"], max(2, 2 * self.rounds)
        began = time.perf_counter()
        ours.ask("begin", config="tiny")
        first = [ours.ask("time", phase="rl_step") for _ in range(2)]  # both compile
        ready = time.perf_counter() - began
        replies = [ours.ask("time", phase="rl_step") for _ in range(steps)]
        took = [reply["seconds"] for reply in replies]
        numbers = [reply["numbers"] for reply in replies]
        typical = _typical(numbers)
        self.notes["W4"] = {
            "numbers": typical,
            "first_two_steps_ready_s": round(ready, 1),
            "compile_s": round(sum(reply["compile_s"] for reply in first), 1),
            "compile_s_afterwards": round(sum(reply["compile_s"] for reply in replies), 2),
            "peak_rss_gib": replies[-1]["peak_rss_gib"],
        }
        row = {"workload": "W4", "phase": "rl_step", "peer": ""}
        median = statistics.median(took)
        row |= {"ours_s": median, "ours_low_s": min(took), "ours_high_s": max(took)}
        row["tokens_per_s"] = round(typical.get("rollout/tokens_per_s", 0.0))
        row |= {name: typical[name] for name in typical if "padding" in name or "idle" in name}
        self.rows.append(row)
        self.say(f"W4 rl_step: {median:.3f} s")


def _typical(numbers: list[dict[str, float]]) -> dict[str, float]:
    """Means of seconds over all steps (so that phases add up), medians of everything else over the
    steps that have it."""
    found = {}
    for name in sorted(set().union(*numbers)):
        if name.startswith("time/"):
            found[name] = round(statistics.mean(n.get(name, 0.0) for n in numbers), 5)
        else:
            found[name] = round(statistics.median(n[name] for n in numbers if name in n), 4)
    return found
