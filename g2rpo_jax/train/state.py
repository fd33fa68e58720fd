"""What a run carries from step to step, and the optimiser that moves it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from g2rpo_jax.parallel import rules
from g2rpo_jax.platform import Backend
from g2rpo_jax.settings import ModelConfig, OptimConfig

MATRIX = re.compile(r"(_proj|embedding|head|pos_embed)(\.|$)")


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
        optax.adamw(
            schedule(config, updates),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=matrices,
        ),
    )


def create(params, tx: optax.GradientTransformation) -> TrainState:
    """A fresh state: zero moments, no updates."""
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def split(model: nnx.Module, config: ModelConfig):
    """(graphdef, what is trained, the rest of the parameters): `nnx.merge` joins them again."""
    graphdef, params = nnx.split(model)
    return graphdef, params, nnx.State({})


def compute_dtype(config: ModelConfig, backend: Backend) -> str:
    """What activations are computed in."""
    return backend.compute_dtype if config.dtype == "auto" else config.dtype
