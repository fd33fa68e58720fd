"""One optimiser update on a minibatch of rows: (state, batch) -> (state, metric sums).

The loss is a sum over tokens of (weight known before the backward pass) x (token loss), so cutting
the minibatch into micro-batches or over devices changes memory and speed, never the result.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from g2rpo_jax import objectives, shaping
from g2rpo_jax.models.logprobs import TokenStats, token_stats
from g2rpo_jax.models.qwen3_vl.packing import Packing
from g2rpo_jax.objectives import ObjectiveConfig
from g2rpo_jax.parallel import constrain, rules
from g2rpo_jax.parallel.mesh import replicated, row_sharding
from g2rpo_jax.train import narrow
from g2rpo_jax.train.state import TrainState

FINITE = 3.0e38  # NaN and infinity both fail `x < FINITE`; is_finite is not taken everywhere


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepBatch:
    """Rows with their responses and advantages; filler rows have mask False and task -1.

    Attributes:
      inputs: the model's RowInputs.
      response_PGT, mask_PGT: int32 tokens, bool generated.
      adv_PG: float32 advantages.
      old_logp_PGT: float32 log-probs of the policy that the ratio is taken against.
      on_policy_P: bool; True where that policy is the one being updated (first update after
        sampling), so that the ratio is exactly 1 and `old_logp_PGT` is not read.
      sampler_logp_PGT: float32 log-probs that the rollout reported (for the gap metric).
      ref_logp_PGT: float32 log-probs of the reference policy, or None where nothing reads them.
      task_P: int32 index of the row's task.
      kept_P: bool; rows whose terms are summed. What the minibatch as a whole decides (weights, the
        envelope's sums) stays that of all rows, so that gradients of parts add up to the whole
        one. None: all.
      packing: of the rows, so that padding of responses does not pass through the layers; or None.
      entropy_bounds_P2: float32 (minimum, maximum) nats per token of the row's task; None where no
        envelope asks for it.
    """

    inputs: object
    response_PGT: jax.Array
    mask_PGT: jax.Array
    adv_PG: jax.Array
    old_logp_PGT: jax.Array
    on_policy_P: jax.Array
    sampler_logp_PGT: jax.Array
    ref_logp_PGT: jax.Array | None
    task_P: jax.Array
    kept_P: jax.Array | None = None
    packing: Packing | None = None
    entropy_bounds_P2: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What changes the compiled program of a policy step.

    Attributes:
      objective: loss, aggregation, KL.
      entropy_weight, entropy_estimator, entropy_form: the entropy term; see ShapingConfig.
      tasks: how many there are.
      temperature: logits are divided by it, as in sampling.
      microbatches: equal parts whose gradients are added.
      remat, logprob_chunk: memory for time; see ModelConfig.
    """

    objective: ObjectiveConfig = ObjectiveConfig()
    entropy_weight: float = 0.0
    entropy_estimator: str = "exact"
    entropy_form: str = "envelope"
    tasks: int = 1
    temperature: float = 1.0
    microbatches: int = 1
    remat: str = "none"
    logprob_chunk: int = 256


def response_stats(
    graphdef, params, frozen, inputs, response_PGT, packing: Packing | None, config: StepConfig
) -> TokenStats:
    """Log-probs and entropies of given responses: the one forward pass of training and scoring."""
    model = nnx.merge(graphdef, params, frozen)
    hidden = model.row_hidden(inputs, response_PGT, config.remat, packing)
    stats = functools.partial(
        token_stats,
        table_VD=model.unembedding(),
        temperature=config.temperature,
        vocab=model.vocab,
    )
    if packing is None:
        return stats(hidden, label_PGT=response_PGT, chunk=config.logprob_chunk)
    rows = len(response_PGT) // len(hidden)  # of a pack: as many logits exist at one time
    found = stats(
        hidden[:, None],
        label_PGT=packing.labels(response_PGT)[:, None],
        chunk=config.logprob_chunk * rows,
    )
    both = jnp.stack([found.logp_PGT[:, 0], found.entropy_PGT[:, 0]], axis=-1)
    both_PGTC = packing.predictions(both, response_PGT.shape)
    return TokenStats(both_PGTC[..., 0], both_PGTC[..., 1])


def over_parts(function, carry, tree, parts: int):
    """Scans `function(carry, part) -> (carry, out)` over equal parts of the rows of a tree.

    Every device's rows stay on that device, and nothing is copied but the part at hand.
    """
    split = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), tree)

    def one(carry, i):
        part = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), split)
        return function(carry, jax.tree.map(lambda x: constrain.constrain(x, "rows"), part))

    return jax.lax.scan(one, carry, jnp.arange(parts, dtype=jnp.int32))


