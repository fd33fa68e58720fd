"""Random rows for losses, and a loss as one number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from g2rpo_jax import objectives
from g2rpo_jax.objectives import ObjectiveConfig, Tokens

P, G, T = 3, 4, 6


def batch(seed: int, spread: float = 0.6, shortest: int = 0) -> Tokens:
    """Few token ids, so that responses share beginnings and ends; an empty response where
    `shortest` allows one; the last prompt has responses of one kind only."""
    rng = np.random.default_rng(seed)
    old_PGT = -rng.exponential(1.0, (P, G, T)).astype(np.float32)
    length_PG = rng.integers(shortest, T + 1, (P, G))
    length_PG[0, 0] = shortest
    adv_PG = rng.normal(0, 1, (P, G)).astype(np.float32)
    adv_PG[0, :2] = np.abs(adv_PG[0, :2])
    adv_PG[0, 2:] = -np.abs(adv_PG[0, 2:])
    adv_PG[-1] = np.abs(adv_PG[-1])
    noise = lambda scale: rng.normal(0, scale, (P, G, T)).astype(np.float32)  # noqa: E731
    return Tokens(
        logp_PGT=old_PGT + noise(spread),
        old_logp_PGT=old_PGT,
        mask_PGT=np.arange(T) < length_PG[..., None],
        adv_PG=adv_PG,
        token_PGT=rng.integers(0, 2, (P, G, T)).astype(np.int32),
        entropy_PGT=np.abs(noise(0.8)),
        ref_logp_PGT=old_PGT + noise(0.4),
    )


def seeing(config: ObjectiveConfig, tokens: Tokens) -> Tokens:
    """The same with `seen`: these rows are the whole minibatch."""
    return dataclasses.replace(tokens, seen=objectives.look(config, tokens))


def scalar(config: ObjectiveConfig, logp_PGT, tokens: Tokens):
    """The loss of the minibatch."""
    tokens = seeing(config, dataclasses.replace(tokens, logp_PGT=logp_PGT))
    loss_PGT, _ = objectives.token_losses(config, tokens)
    weight_PGT = objectives.aggregation_weights(
        config.aggregation, tokens.mask_PGT, config.fixed_length
    )
    return jnp.sum(weight_PGT * loss_PGT)


def value_and_gradient(config: ObjectiveConfig, tokens: Tokens):
    """(loss, its gradient in the log-probs)."""
    grad = jax.value_and_grad(scalar, argnums=1)
    return grad(config, jnp.asarray(tokens.logp_PGT), tokens)


def one(config: ObjectiveConfig, ratio: float, adv: float, old: float = 0.0):
    """(loss, whether at a bound, gradient) of one token of that ratio."""
    old_PGT = jnp.full((1, 1, 1), old, jnp.float32)
    tokens = Tokens(
        old_PGT + np.log(ratio), old_PGT, np.ones((1, 1, 1), bool), jnp.full((1, 1), adv)
    )
    loss, bound = objectives.token_losses(config, tokens)
    _, grad = value_and_gradient(config, tokens)
    return float(loss[0, 0, 0]), float(bound[0, 0, 0]), float(grad[0, 0, 0])
