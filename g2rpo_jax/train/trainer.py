"""What the stages of a run share: model, data, compiled programs, state; and the stages."""

import collections
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from g2rpo_jax import advantages, models, platform
from g2rpo_jax.config import RunConfig
from g2rpo_jax.data.batches import PromptStream
from g2rpo_jax.data.encoding import patches
from g2rpo_jax.data.example import Example
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.rows import RowSet
from g2rpo_jax.data.skips import Skips
from g2rpo_jax.evaluate import Beside, Finished, TaskScore, evaluate
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.processes import Group
from g2rpo_jax.rewards import Item, Score, Scorer, TaskReward
from g2rpo_jax.rollout.encoder import Encoder
from g2rpo_jax.rollout.engine import Rollout, join
from g2rpo_jax.train import estimating, state
from g2rpo_jax.train.bounds import Bounds
from g2rpo_jax.train.clock import Clock
from g2rpo_jax.train.curriculum import Curriculum
from g2rpo_jax.train.feed import Drawn, Feed, held_out
from g2rpo_jax.train.filtering import weigh
from g2rpo_jax.train.ledger import numbers as ledger_numbers
from g2rpo_jax.train.packs import Packs
from g2rpo_jax.train.policy_step import StepBatch
from g2rpo_jax.train.programs import Programs
from g2rpo_jax.train.replay import Replay
from g2rpo_jax.train.rows import Row, assign, stack

GAP_STEPS = 8  # steps whose largest gap between sampler and trainer is remembered