def _per_task(x_PGT: jax.Array, task_P: jax.Array, tasks: int) -> jax.Array:
    """Sums of [P, G, T] over the rows of each task: float32 [K]."""
    one_hot_PK = (task_P[:, None] == jnp.arange(tasks)[None]).astype(jnp.float32)
    return jnp.einsum("p,pk->k", jnp.sum(x_PGT, axis=(1, 2)), one_hot_PK)


def _entropy_sums(stats: TokenStats, batch: StepBatch, config: StepConfig):
    measured_PGT = stats.entropy_PGT if config.entropy_estimator == "exact" else -stats.logp_PGT
    return shaping.entropy_sums(
        jax.lax.stop_gradient(measured_PGT), batch.mask_PGT, batch.task_P, config.tasks
    )


def _tokens(stats: TokenStats, batch: StepBatch) -> objectives.Tokens:
    logp_PGT = jnp.where(batch.mask_PGT, stats.logp_PGT, 0.0)
    on_policy_P11 = batch.on_policy_P[:, None, None]
    return objectives.Tokens(
        logp_PGT=logp_PGT,
        old_logp_PGT=jnp.where(on_policy_P11, jax.lax.stop_gradient(logp_PGT), batch.old_logp_PGT),
        mask_PGT=batch.mask_PGT,
        adv_PG=batch.adv_PG,
        token_PGT=batch.response_PGT,
        entropy_PGT=stats.entropy_PGT,
        ref_logp_PGT=batch.ref_logp_PGT,
    )


def _look(stats: TokenStats, batch: StepBatch, config: StepConfig):
    """What is nonlinear in the minibatch needs these sums over its rows before the gradient:
    (the entropy envelope's, the objective's), None where nothing does."""
    entropy = _entropy_sums(stats, batch, config) if config.entropy_weight else None
    return entropy, objectives.look(config.objective, _tokens(stats, batch))


def _loss(params, frozen, graphdef, batch: StepBatch, weight_PGT, seen, config: StepConfig):
    """This part's share of the minibatch loss, and its metric sums.

    `seen`: `_look` of the whole minibatch; None: these rows are the whole minibatch.
    """
    where = batch.inputs, batch.response_PGT, batch.packing
    stats = response_stats(graphdef, params, frozen, *where, config)
    mask_PGT = batch.mask_PGT.astype(jnp.float32)
    on_policy_P11 = batch.on_policy_P[:, None, None]
    entropy_sums, objective_sums = _look(stats, batch, config) if seen is None else seen
    tokens = dataclasses.replace(_tokens(stats, batch), seen=objective_sums)
    logp_PGT = tokens.logp_PGT
    token_PGT, clipped_PGT = objectives.token_losses(config.objective, tokens)
    trust_PGT, cut_PGT = objectives.importance_weights(
        config.objective,
        jax.lax.stop_gradient(tokens.old_logp_PGT),
        batch.sampler_logp_PGT,
        batch.mask_PGT,
    )
    loss = jnp.sum(weight_PGT * trust_PGT * token_PGT)
    kl = jnp.zeros(())
    if config.objective.kl_coefficient:
        kl_PGT = objectives.kl(config.objective.kl_estimator, logp_PGT, batch.ref_logp_PGT)
        kl = jnp.sum(weight_PGT * kl_PGT)
        loss = loss + config.objective.kl_coefficient * kl
    if config.entropy_weight:
        where = batch.task_P, batch.entropy_bounds_P2
        coefficient_P = shaping.entropy_coefficient(config.entropy_form, entropy_sums, *where)
        term_PGT = shaping.entropy_term(config.entropy_estimator, logp_PGT, stats.entropy_PGT)
        if batch.kept_P is not None:
            coefficient_P = jnp.where(batch.kept_P, coefficient_P, 0.0)
        penalty = jnp.sum(coefficient_P[:, None, None] * term_PGT * mask_PGT)
        loss = loss + config.entropy_weight * penalty
    gap_PGT = jnp.abs(jax.lax.stop_gradient(logp_PGT) - batch.sampler_logp_PGT)
    gap_PGT = gap_PGT * mask_PGT * on_policy_P11
    by_task = functools.partial(_per_task, task_P=batch.task_P, tasks=config.tasks)
    sums = {
        "loss": loss,
        "kl": kl,
        "task_tokens": by_task(mask_PGT),
        "task_entropy": by_task(stats.entropy_PGT * mask_PGT),
        "task_nll": by_task(-logp_PGT * mask_PGT),
        "task_clipped": by_task(clipped_PGT * mask_PGT),
        "importance_cut": jnp.sum(cut_PGT * mask_PGT),
        "gap": jnp.sum(gap_PGT),
        "gap_tokens": jnp.sum(mask_PGT * on_policy_P11),
    }
    return loss, (jax.lax.stop_gradient(sums), jnp.max(jax.lax.stop_gradient(gap_PGT)))


