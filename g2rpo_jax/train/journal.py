"""What a run writes beside its checkpoints: configuration, numbers, samples, summary, page."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from absl import logging

from g2rpo_jax import metrics, report
from g2rpo_jax.config import RunConfig, to_plain
from g2rpo_jax.data.example import Example
from g2rpo_jax.data.media import Limits
from g2rpo_jax.train import samples
from g2rpo_jax.train.rows import Row


class Journal:
    """The files of a run folder. Of several processes one writes; the others' journals do not."""

    def __init__(self, workdir: Path, config: RunConfig, *, start: int, writes: bool = True):
        """Opens the files, and drops what earlier lives of the run wrote of `start` and later.

        Raises:
          ValueError: they cannot be written.
        """
        self._workdir, self._config, self._writes = Path(workdir), config, writes
        if not writes:
            return
        try:
            report.write_json(self._workdir / "config.json", to_plain(config))
            self._numbers = metrics.Writer(workdir, start=start, tensorboard=config.log.tensorboard)
            self._samples = report.SampleLog(workdir, start=start)
        except OSError as error:
            raise ValueError(f"{workdir} cannot be written: {error}") from error

    def describe(self, text: str) -> None:
        """Keeps the description of the run."""
        if self._writes:
            path = self._workdir / "description.txt"
            try:
                path.write_text(text + "\n", encoding="utf-8", errors="replace")
            except OSError as error:
                logging.error("%s: %s", path, error)

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """One line of metrics.jsonl."""
        if self._writes:
            self._numbers.write(step, numbers)

    def rows(
        self,
        step: int,
        rows: list[samples.Fate],
        limits: Limits,
        example_of: Callable[[Row], Example],
    ) -> None:
        """Some of a step's rows for samples.jsonl, where it is their turn; see samples.write."""
        if self._writes and step % self._config.log.samples_every == 0:
            count = self._config.log.samples
            samples.write(self._samples, step, rows, count, limits, example_of)

    def sync(self) -> None:
        """Puts all lines on the disk, as a checkpoint stands for the lines before it.

        Raises:
          OSError: it is full.
        """
        if self._writes:
            self._numbers.sync()
            self._samples.sync()

    def finish(self, summary: dict, tasks: tuple[str, ...]) -> str:
        """Closes the logs; writes summary, curves and page; returns the last words for the user."""
        if not self._writes:
            return ""
        self._numbers.close()
        self._samples.close()
        try:
            report.write_json(self._workdir / "summary.json", summary)
            curves = report.curves(self._workdir, tasks)
        except OSError as error:
            return f"{self._workdir}: {error}; the summary reads\n{json.dumps(summary, indent=1)}"
        return report.closing(self._workdir, summary, curves, self._page())

    def _page(self) -> Path | None:
        """Writes report.html; a run whose results are saved does not fail over its page."""
        try:
            return report.write_page(self._workdir, to_plain(RunConfig()))
        except Exception:
            logging.exception(
                "no report.html: `python launch/report.py %s` tries again", self._workdir
            )
            return None
