"""Losses that compare the right responses of a row with the wrong ones.

Right is what has an advantage above 0, wrong below: with a centred estimator (`dr_grpo`, `grpo`)
and rewards of two values exactly the right and the wrong responses of a prompt that has both, and
nothing of a prompt that has only one kind. With graded rewards: above and below the prompt's mean.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from g2rpo_jax import masked
from g2rpo_jax.objectives import tokens as of
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.tokens import PG, PGT, Losses, Tokens


def discriminative_logp(options: Options, tokens: Tokens) -> Losses:
    """Pushes right responses' mean log-prob above a soft maximum of the wrong ones', near the old
    policy.

        S = mean_t logp ;  J = mean_right S - tau log(mean_wrong exp(S / tau))
        loss = -mean_prompts J + (beta / 2) max(KL - delta, 0)^2
        KL = mean over tokens of r - 1 - d

    tau 10. With `sequence_mean` (and G responses everywhere) this is the paper's. The value that is
    logged has beta max(KL - delta, 0) KL as its penalty, with the paper's gradient.

    Cost: with micro-batches, one more forward pass: the KL is the whole minibatch's.

    Source: DisCO, "DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained
    Optimization" (2025).
    """
    return _discriminative(options, tokens, tokens.logp_PGT, options.disco_logp_tau, None)


def discriminative_ratio(options: Options, tokens: Tokens) -> Losses:
    """DisCO with the mean ratio as the score of a response.

        S = mean_t r ;  J = mean_right S - tau log(mean_wrong exp(S / tau))
        loss = -mean_prompts J + (beta / 2) max(KL - delta, 0)^2

    tau 1; all else as `disco_logp`.

    Cost: with micro-batches, one more forward pass.

    Source: DisCO, "DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained
    Optimization" (2025).
    """
    return _discriminative(options, tokens, of.ratio(tokens), options.disco_ratio_tau, None)


def decoupled(options: Options, tokens: Tokens) -> Losses:
    """DisCO in which short right responses weigh more, among the right ones only.

        w_i = exp((1 - L_i / T) / lambda)
        J = sum_right w_i S_i / sum_right w_i - tau log(mean_wrong exp(S / tau)),  S = mean_t logp
        loss = -mean_prompts J + (beta / 2) max(KL - delta, 0)^2

    T: max_tokens; lambda 0.1; all else as `disco_logp`.

    Cost: with micro-batches, one more forward pass.

    Source: DRPO, "DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization" (2025).
    """
    share_PG = _lengths(tokens) / tokens.mask_PGT.shape[-1]
    # exp((1 - share) / lambda) up to a factor that every response has.
    weight_PG = jnp.exp(jnp.maximum(-share_PG / options.drpo_lambda, -4 * of.LOG_RATIO_LIMIT))
    return _discriminative(options, tokens, tokens.logp_PGT, options.disco_logp_tau, weight_PG)


def divergence_sums(options: Options, tokens: Tokens) -> dict[str, Float[Array, ""]]:
    """The look of DisCO and DRPO: sum of r - 1 - d, tokens, responses."""
    del options
    d_PGT = of.change(tokens)
    return {
        "kl": masked.sum(jnp.exp(d_PGT) - 1.0 - d_PGT, tokens.mask_PGT),
        "tokens": masked.count(tokens.mask_PGT),
        "responses": masked.count(of.real_PG(tokens)),
    }


def _discriminative(
    options: Options, tokens: Tokens, score_PGT: PGT, tau: float, weight_PG: PG | None
) -> Losses:
    score_PG = of.token_mean(score_PGT, tokens)
    right_PG, wrong_PG = _right(tokens), _wrong(tokens)
    weight_PG = right_PG if weight_PG is None else weight_PG * right_PG
    both_P1 = _any(right_PG) & _any(wrong_PG)
    objective_P1 = masked.mean(score_PG, weight_PG, axis=-1, keepdims=True)
    objective_P1 -= tau * _log_mean_exp(score_PG / tau, wrong_PG)
    loss_PG = jnp.where(both_P1, -objective_P1, 0.0) * jnp.ones_like(score_PG)
    seen = tokens.seen
    count = jnp.maximum(seen["tokens"], 1.0)
    strength = options.disco_beta * jnp.maximum(seen["kl"] / count - options.disco_delta, 0.0)
    d_PGT = of.change(tokens)
    # Undoes sequence_mean's weights: the KL is a mean over tokens.
    share_PG1 = (_lengths(tokens) * seen["responses"] / count)[:, :, None]
    penalty_PGT = strength * share_PG1 * (jnp.exp(d_PGT) - 1.0 - d_PGT)
    return of.spread(loss_PG, tokens) + penalty_PGT, of.never(tokens)


def preference(options: Options, tokens: Tokens) -> Losses:
    """Logistic loss of every pair of responses of which one is better, on log-ratios to the
    reference policy.

        R_i = mean_t (logp - ref_logp)
        loss = mean over pairs A_a > A_b of a prompt of -log sigmoid(c beta (R_a - R_b))
        c = 2.5 if a is right (A_a > 0), else 1

    The paper's levels (right, wrong, unparsed, bad format) are here the distinct rewards; a
    minibatch without a pair has no loss (the paper's then has one for single responses). With
    `sequence_mean` the mean is over all pairs of the minibatch.

    Cost: a second copy of the parameters and one more scoring pass for the reference.

    Source: TRPA, "Trust Region Preference Approximation: A simple and stable reinforcement learning
    algorithm for LLM reasoning" (2025), beta 0.1, with a KL term of weight 0.001.
    """
    far_PGT = of.log_ratio(tokens.logp_PGT, tokens.ref_logp_PGT)
    far_PG = of.token_mean(far_PGT, tokens)
    scale_PG1 = jnp.where(tokens.adv_PG > 0, options.trpa_right, 1.0)[:, :, None]
    margin_PGG = scale_PG1 * options.trpa_beta * (far_PG[:, :, None] - far_PG[:, None, :])
    better_PGG = _better(tokens)
    loss_P11 = masked.sum(_softplus(-margin_PGG), better_PGG, axis=(1, 2), keepdims=True)
    seen, real_PG = tokens.seen, of.real_PG(tokens)
    each_P1 = masked.count(real_PG, axis=-1, keepdims=True)
    scale = seen["responses"] / jnp.maximum(seen["pairs"], 1.0)
    loss_P1 = loss_P11[:, :, 0] * scale / jnp.maximum(each_P1, 1.0)
    return of.spread(loss_P1 * jnp.ones_like(far_PG), tokens), of.never(tokens)


def pair_counts(options: Options, tokens: Tokens) -> dict[str, Float[Array, ""]]:
    """The look of TRPA: pairs and responses. It reads no log-prob, so no forward pass is made."""
    del options
    return {
        "pairs": masked.count(_better(tokens)),
        "responses": masked.count(of.real_PG(tokens)),
    }


def _better(tokens: Tokens):
    """Whether response a of a row has a higher advantage than b, [P, a, b]."""
    real_PG = of.real_PG(tokens)
    higher_PGG = tokens.adv_PG[:, :, None] > tokens.adv_PG[:, None, :]
    return higher_PGG & real_PG[:, :, None] & real_PG[:, None, :]


def _right(tokens: Tokens) -> PG:
    return ((tokens.adv_PG > 0) & of.real_PG(tokens)).astype(jnp.float32)


def _wrong(tokens: Tokens) -> PG:
    return ((tokens.adv_PG < 0) & of.real_PG(tokens)).astype(jnp.float32)


def _any(mask_PG: PG):
    return jnp.max(mask_PG, axis=-1, keepdims=True) > 0


def _lengths(tokens: Tokens) -> PG:
    return masked.count(tokens.mask_PGT, axis=-1)


def _softplus(x):
    """log(1 + exp(x)) = -log sigmoid(-x)."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _log_mean_exp(x_PG: PG, mask_PG: PG) -> Float[Array, "P 1"]:
    """log(mean(exp(x))) under the mask; 0 where it is empty."""
    lowest = -float(jnp.finfo(jnp.float32).max)
    top_P1 = jnp.max(jnp.where(mask_PG > 0, x_PG, lowest), axis=-1, keepdims=True)
    some_P1 = _any(mask_PG)
    top_P1 = jax.lax.stop_gradient(jnp.where(some_P1, top_P1, 0.0))
    below_PG = jnp.where(mask_PG > 0, x_PG - top_P1, 0.0)
    mean_P1 = masked.mean(jnp.exp(below_PG), mask_PG, axis=-1, keepdims=True)
    return jnp.log(jnp.where(some_P1, mean_P1, 1.0)) + top_P1
