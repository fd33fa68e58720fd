"""A batch of responses in, their scores out.

Where a response is scored:

- Here, by a built-in reward: short texts (INLINE_CHARS). Their time and memory are bounded by
  their length (every built-in reward says how), 30 ms at worst; a child would add the
  cost of the pipe and protect from nothing.
- In a child process (`pool`), under the deadline and the memory limit: symbolic comparison, custom
  rewards, and long texts.
- By the judge (`judge`), if there is one: open-ended answers.
"""

import collections
import threading
from collections.abc import Iterable, Mapping, Sequence

from absl import logging

from g2rpo_jax.rewards import parse, table
from g2rpo_jax.rewards.pool import Pool
from g2rpo_jax.rewards.settings import (
    Item,
    Question,
    RewardConfig,
    Score,
    TaskReward,
    is_dotted,
)
from g2rpo_jax.rewards.table import Graded

INLINE_CHARS = 20_000  # of a response and its row's answer together
MAX_VERDICTS = 20_000
WARNINGS = 3  # of each kind of failure that a custom reward caused


class Scorer:
    """Scores responses; owns the processes that do what the training process must not.

    Attributes:
      failures: how many responses could not be scored as they should, by kind (`parse.KINDS`),
        since construction.

    Safe to share between threads. `close()` ends the processes at once; else they end with the
    Scorer.

    Args:
      config: default RewardConfig().
      by_task: what differs for the rows of some tasks, by task name.
    Raises:
      ValueError: a reward's name is neither one that `table.named` knows nor a path to a function.
    """

    def __init__(
        self, config: RewardConfig | None = None, by_task: Mapping[str, TaskReward] | None = None
    ):
        self.config = config = config or RewardConfig()
        self.failures: collections.Counter[str] = collections.Counter()
        self._tasks = {name: self._checked(name, task) for name, task in (by_task or {}).items()}
        paths = {config.custom} | {task.reward for task in self._tasks.values()}
        self._how = {
            "mode": config.mode,
            "think_tag": config.think_tag,
            "untagged": config.untagged_answers,
        }
        self._pool = Pool(
            config.workers,
            config.deadline_s,
            config.memory_mb,
            custom=sorted(filter(is_dotted, paths)),
            **self._how,
        )
        self._judge = None
        if config.judge_url:
            from g2rpo_jax.rewards import judge  # brings ssl and more that children do without

            self._judge = judge.Judge(config)
        self._verdicts: dict[tuple[str, str], float | str] = {}
        self._warned: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        if any(map(is_dotted, paths)):
            self._pool.start()  # so that a reward that is not there ends the run at once

    @staticmethod
    def _checked(name: str, task: TaskReward) -> TaskReward:
        if task.reward and not is_dotted(task.reward):
            try:
                table.named(task.reward)
            except ValueError as problem:
                raise ValueError(
                    f"the reward {task.reward!r} of task {name!r} is neither a built-in one nor a"
                    f" path 'module:function': {problem}"
                ) from None
        return task

    @property
    def replaced(self) -> int:
        """Child processes that were killed or found dead, and replaced."""
        return self._pool.replaced

    def score_batch(self, items: Iterable[Item | tuple[str, ...]]) -> list[Score]:
        """Scores of every item, in order; plain tuples in the order of Item's fields will do.

        Raises:
          ValueError: an unknown problem type.
          RuntimeError: a child process is needed and cannot be started.
        """
        batch = [Item(*item) for item in items]
        kinds = [self._kind(item) for item in batch]
        graded = self._by_custom(batch, kinds)
        rest = [i for i, found in enumerate(graded) if found is None]
        for i, found in zip(rest, self._built_in(batch, kinds, rest), strict=True):
            graded[i] = found
        return [self._total(item, found) for item, found in zip(batch, graded, strict=True)]

    def score(
        self, response: str, answer: str, problem_type: str, data_type: str = "image"
    ) -> Score:
        """The scores of one response; raises as `score_batch` does."""
        return self.score_batch([Item(response, answer, problem_type, data_type)])[0]

    def close(self) -> None:
        """Ends the child processes; later batches start others."""
        self._pool.close()

    def _kind(self, item: Item) -> str:
        """The problem type that an item is scored as, or what its task names instead."""
        task = self._tasks.get(item.task)
        if task and task.reward and not is_dotted(task.reward):
            return task.reward
        return table.canonical(item.problem_type)

    def _path(self, item: Item) -> str:
        """The custom reward of an item, or an empty string."""
        task = self._tasks.get(item.task)
        if task and task.reward:
            return task.reward if is_dotted(task.reward) else ""
        return self.config.custom

    def _by_custom(self, batch: Sequence[Item], kinds: Sequence[str]) -> list[Graded | None]:
        """What custom rewards say; None where there is none or it abstains."""
        graded: list[Graded | None] = [None] * len(batch)
        asked = [(i, path) for i, item in enumerate(batch) if (path := self._path(item))]
        requests = [{"op": "custom", "path": p} | _texts(batch[i], kinds[i]) for i, p in asked]
        if not requests:
            return graded
        for (i, path), reply in zip(asked, self._pool.run(requests), strict=True):
            if not reply.get("abstains"):
                graded[i] = self._read(reply, path)
        return graded

    def _built_in(
        self, batch: Sequence[Item], kinds: Sequence[str], which: Sequence[int]
    ) -> list[Graded]:
        """What the built-in rewards say of the items `which`."""
        graded: dict[int, Graded] = {}
        judged: dict[int, Question] = {}
        far = []
        for i in which:
            item = batch[i]
            if self._judge and kinds[i] == "open-ended":
                question = self._question(item)
                if question:
                    judged[i] = question
            if len(item.response) + len(item.answer) > INLINE_CHARS:
                far.append(i)
            else:
                graded[i] = table.grade(*item[:2], kinds[i], item.data_type, **self._how)
        asking = self._judge.begin(list(judged.values())) if judged else None
        requests = [
            {"op": "grade", "symbolic": table.named(kinds[i]).symbolic} | _texts(batch[i], kinds[i])
            for i in far
        ]
        pending = {i: found.pending for i, found in graded.items() if found.pending}
        known = self._known(pending.values())
        unknown = [key for key in dict.fromkeys(pending.values()) if key not in known]
        requests += [
            {"op": "equal", "symbolic": True, "answer": answer, "truth": truth}
            for answer, truth in unknown
        ]
        replies = self._pool.run(requests) if requests else []
        for i, reply in zip(far, replies, strict=False):
            graded[i] = self._read(reply, kinds[i])
        for key, reply in zip(unknown, replies[len(far) :], strict=True):
            known[key] = reply.get("kind") or reply["accuracy"]
        for i, key in pending.items():
            graded[i] = table.resolved(graded[i], known[key])
        self._remember(known)
        if asking:
            for i, verdict in zip(judged, asking.wait(), strict=True):
                graded[i] = self._judgement(graded[i], verdict)
        return [graded[i] for i in which]

    def _known(self, pending: Iterable[tuple[str, str]]) -> dict[tuple[str, str], float | str]:
        """What is remembered of pairs (answer, truth): the responses of a prompt often agree, and
        so do their overruns."""
        with self._lock:
            return {key: self._verdicts[key] for key in pending if key in self._verdicts}

    def _remember(self, known: Mapping[tuple[str, str], float | str]) -> None:
        with self._lock:
            if len(self._verdicts) + len(known) > MAX_VERDICTS:
                self._verdicts.clear()
            # A child that died says nothing about the pair.
            self._verdicts |= {key: value for key, value in known.items() if value != "crash"}

    def _question(self, item: Item) -> Question | None:
        """What to ask the judge about an item; None if it is not to be asked."""
        parts = table.MODES[self.config.mode].response(item.response, self.config.think_tag)
        truth = parse.truth(item.answer)
        if not parts.answer or not (parts.tagged or self.config.untagged_answers):
            return None
        return Question(item.question, truth, parts.answer)

    def _judgement(self, graded: Graded, verdict: float | str) -> Graded:
        """A grade by ROUGE, with what the judge said instead."""
        if not isinstance(verdict, str):
            kept = graded.failure if graded.failure == "no_answer_tags" else None
            return graded._replace(accuracy=verdict, failure=kept)
        if graded.failure in parse.OURS:
            return graded
        accuracy = graded.accuracy if self.config.judge_fallback == "rouge" else 0.0
        if verdict == "too_long":
            accuracy = 0.0
        return graded._replace(accuracy=accuracy, failure=verdict)

    def _read(self, reply: Mapping, who: str) -> Graded:
        """A child's reply; failures of a custom reward are worded for the user, a few times."""
        kind = reply.get("kind")
        if "parts" not in reply:
            with self._lock:
                self._warned[kind] += 1
                warn = self._warned[kind] <= WARNINGS
            if warn:
                detail = reply.get("detail", "")
                logging.warning("reward %s: %s. %s", who, parse.KINDS[kind], detail)
            return table.failed(kind)
        return Graded(*reply["parts"], kind)

    def _total(self, item: Item, graded: Graded) -> Score:
        accuracy, form, structure, failure, _ = graded
        if failure:
            with self._lock:
                self.failures[failure] += 1
        if failure in parse.OURS:
            return Score(0.0, 0.0, 0.0, 0.0, failure)
        task = self._tasks.get(item.task)
        weight = self.config.format_weight
        if task and task.format_weight is not None:
            weight = task.format_weight
        total = (1.0 - weight) * accuracy + weight * form + structure * self.config.structure
        return Score(accuracy, form, structure, total, failure)


def _texts(item: Item, problem_type: str) -> dict[str, str]:
    return {
        "response": item.response,
        "answer": item.answer,
        "problem_type": problem_type,
        "data_type": item.data_type,
    }
