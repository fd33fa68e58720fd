"""How tokens are averaged, and the KL to the reference policy.

A batch's loss is sum_PGT(weight * token_loss), with `aggregation_weights` of the **global** batch,
known before the backward pass: cutting the batch into micro-batches or devices is then an exact sum
and changes nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from g2rpo_jax.objectives.tokens import PGT, AnyArray, log_ratio
from g2rpo_jax.tables import lookup


def aggregation_weights(
    name: str, mask_PGT: Bool[AnyArray, "P G T"] | PGT, fixed_length: int = 1024
) -> Float[Array, "P G T"]:
    """Weights w with loss = sum_PGT(w * token_loss), from the mask of the global batch.

    Args:
      name: entry of AGGREGATIONS.
      mask_PGT: true (or 1.0) at generated tokens that count. A response without any is not a
        response.
      fixed_length: constant of `fixed_length`; the others do not read it.
    Returns:
      float32; 0 outside the mask, and 0 everywhere if the mask is empty. `token_mean` and
      `sequence_mean` sum to 1.
    Raises:
      ValueError: unknown name.
    """
    mask_PGT = jnp.asarray(mask_PGT).astype(jnp.float32)
    return lookup(AGGREGATIONS, name, kind="aggregation")(mask_PGT, fixed_length)


def token_mean(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Every token of the batch weighs the same: a long response weighs more.

        loss = sum of all tokens' losses / number of tokens

    Source: DAPO (2025); the authors' release of OpenVLThinkerV2.
    """
    del fixed_length
    return mask_PGT / jnp.maximum(jnp.sum(mask_PGT), 1.0)


def sequence_mean(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Mean over a response's tokens, then over responses.

        loss = mean over responses of (sum of its tokens' losses / its length)

    Source: GRPO in DeepSeekMath (2024); OpenVLThinkerV2 eqs. 1 and 14.
    """
    del fixed_length
    length_PG1 = jnp.sum(mask_PGT, axis=-1, keepdims=True)
    return mask_PGT / jnp.maximum(length_PG1, 1.0) / _responses(mask_PGT)


def fixed_length(mask_PGT: PGT, fixed_length: int) -> PGT:
    """Sum over a response's tokens over a constant, then mean over responses.

        loss = mean over responses of (sum of its tokens' losses / fixed_length)

    Source: Dr.GRPO, "Understanding R1-Zero-Like Training: A Critical Perspective" (2025).
    """
    return mask_PGT / fixed_length / _responses(mask_PGT)


def _responses(mask_PGT: PGT) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(jnp.max(mask_PGT, axis=-1)), 1.0)


def kl(estimator: str, logp_PGT: PGT, ref_logp_PGT: PGT) -> Float[Array, "P G T"]:
    """Estimate of KL(policy || reference) at each sampled token, in nats.

    d = logp - ref_logp is clamped to +-20. As values, on-policy, k1 and k3 are unbiased and k2 is
    not. As losses their expected gradients differ.

    Args:
      estimator: entry of KL_ESTIMATORS.
      logp_PGT: log-probs under the policy; carries the gradient.
      ref_logp_PGT: log-probs of the same tokens under the reference; no gradient flows here.
    Raises:
      ValueError: unknown estimator.
    """
    d_PGT = log_ratio(jnp.asarray(logp_PGT), jax.lax.stop_gradient(ref_logp_PGT))
    return lookup(KL_ESTIMATORS, estimator, kind="KL estimator")(d_PGT)


def k1(d_PGT: PGT) -> PGT:
    """The log-ratio itself; as a loss its expected gradient is 0, nothing but noise.

        k1 = d

    Source: J. Schulman, "Approximating KL Divergence" (2020).
    """
    return d_PGT


def k2(d_PGT: PGT) -> PGT:
    """Half the squared log-ratio; its expected gradient is that of KL(policy || reference).

        k2 = d^2 / 2

    Source: J. Schulman, "Approximating KL Divergence" (2020).
    """
    return 0.5 * jnp.square(d_PGT)


def k3(d_PGT: PGT) -> PGT:
    """Never negative, of low variance; its expected gradient is that of KL(reference || policy).

        k3 = exp(-d) - 1 + d

    Source: J. Schulman, "Approximating KL Divergence" (2020).
    """
    return jnp.exp(-d_PGT) - 1.0 + d_PGT


AGGREGATIONS = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}

KL_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
