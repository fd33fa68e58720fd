"""The run, top to bottom: rollout, rewards, filter, advantages, updates; then log, look, save."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from g2rpo_jax import metrics
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.config import RunConfig
from g2rpo_jax.parallel.processes import Group
from g2rpo_jax.train import measure, samples
from g2rpo_jax.train import resume as resuming
from g2rpo_jax.train.clock import AROUND, STEP, Clock
from g2rpo_jax.train.filtering import collect
from g2rpo_jax.train.journal import Journal
from g2rpo_jax.train.trainer import Trainer

Evaluations = dict[int, dict[str, dict[str, float]]]  # step -> task -> TaskScore's fields


def run(
    config: RunConfig,
    workdir: Path,
    resume: bool = False,
    say: Callable[[str], None] = logging.info,
    group: Group | None = None,
    began: float | None = None,
) -> dict:
    """Trains to the end, or until asked to stop; writes and returns the summary.

    Args:
      config: resolved configuration.
      workdir: where everything is written.
      resume: go on from the newest sound checkpoint in `workdir`, or begin where there is none yet.
      say: takes the description at the start and the table at the end.
      group: the processes of the run, which all call this; None: this one alone. The first one
        writes and says what there is to be written and said.
      began: when the program did, as time.perf_counter() gave it, so that imports count; None: now.
    Raises:
      ValueError: bad input (the message names file, row or field), a run that cannot be gone on
        with, or a last checkpoint that could not be written.
    """
    clock = Clock(began)
    compiles = metrics.CompileCounter()
    workdir, group = Path(workdir), group or Group()
    if not group.is_first:
        say = logging.debug
    checkpoints = Checkpoints(
        workdir / "checkpoints", config.checkpoint.keep, config.checkpoint.keep_best
    )
    facts = resuming.facts(config)
    saved = resuming.find(checkpoints, facts, workdir)
    if saved and not resume:
        raise ValueError(f"{workdir} already holds a run: add --resume to go on, or name another")
    trainer = Trainer(config, group, clock)
    first, evaluations, earlier_s = 0, {}, 0.0
    if saved:
        first = saved.step
        evaluations, earlier_s = resuming.restore(trainer, checkpoints, saved)
        say("\n".join([f"resumed   after step {first} of {workdir}", *saved.remarks]))
    elif (workdir / "config.json").exists():
        say(f"resumed   {workdir} has no checkpoint yet: from the beginning")
    # What is there of step 0, the first evaluation, comes again without a checkpoint.
    start = first + 1 if saved else 0
    journal = Journal(workdir, config, start=start, writes=group.is_first)
    described = trainer.describe() if group.is_first else ""
    journal.describe(described)
    say(described)

    def save(step: int) -> None:
        host = {
            "evaluations": _keyed(evaluations),
            "wall_s": earlier_s + clock.total,
            **facts,
            **trainer.host_state(),
        }
        try:
            journal.sync()
        except OSError as error:
            checkpoints.failed(step, error)
            return
        accuracy = mean_accuracy(evaluations[step]) if step in evaluations else None
        checkpoints.save(step, trainer.state, host, accuracy)

    def line(step: int, numbers: dict[str, float]) -> None:
        """Writes a line of numbers: it accounts for all seconds since the line before."""
        clock.lap("log")
        numbers |= _standing(trainer, compiles, checkpoints)
        numbers |= clock.numbers(AROUND) | {"time/wall_s": earlier_s + clock.total}
        journal.numbers(step, numbers)

    due = evaluation_steps(config, trainer.steps)
    step = first
    shown = {"desc": "train", "dynamic_ncols": True, "disable": not group.is_first}
    bar = tqdm(total=trainer.steps, initial=first, **shown)
    with _stop_signals() as stop, bar:
        clock.lap("start")
        if first == 0 and config.eval.every:
            evaluations[0], numbers = _evaluate(trainer)
            line(0, numbers)
        for step in range(first + 1, trainer.steps + 1):
            numbers, rows = _step(trainer, step)
            if step == first + 1:
                started = _started(clock, compiles)
                journal.describe(f"{described}\n{started}")
                with bar.external_write_mode():
                    say(started)
            journal.rows(step, rows, trainer.processor.limits, trainer.example_of)
            if step in due:
                evaluations[step], scores = _evaluate(trainer)
                numbers |= scores
            line(step, numbers)
            _show(bar, numbers, evaluations)
            stopping = group.any(stop.asked, "stop")  # a signal may reach one process alone
            if step == trainer.steps or stopping or save_due(config, step, evaluations):
                clock.lap("log")
                save(step)
                clock.lap("checkpoint")
            if stopping:
                break
    clock.lap("log")
    checkpoints.close()
    trainer.close()
    clock.lap("close")
    summary = {
        "steps": step,
        "finished": step == trainer.steps,
        "wall_seconds": round(earlier_s + clock.total, 2),
        "seconds": {"earlier": round(earlier_s, 2)}
        | {phase: round(seconds, 2) for phase, seconds in clock.seconds.items()},
        **outcome(evaluations, config.eval.final_count),
        "best": best(evaluations),
        "compile": {
            "count": compiles.count,
            "read": compiles.read,
            "seconds": round(compiles.seconds, 2),
        },
        "rows_skipped": trainer.skips.by_reason,
        "rows_skipped_by_file": trainer.skips.by_file,
        "rows_skipped_first": trainer.skips.messages,
        "reward_failures": dict(trainer.scorer.failures),
        "checkpoint_failures": checkpoints.failures,
        "evaluations": _keyed(evaluations),
    }
    say(journal.finish(summary, trainer.tasks))
    if checkpoints.error:
        newest = checkpoints.latest()
        raise ValueError(
            f"the last checkpoint could not be written ({checkpoints.error}): make room, and "
            f"--resume goes on "
            + ("from the beginning" if newest is None else f"after step {newest}")
        )
    return summary


def save_due(config: RunConfig, step: int, evaluations: Evaluations) -> bool:
    """Whether a checkpoint falls on `step`: every checkpoint.every steps, and on every evaluation
    that is among the checkpoint.keep_best best so far."""
    if config.checkpoint.every and step % config.checkpoint.every == 0:
        return True
    if step not in evaluations:
        return False
    others = [mean_accuracy(scores) for s, scores in evaluations.items() if 0 < s < step]
    better = sum(other > mean_accuracy(evaluations[step]) for other in others)
    return better < config.checkpoint.keep_best


def best(evaluations: Evaluations) -> dict[str, float]:
    """The step (the last one of equals) with the highest mean accuracy after the start, and that
    accuracy; empty without evaluations."""
    means = {step: mean_accuracy(scores) for step, scores in evaluations.items() if step > 0}
    if not means:
        return {}
    step = max(means, key=lambda s: (means[s], s))
    return {"step": step, "accuracy": means[step]}


def mean_accuracy(scores: dict[str, dict[str, float]]) -> float:
    """The mean over tasks of an evaluation's accuracies."""
    return float(np.mean([score["accuracy"] for score in scores.values()]))


