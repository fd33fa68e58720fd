"""The policy gradient read as off-policy regression, and losses that regress outright."""

import jax
import jax.numpy as jnp

from g2rpo_jax import masked
from g2rpo_jax.objectives import tokens as of
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.tokens import Losses, Tokens
from g2rpo_jax.tables import lookup


def mirror_descent(options: Options, tokens: Tokens) -> Losses:
    """REINFORCE damped by 1 + tau: the gradient of online mirror descent where it starts.

        e = -A logp / (1 + tau)

    Advantages: R - mean (`dr_grpo`).

    Source: OPMD in "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm" (2025), as in
    Trinity-RFT; tau 1.
    """
    loss_PGT = -of.adv_PGT(tokens) * tokens.logp_PGT / (1.0 + options.opmd_tau)
    return loss_PGT, of.never(tokens)


def mirror_descent_squared(options: Options, tokens: Tokens) -> Losses:
    """REINFORCE on whole responses with a squared penalty on how far each has moved.

        D = sum_t d ;  e = -A sum_t logp + (tau / 2) D^2

    Sums over a response's tokens, whatever its length: `sequence_mean` averages over responses.

    Source: Kimi k1.5 (2025); OPMD's form on paper in "Group-Relative REINFORCE Is Secretly an
    Off-Policy Algorithm" (2025).
    """
    total_PG = masked.sum(tokens.logp_PGT, tokens.mask_PGT, axis=-1)
    moved_PG = jnp.sum(of.change(tokens), axis=-1)
    loss_PG = -tokens.adv_PG * total_PG + 0.5 * options.opmd_tau * jnp.square(moved_PG)
    return of.spread(loss_PG, tokens), of.never(tokens)


def clipped_reinforce(options: Options, tokens: Tokens) -> Losses:
    """REINFORCE whose gradient stops outside a region of the ratio; what tokens weigh is free.

        e = -stop_gradient(w M) A logp + c2 d^2 - c1 logp
        M: all, one_side (the clip's region), ring (again active far outside); see REC_MASKS
        w: one, ratio, clipped_ratio, advantage (exp(A / T)); see REC_WEIGHTS

    one_side with ratio has the gradient of the clip. Published with `token_mean` and R - mean
    (`dr_grpo`). RED-weight is the mask `all` with the weight `advantage`.

    Source: REC in "Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm: Demystifying Some
    Myths About GRPO and Its Friends" (2025).
    """
    adv_PGT, d_PGT = of.adv_PGT(tokens), of.change(tokens)
    ratio_PGT = jax.lax.stop_gradient(jnp.exp(d_PGT))
    keep_PGT = lookup(REC_MASKS, options.rec_mask, kind="objective.rec_mask")(
        options, ratio_PGT, adv_PGT
    )
    weight_PGT = lookup(REC_WEIGHTS, options.rec_weight, kind="objective.rec_weight")(
        options, ratio_PGT, adv_PGT
    )
    loss_PGT = -jnp.where(keep_PGT, weight_PGT * adv_PGT, 0.0) * tokens.logp_PGT
    loss_PGT += options.rec_squared * jnp.square(d_PGT) - options.rec_forward * tokens.logp_PGT
    return loss_PGT, (~keep_PGT).astype(jnp.float32)


def _one_side(options: Options, ratio_PGT, adv_PGT):
    over_PGT = (adv_PGT > 0) & (ratio_PGT > 1.0 + options.rec_high)
    return ~(over_PGT | ((adv_PGT < 0) & (ratio_PGT < 1.0 - options.rec_low)))


def _ring(options: Options, ratio_PGT, adv_PGT):
    near_PGT = (ratio_PGT >= 1.0 - options.rec_low) & (ratio_PGT <= 1.0 + options.rec_high)
    back_up_PGT = (adv_PGT >= 0) & (ratio_PGT <= 1.0 - options.rec_far_low)
    back_down_PGT = (adv_PGT <= 0) & (ratio_PGT >= 1.0 + options.rec_far_high)
    return near_PGT | back_up_PGT | back_down_PGT


def group_variance(options: Options, tokens: Tokens) -> Losses:
    """Squared error between centred log-ratios of whole responses and centred rewards.

        D_i = sum_t d
        e_i = n / (n - 1) 0.5 (beta D_i - stop_gradient(mean_j beta D_j) - A_i)^2

    n: responses of the prompt. A must be R - mean (`dr_grpo`). Published with `sequence_mean`.

    Source: Group Variance Policy Optimization (2025), beta 0.1.
    """
    real_PG, n_P1, scaled_PG = _moved(tokens)
    scaled_PG = options.gvpo_beta * scaled_PG
    mean_P1 = jax.lax.stop_gradient(masked.mean(scaled_PG, real_PG, axis=-1, keepdims=True))
    factor_P1 = jnp.where(n_P1 > 1, n_P1 / jnp.maximum(n_P1 - 1.0, 1.0), 0.0)
    loss_PG = 0.5 * factor_P1 * jnp.square(scaled_PG - mean_P1 - tokens.adv_PG)
    return of.spread(loss_PG, tokens), of.never(tokens)


def regressive(options: Options, tokens: Tokens) -> Losses:
    """Squared error between the group's standardised log-ratios and its standardised rewards.

        D_i = sum_t d ;  zhat_i = (D_i - mean D) / (sd D + floor) ;  e_i = (A_i - zhat_i)^2

    A must be a z-score (`grpo`). At the first update all D are 0 and the gradient is -2 A / floor
    times that of sum_t logp: the floor, ours, keeps that step of an ordinary size. Published with
    `sequence_mean` and a KL term.

    Source: Reg-GRPO in "DeepVideo-R1: Video Reinforcement Fine-Tuning via Difficulty-aware
    Regressive GRPO" (2025); the formula is likely, no public code was found.
    """
    real_PG, _, moved_PG = _moved(tokens)
    sd_P1 = masked.std(moved_PG, real_PG, axis=-1, keepdims=True, ddof=1)
    z_PG = masked.center(moved_PG, real_PG, axis=-1) / (sd_P1 + options.reg_grpo_floor)
    return of.spread(jnp.square(tokens.adv_PG - z_PG), tokens), of.never(tokens)


def _moved(tokens: Tokens):
    """(which responses are real, how many of a row are, D)."""
    real_PG = of.real_PG(tokens)
    return (
        real_PG,
        masked.count(real_PG.astype(jnp.float32), axis=-1, keepdims=True),
        jnp.sum(of.change(tokens), axis=-1),
    )


REC_MASKS = {
    "all": lambda options, ratio_PGT, adv_PGT: jnp.ones(ratio_PGT.shape, bool),
    "one_side": _one_side,
    "ring": _ring,
}

REC_WEIGHTS = {
    "one": lambda options, ratio_PGT, adv_PGT: jnp.ones_like(ratio_PGT),
    "ratio": lambda options, ratio_PGT, adv_PGT: ratio_PGT,
    "clipped_ratio": lambda options, ratio_PGT, adv_PGT: jnp.clip(
        ratio_PGT, 1.0 - options.rec_low, 1.0 + options.rec_high
    ),
    "advantage": lambda options, ratio_PGT, adv_PGT: jnp.exp(
        jnp.clip(adv_PGT / options.rec_temperature, -of.LOG_RATIO_LIMIT, of.LOG_RATIO_LIMIT)
    ),
}
