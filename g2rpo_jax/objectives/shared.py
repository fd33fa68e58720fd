"""Losses that look at which tokens the responses of a row share."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from g2rpo_jax.objectives import tokens as of
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.surrogates import clipped_surrogate
from g2rpo_jax.objectives.tokens import Losses, Tokens


def shared_prefix(options: Options, tokens: Tokens) -> Losses:
    """The clip, each token's loss divided by how many responses share the prefix it ends.

        n_it = #{ j : y_j[..t] = y_i[..t] },  i itself included
        e = clip's / n_it

    Cost: comparisons of G x G x T tokens a row.

    Source: lambda-GRPO in "GRPO is Secretly a Process Reward Model" (2025).
    """
    loss_PGT, clipped_PGT = clipped_surrogate(options, tokens)
    differ_PGGT = ~of.same_token(tokens.token_PGT, tokens.mask_PGT)
    count_PGT = jnp.sum(_before_first(differ_PGGT).astype(jnp.float32), axis=2)
    return loss_PGT / jnp.maximum(count_PGT, 1.0), clipped_PGT


def conflict_aware(options: Options, tokens: Tokens) -> Losses:
    """Spares the tokens that bad responses share with good ones, and boosts them in those.

        conflict: in an unbroken run from the start, or from the end, of places where a response of
                  the other sign of A has the same token
        w: 0 for a conflict in a bad response, boost in a good one (boost^2 if in both runs), else 1
        A' = A - 0.1 H, and 0 where the response's mean entropy H > 0.7 nats
        e = w clip's(A') / max(conflicts of the response, 1)

    A is meant to be centred in the group. The authors' loss has no ratio, which is this one's first
    update; places from the end are counted from each response's last token. No KL.

    Cost: comparisons of G x G x T tokens a row, twice.

    Source: GTPO, "GTPO: Trajectory-Based Policy Optimization in Large Language Models" (2025), and
    its code.
    """
    mask_PGT, token_PGT = tokens.mask_PGT, tokens.token_PGT
    sign_PG = jnp.where(of.real_PG(tokens), jnp.sign(tokens.adv_PG), 0.0)
    T = mask_PGT.shape[-1]
    length_PG = jnp.sum(mask_PGT.astype(jnp.float32), axis=-1)
    ahead_PGT = _run(token_PGT, mask_PGT, sign_PG)
    # From the end: every response moved to the right edge, seen from there, and moved back.
    gap_PG = T - length_PG
    token_end_PGT = _moved_right(token_PGT, gap_PG)
    mask_end_PGT = _moved_right(mask_PGT.astype(jnp.float32), gap_PG) > 0
    back_PGT = _run(token_end_PGT[..., ::-1], mask_end_PGT[..., ::-1], sign_PG)
    back_PGT = _moved_right(back_PGT.astype(jnp.float32), gap_PG)[..., ::-1] > 0
    good_PG1 = sign_PG[:, :, None] > 0
    weight = jnp.where(good_PG1, options.gtpo_boost, 0.0)
    weight_PGT = jnp.where(ahead_PGT, weight, 1.0) * jnp.where(back_PGT, weight, 1.0)
    conflicts_PG = jnp.sum(((ahead_PGT | back_PGT) & mask_PGT).astype(jnp.float32), axis=-1)
    entropy_PG = of.token_mean(tokens.entropy_PGT, tokens)
    adv_PG = jnp.where(
        entropy_PG <= options.gtpo_entropy_cut,
        tokens.adv_PG - options.gtpo_entropy_weight * entropy_PG,
        0.0,
    )
    loss_PGT, clipped_PGT = clipped_surrogate(options, dataclasses.replace(tokens, adv_PG=adv_PG))
    return loss_PGT * weight_PGT / jnp.maximum(conflicts_PG, 1.0)[:, :, None], clipped_PGT


def _run(
    token_PGT: Int[Array, "P G T"], mask_PGT: Bool[Array, "P G T"], sign_PG
) -> Bool[Array, "P G T"]:
    """Where a response has had, from the first place on, what one of the other sign has there."""
    other_PGG = (sign_PG[:, :, None] * sign_PG[:, None, :] < 0)[..., None]
    shared_PGGT = of.same_token(token_PGT, mask_PGT) & other_PGG
    shared_PGT = jnp.max(shared_PGGT.astype(jnp.float32), axis=2) > 0
    return _before_first(~shared_PGT)


def _before_first(here):
    """Whether a place comes before the first true one of the last axis."""
    T = here.shape[-1]
    place = jax.lax.broadcasted_iota(jnp.float32, here.shape, here.ndim - 1)
    return place < jnp.min(jnp.where(here, place, float(T)), axis=-1, keepdims=True)


def _moved_right(x_PGT, by_PG):
    """Every response moved by its own number of places in [0, T]; zeros come in from the left.

    By powers of two, each taken or not: a gather where indices differ by response is not for every
    device.
    """
    T = x_PGT.shape[-1]
    left_PG1 = by_PG[:, :, None]
    for bit in reversed(range(T.bit_length())):
        step = 1 << bit
        zeros = jnp.zeros((*x_PGT.shape[:-1], step), x_PGT.dtype)
        shifted_PGT = jnp.concatenate([zeros, x_PGT[..., : T - step]], axis=-1)
        taken_PG1 = left_PG1 >= step
        x_PGT = jnp.where(taken_PG1, shifted_PGT, x_PGT)
        left_PG1 = jnp.where(taken_PG1, left_PG1 - step, left_PG1)
    return x_PGT