def evaluation_steps(config: RunConfig, steps: int) -> set[int]:
    """Steps after which the run evaluates: every `every`, and the last `final_count` times."""
    if not config.eval.every:
        return set()
    regular = set(range(config.eval.every, steps, config.eval.every))
    final = {steps - i * config.eval.final_every for i in range(config.eval.final_count)}
    return {step for step in regular | final if step > 0}


def outcome(evaluations: Evaluations, final_count: int) -> dict:
    """Accuracy before and after, per task and mean; `after` is the mean of the last evaluations.

    Returns:
      {"before": {task: accuracy, ..., "mean": ...}, "after": the same}; empty dicts where there
      was no evaluation.
    """
    steps = sorted(evaluations)
    last = [s for s in steps if s > 0][-final_count:]

    def mean(chosen: list[int]) -> dict[str, float]:
        if not chosen:
            return {}
        tasks = evaluations[chosen[0]]
        scores = {
            task: float(np.mean([evaluations[s][task]["accuracy"] for s in chosen]))
            for task in tasks
        }
        return scores | {"mean": float(np.mean(list(scores.values())))}

    return {"before": mean([0] if 0 in evaluations else []), "after": mean(last)}


def _step(trainer: Trainer, step: int) -> tuple[dict[str, float], list[samples.Fate]]:
    """One step of the pipeline; returns its numbers and what became of every row."""
    config, clock = trainer.config, trainer.clock
    clock.lap("log")
    started = clock.last
    trainer.encoder.packed.clear()
    trainer.scoring_s, decoded = 0.0, trainer.programs.engine.slots
    passed = trainer.feed.passed
    replayed = trainer.replay.take(step, config.batch.prompts)
    got = collect(
        config.filter,
        step,
        config.batch.prompts - len(replayed),
        trainer.surplus,
        lambda: trainer.rollout(step),
    )
    trainer.surplus = got.surplus
    trainer.replay.add(got.rows)
    got = got.with_replayed(replayed)
    sums, adv_PG, trusted = [], None, trainer.trusts_sampler()
    if got.rows:
        sums, adv_PG, keep_PG = trainer.learn(got.rows, step, got.replayed)
    else:
        logging.warning("step %d: no row passed the filter; going on without an update", step)
    clock.lap("update" if got.rows else "reward")
    numbers = {"time/step_s": clock.last - started} | clock.numbers(STEP)
    numbers |= measure.rollout_numbers(got, config.filter)
    numbers |= measure.padding_numbers(trainer.encoder.packed)
    numbers["data/passed_over"] = trainer.feed.passed - passed
    numbers["time/scoring_s"] = trainer.scoring_s
    if got.rounds:  # a full surplus needs no generation
        tokens = sum(int(row.length_G.sum()) for row in got.sampled)
        numbers["rollout/tokens_per_s"] = tokens / numbers["time/rollout_s"]
        decoded = (trainer.programs.engine.slots - decoded) * trainer.group.count
        numbers["rollout/idle_share"] = 1 - tokens / decoded
    if sums:
        numbers |= measure.update_numbers(sums, trainer.tasks) | trainer.ledger
        numbers["policy/lr"] = float(trainer.learning_rate(step))
        numbers["batch/kept_responses_share"] = keep_PG.mean()
        if config.batch.minibatches > 1:
            numbers["rollout/gap_trusted"] = trusted
    numbers |= trainer.bounds.numbers()
    trainer.bounds.see(got.sampled, sums)
    return numbers, samples.fates(got, adv_PG, config.filter)


