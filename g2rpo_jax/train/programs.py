"""Every jitted program of a run, in one place.

The trainer runs them; whoever wants to know what they cost or use lowers or compiles them, without
weights, for machines that are not there.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from g2rpo_jax import advantages, models, shaping
from g2rpo_jax.config import RunConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, layout
from g2rpo_jax.models.qwen3_vl.packing import Packing
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel import rules
from g2rpo_jax.platform import Backend
from g2rpo_jax.rewards import TASKS, TYPE_TASKS
from g2rpo_jax.rollout import decode
from g2rpo_jax.rollout.engine import Engine, chunk_tokens
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.train import ledger, packs, state
from g2rpo_jax.train.policy_step import StepBatch, StepConfig, compile_score, compile_step
from g2rpo_jax.train.rows import COMPONENTS

ROWS = 600_000  # training rows that programs are made for where no data is read: the paper's


@dataclasses.dataclass(frozen=True)
class Call:
    """A program and the arguments it is called with: trees of jax.ShapeDtypeStruct."""

    name: str
    function: Any  # jitted
    args: tuple

    def trace(self):
        """The traced program, to be lowered: `.lower(lowering_platforms=("neuron",))`."""
        return self.function.trace(*self.args)


class Programs:
    """The programs of a run.

    Attributes:
      update: (TrainState, frozen, StepBatch) -> (TrainState, metric sums).
      score: (params, frozen, inputs, response_PGT, packing) -> logp_PGT.
      ledger: each task's part of the gradient (`train.ledger`); None without log.ledger_every.
      copy: (params, frozen) -> the weights that are sampled from; None without model.rollout_copy.
      engine, greedy: generation for training, and for evaluation (one greedy response).
      advantage: (advantages.Group, estimator state) -> (adv_PG, estimator state).
      length_reward: shaping.Lengths -> the length reward, [P, G].
      groups: what the estimator's `task_P` counts.
      rows: training rows that the estimator's `row_P` counts.
      remembers_rows: whether the estimator's state is kept by row.
      schedule: learning rate by update.
      places: sizes of packs that updates and scoring may have (`train.packs`).
    """

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        backend: Backend,
        graphdef,
        params,
        frozen,
        *,
        updates: int,
        eos: tuple[int, ...],
        pad: int,
        rows: int = ROWS,
    ):
        """
        Args:
          config: resolved; mesh: over which everything is divided; backend: what may be used.
          graphdef: of the nnx model. params, frozen: what is trained and the rest, arrays or
            ShapeDtypeStructs.
          updates: optimiser updates of the whole run, for the schedule.
          eos, pad: token ids.
          rows: how many training rows there are.
        Raises:
          ValueError: a number of rows does not divide over the mesh; names the field.
        """
        # Shapes alone: nobody here keeps the weights that a run began with alive.
        params, frozen = jax.eval_shape(lambda *trees: trees, params, frozen)
        self.config, self.mesh, self.params, self.frozen = config, mesh, params, frozen
        model = nnx.merge(graphdef, params, frozen)
        self.model_config, self.dtype = model.config, model.dtype
        self.tasks, self.rows = tuple(config.tasks), rows
        by_type = config.advantage_task == "problem_type"
        self.groups = (*TASKS, *TYPE_TASKS) if by_type else self.tasks
        _check_divisions(config, mesh)
        step_config = StepConfig(
            objective=config.objective,
            entropy_weight=config.shaping.entropy_weight,
            entropy_estimator=config.shaping.entropy_estimator,
            entropy_form=config.shaping.entropy_form,
            tasks=len(self.tasks),
            temperature=config.sampling.temperature,
            microbatches=config.batch.microbatches,
            remat=config.model.remat,
            logprob_chunk=config.model.logprob_chunk,
        )
        self.schedule = state.schedule(config.optim, updates)
        self.tx = state.optimizer(config.optim, updates)
        self.state = jax.eval_shape(functools.partial(state.create, tx=self.tx), params)
        self.update = compile_step(
            graphdef, self.tx, step_config, mesh, self.state, frozen, backend.donate
        )
        self.score = compile_score(graphdef, step_config, mesh)
        self.ledger = None
        if config.log.ledger_every:
            self.ledger = ledger.compile_ledger(graphdef, step_config, mesh, params, frozen)
        self.places = packs.sizes(config, mesh)
        build = functools.partial(
            Engine,
            graphdef,
            mesh,
            max_tokens=config.max_tokens,
            chunk=chunk_tokens(config.decode_chunk, config.max_tokens, backend.decode_chunk),
            eos=eos,
            pad=pad,
            donate=backend.donate,
            halvings=config.decode_halvings,
        )
        self.engine = build(responses=config.responses, sampling=config.sampling)
        self.greedy = build(responses=1, sampling=SamplingConfig(temperature=0.0))
        self.copy = self._copied = None
        if config.model.rollout_copy:
            dtype = state.compute_dtype(config.model, backend)
            self.copy = state.compile_copy(mesh, dtype, params, frozen)
        estimator = advantages.ESTIMATORS[config.advantage.name]
        self.remembers_rows = estimator.by_row
        self.advantage = jax.jit(functools.partial(estimator, options=config.advantage))
        reward = functools.partial(shaping.length_reward, options=config.shaping)
        self.length_reward = jax.jit(reward)

    def calls(self, tokens: int, patches: int) -> list[Call]:
        """All programs of a step, as they are called with rows of one bucket.

        Args:
          tokens, patches: S and N of the bucket.
        """
        config, mesh = self.config, self.mesh
        P, G = config.batch.prompts // config.batch.minibatches, config.responses
        rows = meshes.row_sharding(mesh)
        whole = self.whole(self.params, self.frozen)
        weights = placed(whole, rules.shardings(whole, mesh))
        if self.copy is not None:
            copied = jax.eval_shape(self.copy, self.params, self.frozen)
            weights = placed(copied, rules.copied(copied, mesh))
        step_state = placed(self.state, rules.shardings(self.state, mesh))
        frozen = placed(self.frozen, rules.shardings(self.frozen, mesh))
        found = self._generation("", self.engine, weights, tokens, patches)
        # Any packing is the same program but for its size: the largest stands for all.
        for suffix, places in (("", None), *[("_packed", n) for n in self.places[-1:]]):
            batch = placed(self.batch(P, tokens, patches, places), rows)
            scored = (step_state.params, frozen, batch.inputs, batch.response_PGT, batch.packing)
            found += [
                Call(f"score{suffix}", self.score, scored),
                Call(f"update{suffix}", self.update, (step_state, frozen, batch)),
            ]
            if self.ledger is not None:
                task = placed(_shape((), np.int32), meshes.replicated(mesh))
                parted = (step_state.params, frozen, batch, task)
                found.append(Call(f"ledger{suffix}", self.ledger.part, parted))
        if self.copy is not None:
            found.append(Call("copy", self.copy, (step_state.params, frozen)))
        P = config.batch.prompts
        group = advantages.Group(
            reward_PG=_shape((P, G), np.float32),
            valid_PG=_shape((P, G), bool),
            task_P=_shape((P,), np.int32),
            components={name: _shape((P, G), np.float32) for name in COMPONENTS},
            length_PG=_shape((P, G), np.float32),
            surprise_PG=_shape((P, G), np.float32),
            logp_PG=_shape((P, G), np.float32),
            row_P=_shape((P,), np.int32),
            num_tasks=len(self.groups),
            num_rows=self.rows,
        )
        carried = jax.eval_shape(self.estimator_state)
        drawn = config.batch.rollout_prompts
        lengths = shaping.Lengths(
            length_PG=_shape((drawn, G), np.float32),
            accuracy_PG=_shape((drawn, G), np.float32),
            band_P4=_shape((drawn, 4), np.float32),
            limit_P=_shape((drawn,), np.float32),
            step=_shape((), np.float32),
        )
        found += [
            Call("advantage", self.advantage, (group, carried)),
            Call("length_reward", self.length_reward, (lengths,)),
        ]
        if config.eval.every:
            found += self._generation("greedy_", self.greedy, weights, tokens, patches)
        return found

    def _generation(self, prefix: str, engine: Engine, weights, S: int, N: int) -> list[Call]:
        batch = self.config.batch
        P = self.config.eval.prompts if prefix else batch.generate_prompts or batch.rollout_prompts
        rows = meshes.row_sharding(self.mesh)
        inputs = placed(self.inputs(P, S, N), rows)
        limit_P = placed(_shape((P,), np.int32), rows)
        begun = jax.eval_shape(engine.prefill, weights, inputs, limit_P)
        begun = placed(begun, decode.shardings(begun, self.mesh))
        found = [Call(f"{prefix}prefill", engine.prefill, (weights, inputs, limit_P))]
        names = {"prefill"}
        # Smaller shapes run the same programs: the largest stands for all.
        for name, function, args in engine.calls(
            weights, placed(self.inputs(P, S, 0), rows), begun
        ):
            if name not in names:
                found.append(Call(f"{prefix}{name}", function, args))
            names.add(name)
        return found

    def weights(self, params, frozen):
        """Parameters as generation takes them: all; or their copy, made anew for new ones."""
        if self.copy is None:
            return self.whole(params, frozen)
        if self._copied is None or self._copied[0] is not params:
            self.drop_copy()
            self._copied = params, self.copy(params, frozen)
        return self._copied[1]

    def drop_copy(self) -> None:
        """Frees the copy of the weights: nothing is sampled until they have changed."""
        self._copied = None

    def whole(self, params, frozen):
        """All parameters, as the model was split into one state."""
        return nnx.merge_state(params, frozen)

    def estimator_state(self):
        """What the advantage estimator starts from."""
        return advantages.init_state(self.config.advantage, len(self.groups), self.rows)

    def inputs(self, P: int, S: int, N: int) -> layout.RowInputs:
        """Shapes of P packed prompts."""
        one = layout.empty(self.model_config, 1, S, N, self.dtype)
        return jax.tree.map(lambda x: _shape((P, *x.shape[1:]), x.dtype), one)

    def packs(self, response_tokens: int) -> bool:
        """Whether rows whose responses all have so many tokens can be packed."""
        batch, ways = self.config.batch, meshes.row_ways(self.mesh)
        rows = batch.prompts // (batch.minibatches * batch.microbatches * ways)
        needed = rows * self.config.responses * (response_tokens - 1)
        return any(needed < places for places in self.places)

    def packing(self, P: int, places: int) -> Packing:
        """Shapes of the packing of P rows."""
        B = meshes.row_ways(self.mesh) * self.config.batch.microbatches
        slots = P // B * self.config.responses * (self.config.max_tokens - 1)
        names = [field.name for field in dataclasses.fields(Packing)]
        shapes = {name: (B, slots if name == "place_BM" else places) for name in names}
        return Packing(**{name: _shape(shape, np.int32) for name, shape in shapes.items()})

    def batch(self, P: int, S: int, N: int, places: int | None = None) -> StepBatch:
        """Shapes of P rows to train on; packed into so many places, or not."""
        G, T = self.config.responses, self.config.max_tokens
        each_PGT = _shape((P, G, T), np.float32)
        return StepBatch(
            inputs=self.inputs(P, S, N),
            response_PGT=_shape((P, G, T), np.int32),
            mask_PGT=_shape((P, G, T), bool),
            adv_PG=_shape((P, G), np.float32),
            old_logp_PGT=each_PGT,
            on_policy_P=_shape((P,), bool),
            sampler_logp_PGT=each_PGT,
            ref_logp_PGT=each_PGT if self.config.objective.needs_reference else None,
            task_P=_shape((P,), np.int32),
            packing=None if places is None else self.packing(P, places),
            entropy_bounds_P2=_shape((P, 2), np.float32),
        )


def abstract(
    config: RunConfig, model_config: Qwen3VLConfig, mesh: Mesh, backend: Backend
) -> Programs:
    """The programs of a run of a model whose weights are nowhere.

    Args:
      config: resolved; without `steps`, a run of one step.
      model_config: the model's shape.
      mesh: of devices of any platform; programs are lowered for any other.
      backend: whose rules the programs follow.
    """
    dtype = state.compute_dtype(config.model, backend)
    model = nnx.eval_shape(
        lambda: Qwen3VL(model_config, None, dtype, jnp.dtype(config.model.param_dtype))
    )
    models.suit(model, backend, "none")  # a kernel of another machine cannot be compiled here
    model.vocab = config.mesh.vocab
    updates = max(1, config.steps) * config.batch.minibatches
    return Programs(
        config, mesh, backend, *state.split(model, config.model), updates=updates, eos=(0,), pad=0
    )


def placed(tree, shardings):
    """Shapes with shardings: one for all leaves, or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        shardings = jax.tree.map(lambda _: one, tree)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _shape(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _check_divisions(config: RunConfig, mesh: Mesh) -> None:
    batch = config.batch
    meshes.check_rows("batch.rollout_prompts", batch.rollout_prompts, mesh)
    if batch.generate_prompts:
        meshes.check_rows("batch.generate_prompts", batch.generate_prompts, mesh)
    meshes.check_rows("eval.prompts", config.eval.prompts, mesh)
    parts = batch.minibatches * batch.microbatches
    meshes.check_rows("batch.prompts / (minibatches x microbatches)", batch.prompts // parts, mesh)
