"""The run, top to bottom: rollout, rewards, filter, advantages, updates; then log, look, save."""

import collections
import contextlib
import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from g2rpo_jax import metrics, report
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.config import RunConfig, to_plain
from g2rpo_jax.train import measure, samples
from g2rpo_jax.train.filtering import collect
from g2rpo_jax.train.trainer import Trainer

Evaluations = dict[int, dict[str, dict[str, float]]]  # step -> task -> TaskScore's fields


def run(
    config: RunConfig,
    workdir: Path,
    resume: bool = False,
    say: Callable[[str], None] = logging.info,
) -> dict:
    """Trains to the end, or until asked to stop; writes and returns the summary.

    Args:
      config: resolved configuration.
      workdir: where everything is written.
      resume: go on from the newest checkpoint in `workdir`.
      say: takes the description at the start and the table at the end.
    Raises:
      ValueError: bad input (the message names file, row or field), or nothing to resume.
    """
    started = time.perf_counter()
    compiles = metrics.CompileCounter()
    workdir = Path(workdir)
    trainer = Trainer(config)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
    first, evaluations, earlier_s = 0, {}, 0.0
    if resume:
        first, evaluations, earlier_s = _restore(trainer, checkpoints)
    (workdir / "config.json").write_text(json.dumps(to_plain(config), indent=1) + "\n")
    described = trainer.describe()
    (workdir / "description.txt").write_text(described + "\n", encoding="utf-8", errors="replace")
    say(described)
    writer = metrics.Writer(workdir, start=first + 1, tensorboard=config.log.tensorboard)
    sample_log = report.SampleLog(workdir, start=first + 1)
    due = evaluation_steps(config, trainer.steps)
    step = first
    bar = tqdm(total=trainer.steps, initial=first, desc="train", dynamic_ncols=True)
    with _stop_signals() as stop, bar:
        if first == 0 and config.eval.every:
            evaluations[0], numbers = _evaluate(trainer)
            writer.write(0, numbers | _standing(trainer, compiles))
        for step in range(first + 1, trainer.steps + 1):
            numbers, rows = _step(trainer, step)
            if step % config.log.samples_every == 0:
                samples.write(sample_log, step, rows, config.log.samples, trainer.processor.limits)
            if step in due:
                evaluations[step], scores = _evaluate(trainer)
                numbers |= scores
            writer.write(step, numbers | _standing(trainer, compiles))
            _show(bar, numbers, evaluations)
            last = step == trainer.steps or stop.asked
            if last or (config.checkpoint.every and step % config.checkpoint.every == 0):
                wall_s = earlier_s + time.perf_counter() - started
                host = {"evaluations": _keyed(evaluations), "wall_s": wall_s}
                checkpoints.save(step, trainer.state, host | trainer.host_state())
            if stop.asked:
                break
    checkpoints.close()
    writer.close()
    sample_log.close()
    trainer.close()
    summary = {
        "steps": step,
        "finished": step == trainer.steps,
        "wall_seconds": round(earlier_s + time.perf_counter() - started, 2),
        **outcome(evaluations, config.eval.final_count),
        "compile": {"count": compiles.count, "seconds": round(compiles.seconds, 2)},
        "rows_skipped": trainer.skips.by_reason,
        "rows_skipped_by_file": trainer.skips.by_file,
        "rows_skipped_first": trainer.skips.messages,
        "reward_failures": dict(trainer.scorer.failures),
        "evaluations": _keyed(evaluations),
    }
    report.write_json(workdir / "summary.json", summary)
    curves = report.curves(workdir, trainer.tasks)
    say(report.closing(workdir, summary, curves, _page(workdir)))
    return summary


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


def _page(workdir: Path) -> Path | None:
    """Writes report.html; a run whose results are saved does not fail over its page."""
    try:
        return report.write_page(workdir, to_plain(RunConfig()))
    except Exception:
        logging.exception("no report.html: `python launch/report.py %s` tries again", workdir)
        return None


def _step(trainer: Trainer, step: int) -> tuple[dict[str, float], list[samples.Fate]]:
    """One step of the pipeline; returns its numbers and what became of every row."""
    config, clock = trainer.config, collections.Counter()
    started = time.perf_counter()
    trainer.encoder.packed.clear()
    got = collect(
        config.filter,
        step,
        config.batch.prompts,
        trainer.surplus,
        lambda: trainer.rollout(step, clock),
    )
    trainer.surplus = got.surplus
    numbers = measure.rollout_numbers(got, config.filter)
    learned = time.perf_counter()
    adv_PG = None
    if got.rows:
        sums, adv_PG = trainer.learn(got.rows, step)
        numbers |= measure.update_numbers(sums, trainer.tasks)
        numbers["policy/lr"] = float(trainer.learning_rate(step))
    else:
        logging.warning("step %d: no row passed the filter; going on without an update", step)
    ended = time.perf_counter()
    numbers |= measure.padding_numbers(trainer.encoder.packed)
    numbers |= {
        "time/rollout_s": clock["rollout"],
        "time/reward_s": clock["reward"],
        "time/update_s": ended - learned,
        "time/step_s": ended - started,
    }
    if got.rounds:  # a full surplus needs no generation
        numbers["rollout/tokens_per_s"] = clock["tokens"] / clock["rollout"]
    return numbers, samples.fates(got, adv_PG, config.filter)


def _evaluate(trainer: Trainer) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    started = time.perf_counter()
    scores = {task: dataclasses.asdict(s) for task, s in trainer.evaluate().items()}
    numbers = {"time/eval_s": time.perf_counter() - started}
    for name, key in (("accuracy", "accuracy"), ("format", "format"), ("length_tokens",) * 2):
        numbers[f"eval/{name}"] = float(np.mean([score[key] for score in scores.values()]))
        numbers |= {f"eval/{name}/{task}": score[key] for task, score in scores.items()}
    numbers |= {f"eval/accuracy_stderr/{task}": s["stderr"] for task, s in scores.items()}
    return scores, numbers


def _standing(trainer: Trainer, compiles: metrics.CompileCounter) -> dict[str, float]:
    return {
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
        latest = evaluations[max(evaluations)]
        shown["held-out"] = float(np.mean([score["accuracy"] for score in latest.values()]))
    formats = {"tok/s": "{:,.0f}"}
    bar.set_postfix(
        {k: formats.get(k, "{:.3f}").format(v) for k, v in shown.items() if v is not None}
    )


def _keyed(evaluations: Evaluations) -> dict:
    return {str(step): scores for step, scores in sorted(evaluations.items())}


def _restore(trainer: Trainer, checkpoints: Checkpoints) -> tuple[int, Evaluations, float]:
    step = checkpoints.latest()
    if step is None:
        raise ValueError(f"{checkpoints.directory} holds no checkpoint: nothing to resume")
    trainer.state, host = checkpoints.restore(step, trainer.state)
    trainer.restore_host(host)
    evaluations = {int(key): scores for key, scores in host["evaluations"].items()}
    return step, evaluations, host["wall_s"]


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