def _started(clock: Clock, compiles: metrics.CompileCounter) -> str:
    """What passed until the first update was done, in words."""
    took = clock.seconds
    parts = {"imports, model and data": took["start"], "evaluation": took["eval"]}
    parts["step"] = sum(took[phase] for phase in STEP)
    told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items() if seconds)
    return (
        f"start     first update after {clock.total:.1f} s: {told}; of that {compiles.count} "
        f"programs in {compiles.seconds:.1f} s, {compiles.read} read from the cache"
    )


def _evaluate(trainer: Trainer) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    trainer.clock.lap("log")
    scores = {task: dataclasses.asdict(s) for task, s in trainer.evaluate().items()}
    numbers = {}
    for name, key in (("accuracy", "accuracy"), ("format", "format"), ("length_tokens",) * 2):
        numbers[f"eval/{name}"] = float(np.mean([score[key] for score in scores.values()]))
        numbers |= {f"eval/{name}/{task}": score[key] for task, score in scores.items()}
    numbers |= {f"eval/accuracy_stderr/{task}": s["stderr"] for task, s in scores.items()}
    trainer.clock.lap("eval")
    return scores, numbers


def _standing(
    trainer: Trainer, compiles: metrics.CompileCounter, checkpoints: Checkpoints
) -> dict[str, float]:
    checkpoints.poll()
    return {
        "checkpoint/failures": checkpoints.failures,
        "compile/count": compiles.count,
        "compile/seconds": compiles.seconds,
        "host/rss_gib": metrics.rss_gib(),
        "data/skipped": trainer.skips.total(),
        "reward/failures": sum(trainer.scorer.failures.values()),
    }


def _show(bar: tqdm, numbers: dict[str, float], evaluations: Evaluations) -> None:
    bar.update()
    shown = {
        "accuracy": numbers.get("reward/accuracy"),
        "tok/s": numbers.get("rollout/tokens_per_s"),
    }
    if evaluations:
        shown["held-out"] = mean_accuracy(evaluations[max(evaluations)])
    formats = {"tok/s": "{:,.0f}"}
    bar.set_postfix(
        {k: formats.get(k, "{:.3f}").format(v) for k, v in shown.items() if v is not None}
    )


def _keyed(evaluations: Evaluations) -> dict:
    return {str(step): scores for step, scores in sorted(evaluations.items())}


class _Stop:
    asked = False


@contextlib.contextmanager
def _stop_signals():
    """SIGTERM and the first Ctrl-C let the step finish, save and leave; a second Ctrl-C kills."""
    stop = _Stop()

    def ask(number, _):
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.asked = True
        tqdm.write(f"{signal.Signals(number).name}: finishing this step, then saving", end="\n")

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
