"""An evaluation, top to bottom: rows, model, responses, scores, predictions on disk, tables."""

import collections
import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import logging
from flax import nnx
from tqdm import tqdm

from g2rpo_jax import platform
from g2rpo_jax.data.encoding import patches
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.evaluate import extract, policy, predictions, results
from g2rpo_jax.evaluate.benchmarks import Source, sources
from g2rpo_jax.evaluate.generate import Response, respond
from g2rpo_jax.evaluate.metrics import METRICS, Question
from g2rpo_jax.evaluate.readers import EvalRow, Rows
from g2rpo_jax.evaluate.settings import EvalSettings
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel import rules
from g2rpo_jax.rewards import Item, Scorer
from g2rpo_jax.rollout.encoder import Encoder
from g2rpo_jax.rollout.engine import Engine, chunk_tokens


@dataclasses.dataclass(frozen=True)
class Ready:
    """A row that is encoded and waits for its batch.

    Attributes:
      row: its number in the benchmark.
      seeds: those it has no responses of yet.
    """

    row: int
    item: EvalRow
    prompt: Prompt
    seeds: tuple[int, ...]


def run(
    settings: EvalSettings,
    workdir: Path,
    resume: bool = False,
    say: Callable[[str], None] = logging.info,
    loaded: "Evaluator | None" = None,
) -> dict | None:
    """Evaluates this host's share of the rows; with one host, also the results.

    Args:
      settings: what to do.
      workdir: takes predictions*.jsonl, results.json, results.md.
      resume: go on from the predictions that are there.
      say: takes what is about to run, and the table at the end.
      loaded: a model that is ready, of settings that differ in the rows at most.
    Returns:
      the summary (results.summarise), or None where other hosts are still to be merged.
    Raises:
      ValueError: bad input, or predictions of other settings; the message says what to do.
    """
    chosen = sources(settings.benchmarks, settings.data_dir)
    tables = {source.name: Rows(source, settings.data) for source in chosen}
    evaluator = loaded or Evaluator(settings)
    evaluator.adopt(settings)
    counts = {name: min(len(rows), settings.rows or len(rows)) for name, rows in tables.items()}
    header = {
        "host": settings.host,
        "model": evaluator.origin,
        "settings": settings.fingerprint(),
        "files": {source.name: _files(source) for source in chosen},
        "rows": counts,
    }
    path = predictions.path_of(workdir, settings.host, settings.hosts)
    written = predictions.Predictions(path, header, resume)
    config = workdir / f"config{f'-{settings.host:03d}' if settings.hosts > 1 else ''}.json"
    _write(config, json.dumps(dataclasses.asdict(settings), indent=1) + "\n")
    say(evaluator.describe(counts, path, len(written.done)))
    share = range(settings.host, max(counts.values()), settings.hosts)
    total = sum(len([i for i in share if i < n]) for n in counts.values()) * len(settings.seeds)
    with tqdm(total=total, desc="eval", dynamic_ncols=True) as bar:
        for source in chosen:
            bar.set_postfix(benchmark=source.name)
            evaluator.benchmark(source, tables[source.name], counts[source.name], written, bar)
    written.close()
    if evaluator is not loaded:
        evaluator.close()
    if settings.hosts > 1:
        say(f"host {settings.host} of {settings.hosts} is done: {path}; --merge joins them all")
        return None
    return conclude(workdir, settings, say)


def conclude(workdir: Path, settings: EvalSettings, say: Callable[[str], None]) -> dict:
    """Merges the predictions of a folder into results.json and results.md.

    Args:
      settings: only pass_at, right_from and data.max_bad_share count; the rest is in the files.
    Raises:
      ValueError: hosts or rows are missing, or more rows than allowed could not be used.
    """
    header, entries = predictions.merge(workdir)
    summary = results.summarise(header, entries, settings.pass_at, settings.right_from)
    max_bad_share = settings.data.max_bad_share
    for name, result in summary["benchmarks"].items():
        bad = sum(result["skipped"].values())
        if bad > max_bad_share * (bad + result["rows"]) or not result["rows"]:
            raise ValueError(
                f"{name}: {bad} of {bad + result['rows']} rows could not be used "
                f"({result['skipped']}), allowed is a share of {max_bad_share:g} "
                "(data.max_bad_share); the predictions of the others are kept"
            )
    text = results.table(summary)
    _write(workdir / "results.json", json.dumps(summary, indent=1) + "\n")
    _write(workdir / "results.md", text)
    say(f"\n{text}\nresults      {workdir}/results.json, results.md")
    return summary


