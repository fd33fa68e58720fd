"""Losses of single tokens or responses: an advantage, and a ratio that is kept near 1."""

import jax
import jax.numpy as jnp

from g2rpo_jax.objectives import tokens as of
from g2rpo_jax.objectives.options import Options
from g2rpo_jax.objectives.tokens import Losses, Tokens


def bounded(adv, ratio, low, high, dual_clip: float = 0.0):
    """PPO's pessimistic clip of a ratio to [low, high], with the dual clip where asked for.

    Args:
      adv, ratio: arrays of one shape. low, high: numbers or arrays of that shape.
      dual_clip: c, or 0.
    Returns:
      (loss, whether the clip stops its gradient), the latter bool.
    """
    loss = jnp.maximum(-adv * ratio, -adv * jnp.clip(ratio, low, high))
    negative = adv < 0
    clipped = ((adv > 0) & (ratio > high)) | (negative & (ratio < low))
    if dual_clip:
        clipped |= negative & (ratio > dual_clip)
        loss = jnp.where(negative, jnp.minimum(loss, -dual_clip * adv), loss)
    return loss, clipped


def clipped_surrogate(options: Options, tokens: Tokens) -> Losses:
    """PPO's pessimistic clip with separate bounds and, for A < 0, the dual clip.

        r = exp(clamp(logp - old_logp, -20, 20))
        e = max(-A r, -A clip(r, 1 - low, 1 + high));  if A < 0: e = min(e, -c A)

    On the first update r = 1 exactly and the gradient is the plain policy gradient -A grad logp.

    Source: OpenVLThinkerV2 eq. 14 (one clip, no dual); the dual clip is Ye et al.'s (2020), the
    separate bounds DAPO's (2025); the authors' release has both.
    """
    low, high = 1.0 - options.clip_low, 1.0 + options.clip_high
    loss_PGT, clipped_PGT = bounded(
        of.adv_PGT(tokens), of.ratio(tokens), low, high, options.dual_clip
    )
    return loss_PGT, clipped_PGT.astype(jnp.float32)


def policy_gradient(options: Options, tokens: Tokens) -> Losses:
    """The plain policy gradient: no ratio, clip, reference or KL.

        e = -A logp

    GPG's loss (its alpha sits in the advantage), and with their advantages that of AsymRE, RAFT and
    Reinforce-Rej.

    Source: GPG, "A Simple and Strong Reinforcement Learning Baseline for Model Reasoning" (2025).
    """
    del options
    return -of.adv_PGT(tokens) * tokens.logp_PGT, of.never(tokens)


def simple_policy_optimization(options: Options, tokens: Tokens) -> Losses:
    """A quadratic penalty in the clip's place; its optimum lies exactly on the clip's bound.

        e = -(A r - |A| (r - 1)^2 / (2 epsilon))

    Beyond the bound the gradient turns back instead of stopping.

    Source: Simple Policy Optimization (2024), epsilon 0.2.
    """
    adv_PGT, ratio_PGT = of.adv_PGT(tokens), of.ratio(tokens)
    penalty_PGT = jnp.square(ratio_PGT - 1.0) / (2.0 * options.spo_epsilon)
    return -(adv_PGT * ratio_PGT - jnp.abs(adv_PGT) * penalty_PGT), of.never(tokens)


def dynamic_clip(options: Options, tokens: Tokens) -> Losses:
    """The dual clip with bounds that widen for tokens that were unlikely.

        q = exp(old_logp)
        low  = 0.5 + 0.5 sqrt(max(1 - 4 e1 / q, 0))
        high = min(0.5 + 0.5 sqrt(1 + 4 e2 / q), max(c, 10))
        e = max(-A r, -A clip(r, low, high));  if A < 0: e = min(e, -c A)

    Published with the sum over responses of their token means: `sequence_mean` times a constant.

    Source: DCPO, Dynamic Clipping Policy Optimization (2025), e1 0.16, e2 0.2.
    """
    # Below 2e-9 both bounds are at their limits.
    q_PGT = jnp.exp(jnp.clip(tokens.old_logp_PGT, -of.LOG_RATIO_LIMIT, 0.0))
    low_PGT = 0.5 + 0.5 * jnp.sqrt(jnp.maximum(1.0 - 4.0 * options.dcpo_low / q_PGT, 0.0))
    high_PGT = 0.5 + 0.5 * jnp.sqrt(1.0 + 4.0 * options.dcpo_high / q_PGT)
    high_PGT = jnp.minimum(high_PGT, max(options.dual_clip, 10.0))
    loss_PGT, clipped_PGT = bounded(
        of.adv_PGT(tokens), of.ratio(tokens), low_PGT, high_PGT, options.dual_clip
    )
    return loss_PGT, clipped_PGT.astype(jnp.float32)


def clipped_weight(options: Options, tokens: Tokens) -> Losses:
    """The ratio is a weight: bounded, without gradient, so that every token keeps one.

        e = -stop_gradient(clip(r, 1 - low, 1 + high)) A logp

    The share of clipped tokens counts the weights at a bound. Published with `token_mean`; the
    paper bounds from above alone and gives no number: 5 is what TRL and ScaleRL use.

    Source: CISPO in "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention"
    (2025).
    """
    low, high = 1.0 - options.cispo_low, 1.0 + options.cispo_high
    ratio_PGT = jax.lax.stop_gradient(of.ratio(tokens))
    clipped_PGT = (ratio_PGT < low) | (ratio_PGT > high)
    loss_PGT = -jnp.clip(ratio_PGT, low, high) * of.adv_PGT(tokens) * tokens.logp_PGT
    return loss_PGT, clipped_PGT.astype(jnp.float32)


