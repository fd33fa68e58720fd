"""A mixture of experts in place of a layer's MLP: a token takes the k that it scores highest.

Exact and dense: all experts run on all tokens, and those that a token did not choose count zero. So
an MLP costs experts / k times the products of a sparse one (16 times for 30B-A3B: training costs
what a dense 30B does; decoding, which reads every expert's weights anyway, little more). In return
there is no sort, no gather, no scatter, no token dropped, and every shape is known beforehand.
"""

import functools

import jax
import jax.numpy as jnp

from g2rpo_jax.models.qwen3_vl.config import TextConfig
from g2rpo_jax.parallel import constrain


def route(config: TextConfig, router_DE: jax.Array, x_PLD: jax.Array) -> jax.Array:
    """Weights of the experts for each token: [P, L, E] in x's dtype, k of them above zero, sum 1.

    Of equal scores the expert with the lower number is chosen. The choice has no gradient, the
    weights do.
    Args:
      config: num_experts (E) and num_experts_per_tok (k).
      router_DE: the layer's router.
      x_PLD: tokens.
    """
    wide = jnp.promote_types(x_PLD.dtype, jnp.float32)
    logits_PLE = jnp.einsum(
        "pld,de->ple", x_PLD, router_DE.astype(x_PLD.dtype), preferred_element_type=wide
    )
    # The scores are rounded to x's dtype first, as transformers does: near ties fall alike.
    score_PLE = jax.nn.softmax(logits_PLE.astype(x_PLD.dtype).astype(wide), axis=-1)
    number_E = jnp.arange(config.num_experts, dtype=jnp.int32)[None, None]
    left_PLE = jax.lax.stop_gradient(score_PLE)
    chosen_PLE = jnp.zeros(left_PLE.shape, bool)
    for _ in range(config.num_experts_per_tok):
        best_PLE = left_PLE == left_PLE.max(-1, keepdims=True)
        first_PL1 = jnp.where(best_PLE, number_E, config.num_experts).min(-1, keepdims=True)
        chosen_PLE |= number_E == first_PL1
        left_PLE = jnp.where(chosen_PLE, -1.0, left_PLE)
    weight_PLE = jnp.where(chosen_PLE, score_PLE, 0)
    return (weight_PLE / weight_PLE.sum(-1, keepdims=True)).astype(x_PLD.dtype)


def mixture(config: TextConfig, act, w: dict[str, jax.Array], x_PLD: jax.Array) -> jax.Array:
    """The weighted sum of the experts' gated MLPs: [P, L, D].

    Experts are divided over the mesh's tensor axis; every device runs one of its own at a time, and
    the backward pass computes it again.
    Args:
      config: the language model's.
      act: the activation.
      w: a layer's weights: router_proj [D, E], experts_up_proj [E, D, 2F] with the gate first,
        experts_down_proj [E, F, D].
      x_PLD: tokens.
    """
    E, dtype = config.num_experts, x_PLD.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    ways = constrain.ways("experts")
    ways = ways if E % ways == 0 else 1

    def rounds(a: jax.Array) -> jax.Array:
        """[E, ...] -> [E / ways, ways, ...]: each round has one expert of every device."""
        a = a.reshape(ways, E // ways, *a.shape[1:]).swapaxes(0, 1)
        return constrain.constrain(a, None, "experts")

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def experts(x_PLD, up_WDE, down_WFD, weight_WPL):
        both_WPLE = jnp.einsum("pld,wde->wple", x_PLD, up_WDE, preferred_element_type=wide)
        gate_WPLF, up_WPLF = jnp.split(both_WPLE.astype(dtype), 2, axis=-1)
        y_WPLF = act(gate_WPLF) * up_WPLF * weight_WPL[..., None]
        y_WPLF = constrain.constrain(y_WPLF, "experts", "rows")
        return jnp.einsum("wplf,wfd->pld", y_WPLF, down_WFD, preferred_element_type=wide)

    def one_round(total_PLD, xs):
        return total_PLD + experts(x_PLD, *xs), None

    weight_EPL = jnp.moveaxis(route(config, w["router_proj"], x_PLD), -1, 0)
    up, down = w["experts_up_proj"].astype(dtype), w["experts_down_proj"].astype(dtype)
    xs = (rounds(up), rounds(down), rounds(weight_EPL))
    total_PLD, _ = jax.lax.scan(one_round, jnp.zeros(x_PLD.shape, wide), xs)
    return total_PLD.astype(dtype)