def gradient(graphdef, config: StepConfig, params, frozen, batch: StepBatch):
    """The gradient of a minibatch's loss, or of what `batch.kept_P` leaves of it.

    Args: as in `policy_step`.
    Returns:
      (tree like params, float32 at least, divided as parameters are stored; metric sums).
    """
    weight_PGT = objectives.aggregation_weights(
        config.objective.aggregation, batch.mask_PGT, config.objective.fixed_length
    )
    if batch.kept_P is not None:
        weight_PGT = jnp.where(batch.kept_P[:, None, None], weight_PGT, 0.0)
    grad_of = jax.value_and_grad(_loss, has_aux=True)
    if config.microbatches == 1:
        (_, (sums, gap_max)), grads = grad_of(
            params, frozen, graphdef, batch, weight_PGT, None, config
        )
        grads = wide(constrain.stored(grads))
    else:
        seen = None, None
        if config.entropy_weight or config.objective.looks:
            # Which side of its band a task is on, say, depends on all rows: one look before the
            # gradient.
            def look(_, part):
                where = part.inputs, part.response_PGT, part.packing
                stats = response_stats(graphdef, params, frozen, *where, config)
                return None, _look(stats, part, config)

            _, per_part = over_parts(look, None, batch, config.microbatches)
            seen = jax.tree.map(lambda x: jnp.sum(x, axis=0), per_part)

        def add(carry, part):
            (_, aux), grads = grad_of(params, frozen, graphdef, *part, seen, config)
            return jax.tree.map(jnp.add, carry, wide(constrain.stored(grads))), aux

        # Accumulated where the parameters are stored: no device holds a whole gradient.
        zeros = constrain.stored(wide(jax.tree.map(jnp.zeros_like, params)))
        grads, (sums, gap_max) = over_parts(add, zeros, (batch, weight_PGT), config.microbatches)
        sums, gap_max = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums), jnp.max(gap_max)
    return grads, sums | {"gap_max": gap_max}


def policy_step(
    graphdef, tx: optax.GradientTransformation, config: StepConfig, state: TrainState, frozen, batch
):
    """One update.

    Args:
      graphdef: of the nnx model.  tx: the optimiser.  config: static.
      state: TrainState; donated by the compiled form.
      frozen: the parameters that are not trained.
      batch: StepBatch of P rows.
    Returns:
      (TrainState, dict of float32 sums and counts; see `metrics.step_metrics`). An update whose
      gradient norm is not finite leaves parameters and optimiser state as they were.
    """
    grads, sums = gradient(graphdef, config, state.params, frozen, batch)
    norm = optax.tree.norm(grads)
    ok = norm < FINITE
    # Zeros in place of a broken gradient keep NaN out of the untaken branch as well.
    safe = jax.tree.map(lambda g: jnp.where(ok, g, jnp.zeros_like(g)), grads)
    updates, opt_state = tx.update(safe, state.opt_state, state.params)
    params = narrow.apply(state.params, updates, state.update)
    keep = functools.partial(jax.tree.map, lambda new, old: jnp.where(ok, new, old))
    new = TrainState(
        keep(params, state.params),
        keep(opt_state, state.opt_state),
        state.update + 1,
        state.skipped + jnp.where(ok, 0, 1),
    )
    sums |= {"gradient_norm": norm, "skipped": new.skipped}
    return new, sums


def wide(tree):
    """Gradients in float32 at least: they are added up and scaled so, whatever parameters are."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def compile_step(
    graphdef, tx, config: StepConfig, mesh: Mesh, state: TrainState, frozen, donate: bool
):
    """`policy_step` jitted with explicit shardings: (state, frozen, batch) -> (state, sums)."""
    placed = rules.shardings(state, mesh)
    return jax.jit(
        constrain.over(mesh, functools.partial(policy_step, graphdef, tx, config)),
        in_shardings=(placed, rules.shardings(frozen, mesh), row_sharding(mesh)),
        out_shardings=(placed, replicated(mesh)),
        donate_argnums=(0,) if donate else (),
    )


def score(
    graphdef, config: StepConfig, params, frozen, inputs, response_PGT, packing=None
) -> jax.Array:
    """Log-probs of given responses under given parameters, float32 [P, G, T]."""
    stats = functools.partial(response_stats, graphdef, params, frozen, config=config)
    if config.microbatches == 1:
        return stats(inputs, response_PGT, packing).logp_PGT
    _, logp = over_parts(
        lambda _, part: (None, stats(*part).logp_PGT),
        None,
        (inputs, response_PGT, packing),
        config.microbatches,
    )
    return logp.swapaxes(0, 1).reshape(response_PGT.shape)


def compile_score(graphdef, config: StepConfig, mesh: Mesh):
    """`score` jitted: (params, frozen, inputs, response_PGT[, packing]) -> logp_PGT."""
    scored = constrain.over(mesh, functools.partial(score, graphdef, config))
    return jax.jit(scored, out_shardings=row_sharding(mesh))