class Evaluator:
    """Model, programs and scorer of one evaluation.

    Attributes:
      origin: which model this is, for the predictions' header.
    """

    def __init__(self, settings: EvalSettings):
        self.settings = settings
        self.mesh = meshes.make(settings.mesh)
        meshes.check_rows("prompts", settings.prompts, self.mesh)
        dtype = settings.dtype
        if dtype == "auto":
            dtype = platform.current().compute_dtype
        model, self.origin = policy.load(
            settings.model,
            settings.step,
            dtype,
            functools.partial(rules.sharding_of, self.mesh),
            param_dtype=dtype,
        )
        self.parameters = policy.parameter_count(model)
        graphdef, self.params = nnx.split(model)
        directory = settings.model
        if policy.is_run(Path(directory)):
            directory = policy.directory_of(directory)
        self.processor = Processor(directory, **settings.data.media_options)
        self.encoder = Encoder(settings.data, self.processor, dtype=dtype)
        self.pack = lambda prompts, rows: self.encoder.pack(prompts, rows, model.config)
        self.engine = Engine(
            graphdef,
            self.mesh,
            responses=settings.samples,
            max_tokens=settings.max_tokens,
            chunk=chunk_tokens(
                settings.decode_chunk, settings.max_tokens, platform.current().decode_chunk
            ),
            halvings=settings.decode_halvings,
            sampling=settings.sampling,
            eos=self.processor.eos_ids,
            pad=self.processor.pad_id,
        )
        self.scorer = Scorer(settings.reward)

    def adopt(self, settings: EvalSettings) -> None:
        """Takes other rows: the same model and programs go on.

        Raises:
          ValueError: the settings differ in more than which rows are evaluated.
        """
        rows = ("benchmarks", "data_dir", "rows", "host", "hosts", "pass_at", "right_from")
        same = {name: getattr(self.settings, name) for name in rows}
        if dataclasses.replace(settings, **same) != self.settings:
            raise ValueError(f"a loaded model serves other {', '.join(rows)} only")
        self.settings = settings

    def describe(self, counts: dict[str, int], path: Path, done: int) -> str:
        """What is about to run."""
        s = self.settings
        step = f" step {self.origin['step']}" if self.origin["step"] else ""
        rows = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        how = "greedy" if s.sampling.temperature == 0 else f"temperature {s.sampling.temperature:g}"
        return "\n".join(
            [
                f"model        {s.model}{step}: {self.parameters:,} parameters",
                f"benchmarks   {rows} rows; host {s.host} of {s.hosts}",
                f"responses    {s.samples} x {len(s.seeds)} seeds, {how}, at most {s.max_tokens} "
                "tokens",
                f"predictions  {path}" + (f" ({done:,} there already)" if done else ""),
            ]
        )

    def benchmark(
        self, source: Source, rows: Rows, count: int, written: predictions.Predictions, bar
    ) -> None:
        """Generates, scores and writes what is missing of one benchmark's share."""
        stream = self._ready(source.name, rows, count, written, bar)
        # Encoding runs a batch ahead of the device; rows of one bucket are decoded together.
        waiting: dict[tuple, list[Ready]] = collections.defaultdict(list)
        for ready in _ahead(stream, self.settings.prompts):
            if not isinstance(ready, Ready):
                written.write([ready])
                bar.update(len(self.settings.seeds))
                continue
            batch = waiting[self._bucket(ready)]
            batch.append(ready)
            if len(batch) == self.settings.prompts:
                self._answer(source, batch, written, bar)
                batch.clear()
        for batch in waiting.values():
            if batch:
                self._answer(source, batch, written, bar)

    def _ready(
        self, name: str, rows: Rows, count: int, written: predictions.Predictions, bar
    ) -> Iterator[Ready | dict]:
        """Encoded rows that are not done; for a row that cannot be used, its entry instead."""
        for number in range(self.settings.host, count, self.settings.hosts):
            seeds = tuple(s for s in self.settings.seeds if (name, number, s) not in written.done)
            if not seeds or (name, number, None) in written.done:
                bar.update(len(self.settings.seeds))
                continue
            bar.update(len(self.settings.seeds) - len(seeds))
            try:
                item = rows.row(number)
                yield Ready(number, item, self.encoder.encode(item.example), seeds)
            except BadRow as bad:
                logging.warning("%s", bad)
                yield {
                    "benchmark": name,
                    "row": number,
                    "seed": None,
                    "skipped": bad.reason,
                    "message": str(bad)[:500],
                }

    def _bucket(self, ready: Ready) -> tuple:
        data = self.settings.data
        needed = len(ready.prompt.input_ids), patches(ready.prompt)
        sizes = (data.prompt_tokens, data.patches)
        buckets = (next(s for s in size if s >= n) for size, n in zip(sizes, needed, strict=True))
        return (*buckets, ready.seeds)

    def _answer(
        self, source: Source, batch: list[Ready], written: predictions.Predictions, bar
    ) -> None:
        for seed in batch[0].seeds:
            groups = respond(
                self.engine,
                self.params,
                [ready.prompt for ready in batch],
                self.settings.prompts,
                self.pack,
                self.processor.decode,
                ids=[ready.row for ready in batch],
                seed=seed,
                # Benchmarks draw from streams of their own.
                step=zlib.crc32(source.name.encode()) >> 1,
            )
            questions = [ready.item.question for ready in batch]
            scores = score(self.scorer, source.benchmark.metric, groups, questions)
            written.write(
                [
                    {
                        "benchmark": source.name,
                        "row": ready.row,
                        "seed": seed,
                        "id": ready.item.example.id,
                        "category": ready.item.question.category,
                        "truths": list(ready.item.question.truths),
                        "responses": [
                            {**dataclasses.asdict(response), "score": value}
                            for response, value in zip(group, values, strict=True)
                        ],
                    }
                    for ready, group, values in zip(batch, groups, scores, strict=True)
                ]
            )
            bar.update(len(batch))

    def close(self) -> None:
        """Stops the scorer's processes."""
        self.scorer.close()


