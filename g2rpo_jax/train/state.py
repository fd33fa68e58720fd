"""What a run carries from step to step, and the optimiser that moves it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from g2rpo_jax.models import trained
from g2rpo_jax.parallel import rules
from g2rpo_jax.platform import Backend
from g2rpo_jax.settings import ModelConfig, OptimConfig
from g2rpo_jax.train import narrow

MATRIX = re.compile(r"(_proj|_lora_[ab]|embedding|head|pos_embed)(\.|$)")  # these decay
CAST = re.compile(r"(_proj|embedding|head)(\.|$)")  # cast where they are used: the copy may be, too


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything on the device that a resumed run needs.

    Attributes:
      params: the parameters that are trained (an nnx.State).
      opt_state: optax state.
      update: int32, optimiser updates tried so far.
      skipped: int32, updates skipped because the gradient was not finite.
    """

    params: object
    opt_state: object
    update: jax.Array
    skipped: jax.Array


def schedule(config: OptimConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then constant, linear or cosine to the end."""
    rest = max(1, updates - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(config.lr),
        "linear": optax.linear_schedule(config.lr, config.lr * config.final_lr, rest),
        "cosine": optax.cosine_decay_schedule(config.lr, rest, config.final_lr)
        if config.lr
        else optax.constant_schedule(0.0),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # Starts one step up, so that the first update is not wasted on a rate of zero.
    first = config.lr / config.warmup_steps
    warmup = optax.linear_schedule(first, config.lr, max(1, config.warmup_steps - 1))
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def optimizer(config: OptimConfig, updates: int) -> optax.GradientTransformation:
    """Global-norm clipping, then AdamW; decay on matrices only (not norms and biases)."""

    def matrices(params):
        # Stacked norms and biases have two axes as well: matrices are known by their names.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(MATRIX.search(rules.path_name(path))), params
        )

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        # As optax.adamw, but for the dtype of the moments.
        optax.chain(
            narrow.adam(config.b1, config.b2, config.eps, config.state_dtype),
            optax.add_decayed_weights(config.weight_decay, matrices),
            optax.scale_by_learning_rate(schedule(config, updates)),
        ),
    )


def create(params, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state: zero moments, no updates."""
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def split(model: nnx.Module, config: ModelConfig):
    """(graphdef, what is trained, the rest of the parameters): `nnx.merge` joins them again.

    The model gets its adapters here.
    """
    return trained.split(
        model,
        freeze=config.freeze,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_targets=config.lora_targets,
    )


def compute_dtype(config: ModelConfig, backend: Backend) -> str:
    """What activations are computed in."""
    return backend.compute_dtype if config.dtype == "auto" else config.dtype


def compile_copy(mesh: Mesh, dtype: str, params, frozen):
    """(params, frozen) -> one state of all, matrices in `dtype`, divided over tensor alone, jitted.

    A layer casts its matrices to the dtype of its activations anyway: samples are the same.
    """

    def copy(params, frozen):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x.astype(dtype) if CAST.search(rules.path_name(path)) else x,
            nnx.merge_state(params, frozen),
        )

    return jax.jit(copy, out_shardings=rules.copied(jax.eval_shape(copy, params, frozen), mesh))