class Trainer:
    """Model, data, programs and state of one run.

    Attributes:
      clock: where the stages' seconds go.
      scoring_s: seconds of work on texts and scores, while tokens were sampled and after.
      ledger: numbers of the last step's task ledger; empty where it had none.
    """

    def __init__(self, config: RunConfig, group: Group | None = None, clock: Clock | None = None):
        """
        Args:
          config: resolved.
          group: the processes of the run, all of which make a Trainer; None: this one alone.
          clock: the run's; None: one that begins now.
        """
        self.config, self.group, self.clock = config, group or Group(), clock or Clock()
        self.tasks = tuple(config.tasks)
        self.mesh = meshes.make(config.mesh)
        backend = platform.current()
        dtype = state.compute_dtype(config.model, backend)
        model = models.load(
            config.model.directory,
            dtype=dtype,
            param_dtype=config.model.param_dtype,
            shardings=functools.partial(rules.sharding_of, self.mesh),
        )
        models.suit(model, backend, config.model.attention)
        model.vocab = config.mesh.vocab
        self.model_config = model.config
        graphdef, params, self.frozen = state.split(model, config.model)
        self.processor = Processor(config.model.directory, **config.data.media_options)
        self.encoder = Encoder(config.data, self.processor, self.group, dtype)
        self.skips = Skips()
        train = self._rows(config.data.train)
        shares = {task: config.tasks[task].share for task in self.tasks}
        self.stream = PromptStream(train, seed=config.seed, shares=shares)
        self.curriculum = Curriculum(config.curriculum, self.stream, train.usable, config.seed)
        self.replay = Replay(config.replay, config.seed)
        passes = config.epochs * len(self.stream)
        self.steps = config.steps or max(1, passes // config.batch.prompts)
        self.programs = Programs(
            config,
            self.mesh,
            backend,
            graphdef,
            params,
            self.frozen,
            updates=self.steps * config.batch.minibatches,
            eos=self.processor.eos_ids,
            pad=self.processor.pad_id,
            rows=len(train),
        )
        data = config.data
        self.feed = Feed(
            self.stream,
            train,
            self.encoder,
            self.skips,
            data.workers,
            data.prefetch,
            self.group,
            self.curriculum.passes_over,
        )
        self.test = self._test_items() if config.eval.every else []
        self.limits = {k: t.max_tokens or config.max_tokens for k, t in config.tasks.items()}
        asked = {name: TaskReward(t.reward, t.format_weight) for name, t in config.tasks.items()}
        self.scorer = Scorer(config.reward, asked)
        self.bounds = Bounds(config)
        self.packs = Packs(config, self.mesh, self.group)
        self.surplus: list[Row] = []
        self.scoring_s = 0.0
        self.ledger: dict[str, float] = {}
        self.estimator = self.programs.estimator_state()
        self.gaps: collections.deque[float] = collections.deque(maxlen=GAP_STEPS)
        make = functools.partial(state.create, tx=self.programs.tx)
        placed = rules.shardings(self.programs.state, self.mesh)
        self.reference = (
            jax.tree.map(jnp.copy, params) if config.objective.needs_reference else None
        )
        donate = (0,) if backend.donate else ()
        self.state = jax.jit(make, out_shardings=placed, donate_argnums=donate)(params)

    def _rows(self, source: str) -> RowSet:
        rows = RowSet(source, self.config.data, self.tasks)
        rows.skip_known(self.skips)
        return rows

    def _test_items(self) -> list[tuple]:
        rows = self._rows(self.config.data.test)
        return held_out(rows, self.encoder, self.skips, self.config.eval.rows, self.group)

    def learning_rate(self, step: int) -> float:
        """Learning rate of the last update of a step."""
        return float(
            jax.device_get(self.programs.schedule(step * self.config.batch.minibatches - 1))
        )

    def describe(self) -> str:
        """What is about to run: model, data, mesh, and one whole prompt with its sizes."""
        config = self.config
        sizes = [x.size for x in jax.tree.leaves((self.state.params, self.frozen))]
        drawn = self.feed.sample()
        shown = self.processor.show(drawn.prompt)
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        lines = [
            f"model     {config.model.directory}: {sum(sizes):,} parameters",
            f"devices   {self.mesh.devices.size} x {jax.default_backend()}, mesh {mesh}"
            + (f", {self.group.count} processes" if self.group.count > 1 else ""),
            f"data      {len(self.stream):,} training rows, {len(self.test):,} test rows; "
            f"skipped {self.skips.total()} {self.skips.by_reason}",
            f"training  {self.steps} steps of {config.batch.prompts} prompts x {config.responses} "
            f"responses; advantage {config.advantage.name}, loss {config.objective.name}",
            f"prompt    {drawn.example.where}, as the model is given it",
            *(f"          | {line}" for line in shown),
        ]
        return "\n".join(lines)

    def rollout(self, step: int) -> list[Row]:
        """Draws, samples and scores one round of fresh rows; every process its own."""
        drawn = self.feed.take(self.config.batch.rollout_prompts)
        own = [each for each in drawn if each.prompt is not None]
        with Beside(self.scorer, self.group) as beside:
            out = self._sample(own, beside)
            scored = beside.finish()
        self.scoring_s += beside.seconds
        rows = self._rows_of(own, out, scored, step)
        if self.group.count > 1:
            rows = self._everybodys(rows, drawn)
        self.curriculum.saw(rows)
        self.clock.lap("reward")
        return rows

    def _rows_of(
        self,
        drawn: list[Drawn],
        out: Rollout,
        scored: Mapping[tuple[int, int], tuple[Item, Score]],
        step: int,
    ) -> list[Row]:
        """Sampled rows from their parts; `scored`: every response's text and score by (p, g)."""
        config, G = self.config, self.config.responses
        asked = [config.tasks[d.example.task] for d in drawn]
        task_P = np.array([self.tasks.index(d.example.task) for d in drawn], np.int32)
        found = [[scored[p, g] for g in range(G)] for p in range(len(drawn))]
        accuracy_PG = np.array([[score.accuracy for _, score in each] for each in found])
        lengths = self.bounds.lengths(out.length_PG, accuracy_PG, task_P, step)
        fit_PG = jax.device_get(self.programs.length_reward(lengths))
        common = config.shaping.length_weight
        weights = [common if t.length_weight is None else t.length_weight for t in asked]
        return [
            Row(
                drawn=d,
                token_GT=out.token_PGT[p],
                mask_GT=out.mask_PGT[p],
                logp_GT=out.logp_PGT[p],
                ended_G=out.ended_PG[p],
                texts=[item.response for item, _ in found[p]],
                scores=[score for _, score in found[p]],
                length_reward_G=fit_PG[p],
                length_weight=weights[p],
                born=step,
            )
            for p, d in enumerate(drawn)
        ]

    def _everybodys(self, rows: list[Row], drawn: list[Drawn]) -> list[Row]:
        """The sampled rows of all processes, in the order they were drawn."""
        sent = {row.drawn.prompt_id: row.sent() for row in rows}
        found: dict[int, Row | dict] = {}
        for part in self.group.gather(sent, "sampled rows"):
            found |= part
        found |= {row.drawn.prompt_id: row for row in rows}
        return [
            each
            if isinstance(each := found[d.prompt_id], Row)
            else Row.received(each, d, self.processor.pad_id)
            for d in drawn
        ]

    def _sample(self, drawn: list[Drawn], beside: Beside) -> Rollout:
        """Responses to this process's prompts. Where they take several calls, prompts of like size
        share one, so that a long video does not pad them all; samples do not depend on their
        company. Each is handed over to be scored, as (p, g), once it has ended."""
        size = self.config.batch.generate_prompts // self.group.count or len(drawn)
        order = list(range(len(drawn)))
        if size < len(drawn):
            order.sort(key=lambda p: (patches(drawn[p].prompt), len(drawn[p].prompt.input_ids)))
        calls = [order[start : start + size] for start in range(0, len(order), size)]

        def packed(places: list[int]):
            prompts = [drawn[p].prompt for p in places]
            return self.encoder.pack(prompts, size, self.model_config)

        params, parts = self.programs.weights(self.state.params, self.frozen), []
        with ThreadPoolExecutor(1) as ahead:  # packs for the next call while one goes on
            coming = ahead.submit(packed, calls[0])
            for k, places in enumerate(calls):
                inputs = coming.result()
                if k + 1 < len(calls):
                    coming = ahead.submit(packed, calls[k + 1])
                self.clock.lap("data")
                parts.append(self._generate(params, inputs, drawn, places, beside))
                self.clock.lap("rollout")
        return join(parts, np.argsort(order))

    def _generate(
        self, params, inputs, drawn: list[Drawn], places: list[int], beside: Beside
    ) -> Rollout:
        """Responses to the prompts at `places`, which `inputs` holds."""
        chosen = [drawn[p] for p in places]
        limits = [self.limits[d.example.task] for d in chosen]
        finished = Finished(limits, self.processor.eos_ids, self.config.responses)

        def seen(here: slice, token_PGT: np.ndarray, mask_PGT: np.ndarray) -> None:
            new = finished.new(token_PGT, mask_PGT, here)
            beside.add(
                [
                    ((places[p], g), self._answer(chosen[p], token_PGT[p, g, :length]))
                    for p, g, length in new
                ]
            )

        return self.programs.engine.generate(
            params,
            inputs,
            [d.prompt_id for d in chosen],
            seed=self.config.seed,
            limit_P=limits,
            seen=seen,
        )

    def _answer(self, drawn: Drawn, tokens: np.ndarray) -> Callable[[], Item]:
        """Decodes a response when it is called."""
        return lambda: drawn.example.item(self.processor.decode(tokens))

    def learn(
        self, rows: list[Row], step: int, replayed: int
    ) -> tuple[list[dict], np.ndarray, np.ndarray]:
        """Advantages of the step's rows, then one update per minibatch.

        Args:
          replayed: so many of the rows, the last ones, were trained on before.
        Returns:
          Metric sums of every update; the advantages, float32 [rows, G]; and which responses were
          trained on, bool [rows, G].
        """
        n = self.config.batch.minibatches
        self.programs.drop_copy()
        group, fresh = self._group(rows), len(rows) - replayed
        P = len(group.task_P)

        def estimate(group: advantages.Group) -> np.ndarray:
            adv_PG, self.estimator = self.programs.advantage(group, self.estimator)
            return np.asarray(adv_PG)

        ended_PG, replayed_P = stack(rows, "ended_G", P), np.arange(P) >= fresh
        adv_PG, keep_PG = weigh(self.config, group, ended_PG, replayed_P, estimate)
        self.clock.lap("advantage")
        columns, packings = self._columns(rows, adv_PG, keep_PG, step)
        sums = []
        for k in range(n):
            part = jax.tree.map(lambda x, k=k: x[k::n], columns)
            if k:
                part["on_policy_P"] = np.zeros_like(part["on_policy_P"])
            minibatch = meshes.put_rows(self.mesh, StepBatch(**part, packing=packings[k]))
            if k == 0:
                self._look(minibatch, rows[::n], step)
            self.state, out = self.programs.update(self.state, self.frozen, minibatch)
            sums.append(out)
        sums = jax.device_get(sums)
        self.clock.lap("update")
        if sums[0]["gap_tokens"]:  # none where every row was carried over
            self.gaps.append(float(sums[0]["gap_max"]))
        return sums, adv_PG[: len(rows)], keep_PG[: len(rows)]

    def _look(self, minibatch: StepBatch, rows: list[Row], step: int) -> None:
        """The task ledger of a minibatch on the devices, which holds these rows, if it is due."""
        every, self.ledger = self.config.log.ledger_every, {}
        if every and step % every == 0:
            tasks = {self.tasks.index(row.example.task) for row in rows}
            given = self.state.params, self.frozen, minibatch, tasks
            self.ledger = ledger_numbers(self.programs.ledger.measure(*given), self.tasks)
            self.clock.lap("ledger")

    def _places(self, rows: list[Row]) -> list[int | None]:
        """Which of the rows stand at this process's places of the batch; None: filler.

        Minibatch k of n has the places k, k + n, k + 2n, ... of every process, and rows k, k + n,
        ... of the step: rows arrive in the order they were drawn, so each sees old and new.
        """
        n, P, group = self.config.batch.minibatches, self.config.batch.prompts, self.group
        places: list[int | None] = [None] * (P // group.count)
        for k in range(n):
            homes = [row.drawn.home for row in rows[k::n]]
            chosen = assign(homes, P // n, group.count)[group.index]
            places[k::n] = [None if i is None else k + i * n for i in chosen]
        return places

    def _group(self, rows: list[Row]) -> advantages.Group:
        """What estimators see of the step's rows, filled up to batch.prompts."""
        config, programs = self.config, self.programs
        by_type = config.advantage_task == "problem_type"
        known = (programs.groups, by_type, self.stream.row, programs.rows)
        return estimating.group_of(rows, config.batch.prompts, *known)

    def _columns(
        self, rows: list[Row], adv_PG: np.ndarray, keep_PG: np.ndarray, step: int
    ) -> tuple[dict, list]:
        """StepBatch's arrays of this process's rows, with filler, on the host; and the packing of
        each minibatch. Responses that are not kept have no tokens."""
        places, like = self._places(rows), rows[0]
        own = [None if i is None else rows[i] for i in places]
        P = len(own)
        length_PG = stack(own, "length_G", P, like) * _at(places, keep_PG)
        order_P = self.packs.even(length_PG)
        places, own = [places[p] for p in order_P], [own[p] for p in order_P]
        kept_PG1 = _at(places, keep_PG)[:, :, None]
        fresh_P = np.array([row is None or row.born == step for row in own])
        task_P = np.array(
            [-1 if r is None else self.tasks.index(r.example.task) for r in own], np.int32
        )
        columns = {
            "inputs": self.encoder.pack([self._prompt(r) for r in own], P, self.model_config),
            "response_PGT": stack(own, "token_GT", P, like),
            "mask_PGT": stack(own, "mask_GT", P, like) & kept_PG1,
            "adv_PG": _at(places, adv_PG),
            "old_logp_PGT": stack(own, "logp_GT", P, like),
            "on_policy_P": fresh_P,
            "sampler_logp_PGT": stack(own, "logp_GT", P, like),
            "ref_logp_PGT": None,
            "task_P": task_P,
            "entropy_bounds_P2": self.bounds.entropy_K2[task_P],
        }
        next_P = columns["inputs"].next_position_P
        packed = self.packs.layouts(columns["response_PGT"], columns["mask_PGT"], next_P)
        counts = {"responses": packed.used, "response_slots": packed.slots}
        self.encoder.packed.update(counts)
        self.clock.lap("data")
        where = (columns["inputs"], columns["response_PGT"], packed.minibatches)
        if self.config.batch.minibatches > 1 and not self.trusts_sampler():
            # Fresh rows: what this very program says of them now; those of the first minibatch are
            # never read. Surplus rows keep the log-probs of the policy that drew them.
            now_PGT = self._score_all(self.state.params, *where, first=1)
            columns["old_logp_PGT"] = np.where(
                fresh_P[:, None, None], now_PGT, columns["old_logp_PGT"]
            )
        if self.reference is not None:
            columns["ref_logp_PGT"] = self._score_all(self.reference, *where)
        return columns, packed.minibatches

    def _prompt(self, row: Row | None) -> Prompt | None:
        """A row's prompt; encoded here too where filtering moved the row to another process."""
        if row is None:
            return None
        return row.drawn.prompt or self.feed.again(row.drawn.prompt_id).prompt

    def trusts_sampler(self) -> bool:
        """Whether the sampler's log-probs serve as old ones now; see objective.sampler_gap."""
        bound = self.config.objective.sampler_gap
        return bound > 0 and bool(self.gaps) and all(gap <= bound for gap in self.gaps)

    def _score_all(self, params, inputs, response_PGT, packings, first: int = 0) -> np.ndarray:
        """Log-probs of this process's rows, a minibatch at a time (as in the update); zero for the
        minibatches before `first`."""
        n = self.config.batch.minibatches
        out = np.zeros(response_PGT.shape, np.float32)
        for k in range(first, n):
            part = jax.tree.map(lambda x, k=k: x[k::n], (inputs, response_PGT))
            part = meshes.put_rows(self.mesh, (*part, packings[k]))
            out[k::n] = meshes.own_rows(self.mesh, self.programs.score(params, self.frozen, *part))
        self.clock.lap("score")
        return out

    def example_of(self, row: Row) -> Example:
        """A row's example with its media, whichever process has it."""
        here = row.drawn.prompt is not None
        return row.example if here else self.stream.at(row.drawn.prompt_id)

    def evaluate(self) -> dict[str, TaskScore]:
        """Held-out greedy accuracy per task."""
        return evaluate(
            self.programs.greedy,
            self.programs.weights(self.state.params, self.frozen),
            self.test,
            lambda prompts, rows: self.encoder.pack(prompts, rows, self.model_config),
            self.processor.decode,
            self.scorer,
            self.config.eval.prompts,
            self.limits,
            self.group,
        )

    def host_state(self) -> dict:
        """What a resumed run needs beside the device arrays, as JSON."""
        return {
            "estimator": estimating.to_json(self.estimator, self.programs.estimator_state()),
            "bounds": self.bounds.to_json(),
            "gaps": list(self.gaps),
            "position": self.feed.position,
            "order": self.stream.fingerprint,
            "surplus": [row.to_json() for row in self.surplus],
            "replay": [row.to_json() for row in self.replay.rows],
            "curriculum": self.curriculum.to_json(),
            "skipped": self.skips.by_reason,
            "skipped_rows": self.skips.to_json(),
            "failures": dict(self.scorer.failures),
        }

    def restore_host(self, saved: dict) -> None:
        """Puts the estimator's state, data position, surplus rows and counts back."""
        self.bounds.restore(saved.get("bounds", {}))  # older checkpoints have none, nor gaps
        self.gaps.extend(saved.get("gaps", []))
        same = saved["order"] == self.stream.fingerprint
        if not same:  # at the places of surplus rows stand others now
            logging.warning(
                "training rows, their shares or the seed changed since the checkpoint: going on "
                "at place %d of another order, without %d rows carried over and without what was "
                "known of prompts",
                saved["position"],
                len(saved["surplus"]) + len(saved.get("replay", [])),
            )
        elif "curriculum" in saved:  # older checkpoints have neither this nor replay
            self.curriculum.restore(saved["curriculum"])
        fresh = self.programs.estimator_state()
        if same or not self.programs.remembers_rows:
            self.estimator = estimating.from_json(saved["estimator"], fresh)
        self.surplus = self._rows_again(saved["surplus"] * same)
        self.replay.add(self._rows_again(saved.get("replay", []) * same))
        self.feed.seek(saved["position"])
        self.skips.restore(saved["skipped_rows"])
        self.scorer.failures.clear()
        self.scorer.failures.update(saved["failures"])

    def _rows_again(self, saved: list[dict]) -> list[Row]:
        drawn = self.feed.again_all([row["prompt_id"] for row in saved])
        return [Row.from_json(row, d) for row, d in zip(saved, drawn, strict=True)]

    def close(self) -> None:
        """Stops the helpers."""
        self.feed.close()
        self.scorer.close()


def _at(places: list[int | None], value_PG: np.ndarray) -> np.ndarray:
    """The rows of an array at these places, zero for None."""
    return np.stack([np.zeros_like(value_PG[0]) if i is None else value_PG[i] for i in places])