def score(
    scorer: Scorer, metric: str, groups: list[list[Response]], questions: list[Question]
) -> list[list[float]]:
    """Scores in [0, 1] of every response of every group.

    Args:
      metric: a name in METRICS; what it leaves to a training reward goes to the scorer.
    """
    out, left, places = [], [], []
    for p, (group, question) in enumerate(zip(groups, questions, strict=True)):
        out.append([0.0] * len(group))
        for g, response in enumerate(group):
            value = METRICS[metric](extract.answer_of(response.text), question)
            if isinstance(value, str):
                left.append(
                    Item(
                        response.text,
                        question.truths[0],
                        value,
                        question.data_type,
                        question=question.text,
                    )
                )
                places.append((p, g))
            else:
                out[p][g] = float(value)
    for (p, g), found in zip(places, scorer.score_batch(left), strict=True):
        out[p][g] = found.accuracy
    return out


def _ahead(items: Iterable, count: int) -> Iterator:
    """The items, made by a thread that is at most `count` of them ahead."""
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "encode")
    queue: collections.deque = collections.deque()
    try:
        while True:
            while len(queue) < count:
                queue.append(pool.submit(next, iterator, end))
            item = queue.popleft().result()
            if item is end:
                return
            yield item
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what nobody will see


def _files(source: Source) -> list[str]:
    """What tells a benchmark's files apart: names and contents, not folders."""
    found = []
    for path in source.paths:
        if path.startswith("embedded:"):
            found.append(path)
            continue
        place = Path(path.partition("?")[0])
        inside = sorted(f for f in place.rglob("*") if f.is_file()) if place.is_dir() else [place]
        found.append(f"{os.path.basename(path)} {policy.stamp(inside)}")
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