def soft_gate(options: Options, tokens: Tokens) -> Losses:
    """A sigmoid of the ratio in the clip's place: gradients fade on both sides of 1.

        e = -A (4 / tau) sigmoid(tau (r - 1)),   tau = 1.0 for A > 0, 1.05 otherwise

    Published with `sequence_mean`.

    Source: Soft Adaptive Policy Optimization (2025).
    """
    adv_PGT = of.adv_PGT(tokens)
    tau_PGT = jnp.where(adv_PGT > 0, options.sapo_positive, options.sapo_negative)
    gate_PGT = jax.nn.sigmoid(tau_PGT * (of.ratio(tokens) - 1.0))
    return -adv_PGT * (4.0 / tau_PGT) * gate_PGT, of.never(tokens)


def sequence_clip(options: Options, tokens: Tokens) -> Losses:
    """One ratio for a response, the geometric mean of its tokens', clipped as a whole.

        s = exp(mean_t d) ;  e = max(-s A, -clip(s, 1 - low, 1 + high) A)

    Published with `sequence_mean`; with `token_mean` long responses weigh more, as in LUSPO.

    Source: Group Sequence Policy Optimization (2025), bounds 3e-4 and 4e-4.
    """
    low, high = 1.0 - options.gspo_low, 1.0 + options.gspo_high
    s_PG = jnp.exp(of.token_mean(of.change(tokens), tokens))
    loss_PG, clipped_PG = bounded(tokens.adv_PG, s_PG, low, high)
    return of.spread(loss_PG, tokens), of.spread(clipped_PG, tokens)


def sequence_clip_by_token(options: Options, tokens: Tokens) -> Losses:
    """GSPO's ratio with each token's own gradient: what advantages per token would need.

        s_t = stop_gradient(exp(mean_t d)) exp(logp - stop_gradient(logp))
        e = max(-s_t A, -clip(s_t, 1 - low, 1 + high) A)

    With one advantage a response, value and gradient are those of `gspo`.

    Source: Group Sequence Policy Optimization (2025), its token form.
    """
    low, high = 1.0 - options.gspo_low, 1.0 + options.gspo_high
    s_PG = jnp.exp(of.token_mean(of.change(tokens), tokens))
    own_PGT = jnp.exp(tokens.logp_PGT - jax.lax.stop_gradient(tokens.logp_PGT))
    s_PGT = jax.lax.stop_gradient(s_PG)[:, :, None] * own_PGT
    loss_PGT, clipped_PGT = bounded(of.adv_PGT(tokens), s_PGT, low, high)
    return loss_PGT, clipped_PGT.astype(jnp.float32)


def geometric_mean(options: Options, tokens: Tokens) -> Losses:
    """GSPO with the bound inside: log-ratios of tokens are bounded, then averaged.

        x = min(d, high) where A > 0, max(d, -low) where A < 0
        e = -A exp(mean_t x)

    With responses of one token this is the clip at exp(-low), exp(high). Published with
    `sequence_mean`.

    Source: Geometric-Mean Policy Optimization (2025), bounds 0.4 nats.
    """
    d_PGT, positive_PGT = of.change(tokens), of.adv_PGT(tokens) > 0
    x_PGT = jnp.where(
        positive_PGT,
        jnp.minimum(d_PGT, options.gmpo_high),
        jnp.maximum(d_PGT, -options.gmpo_low),
    )
    clipped_PGT = jnp.where(
        positive_PGT,
        d_PGT > options.gmpo_high,
        (d_PGT < -options.gmpo_low) & (of.adv_PGT(tokens) < 0),
    )
    loss_PG = -tokens.adv_PG * jnp.exp(of.token_mean(x_PGT, tokens))
    return of.spread(loss_PG, tokens), clipped_PGT.astype(jnp.float32)


def tapered(options: Options, tokens: Tokens) -> Losses:
    """Good responses push as plain policy gradient; bad ones fade as they become unlikely.

        e = -A logp                                                  A > 0
        e = -stop_gradient(min(exp(sum_t d), 1)) A logp              A < 0

    The share of clipped tokens counts the bad responses whose weight is at its bound of 1.

    Source: Tapered Off-Policy REINFORCE (TOPR, 2025); the formula is likely, not checked against
    its authors' code.
    """
    del options
    total_PG = jnp.sum(jax.lax.stop_gradient(of.change(tokens)), axis=-1)
    negative_PG = tokens.adv_PG < 0
    fading_PG = jnp.exp(jnp.clip(total_PG, -of.LOG_RATIO_LIMIT, 0.0))
    weight_PG1 = jnp.where(negative_PG, fading_PG, 1.0)[:, :, None]
    loss_PGT = -weight_PG1 * of.adv_PGT(tokens) * tokens.logp_PGT
    return loss_PGT, of.spread(negative_PG & (total_PG > 0), tokens)
