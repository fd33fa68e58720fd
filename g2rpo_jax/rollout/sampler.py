"""From logits and a uniform number to a token: softmax, then the inverse of its running sum.

No random numbers are made on the device, nothing is sorted: the same (seed, step, prompt,
response, position) always draws the same token from the same distribution, whatever the batch,
bucket, chunk or mesh it is drawn in.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 128  # running sums are taken over blocks of this many tokens, then inside one block
BISECTIONS = 40  # halvings of a threshold: far below float32 resolution of logits of order 100


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn.

    Attributes:
      temperature: logits are divided by it; 0 is greedy.
      top_k: only the k most likely tokens (ties with the k-th stay); 0: all.
      top_p: only the most likely tokens whose probabilities add up to top_p; 1: all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"sampling.temperature={self.temperature} must be at least 0")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k={self.top_k} must be at least 0 (0: all tokens)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p={self.top_p} must lie in (0, 1]")


def uniforms(seed: int, step: int, prompt_ids, responses: int, tokens: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for P prompts x G responses x T tokens, on the host.

    Stream (prompt, response) comes from a Philox generator keyed by the seed whose counter is
    (step, prompt, response): a function of these integers alone.
    Args:
      seed: the run's seed, at least 0.
      step: 0 where prompt ids never repeat.
      prompt_ids: P integers, at least 0.
    Returns:
      float32 [P, G, T].
    """
    out_PGT = np.empty((len(prompt_ids), responses, tokens), np.float32)
    bits = np.random.Philox(key=[seed, 0x67327270])
    generator, fresh = np.random.Generator(bits), bits.state
    for p, prompt in enumerate(prompt_ids):
        for g in range(responses):
            # One generator wound to each stream: a new one asks the system for entropy first.
            fresh["state"]["counter"][:] = 0, step, int(prompt), g
            bits.state = fresh
            generator.random(out=out_PGT[p, g], dtype=np.float32)
    return out_PGT


def greedy(logits: jax.Array) -> jax.Array:
    """Index of the largest logit, the first of equals: [..., V] -> int32 [...]."""
    V = logits.shape[-1]
    top = jnp.max(logits, axis=-1, keepdims=True)
    index = jnp.arange(V, dtype=jnp.int32).reshape((1,) * (logits.ndim - 1) + (V,))
    return jnp.min(jnp.where(logits == top, index, V - 1), axis=-1)


def log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """log softmax(logits)[token]: [..., V], int [...] -> float32 [...]."""
    V = logits.shape[-1]
    top = jnp.max(logits, axis=-1, keepdims=True)
    shifted = logits - top
    here = jnp.arange(V).reshape((1,) * token.ndim + (V,)) == token[..., None]
    picked = jnp.sum(jnp.where(here, shifted, 0.0), axis=-1)
    return picked - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))


def sample(config: SamplingConfig, logits: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one token per distribution.

    Args:
      logits: float32 [..., V].
      u: float32 [...] in [0, 1); unused when greedy.
    Returns:
      token int32 [...], and its log-probability float32 [...] under softmax(logits / temperature)
      before any top-k or top-p cut (greedy: temperature 1), which is what training computes.
    """
    if config.temperature == 0:
        token = greedy(logits)
        return token, log_prob(logits, token)
    logits = logits / config.temperature
    kept = logits
    if config.top_k and config.top_k < logits.shape[-1]:
        kept = _cut(kept, lambda keep, p: jnp.sum(keep, axis=-1) >= config.top_k)
    if config.top_p < 1:
        kept = _cut(kept, lambda keep, p: jnp.sum(keep * p, axis=-1) >= config.top_p)
    token = _invert(_softmax(kept), u)
    return token, log_prob(logits, token)


def _softmax(logits: jax.Array) -> jax.Array:
    exp = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return exp / jnp.sum(exp, axis=-1, keepdims=True)


def _cut(logits: jax.Array, enough) -> jax.Array:
    """Sets to -1e9 what lies below the highest threshold that still keeps `enough`."""
    p = _softmax(logits)
    high = jnp.max(logits, axis=-1)
    low = jnp.maximum(jnp.min(logits, axis=-1), high - 100.0)  # e-100 is no float32 probability

    def halve(bounds, _):
        low, high = bounds
        middle = 0.5 * (low + high)
        ok = enough((logits >= middle[..., None]).astype(jnp.float32), p)
        return (jnp.where(ok, middle, low), jnp.where(ok, high, middle)), None

    # `low` always keeps enough: bisection ends just at or below the last logit that is needed.
    (low, _), _ = jax.lax.scan(halve, (low, high), None, length=BISECTIONS)
    return jnp.where(logits >= low[..., None], logits, -1e9)


def _running_sum(x_NK: jax.Array) -> jax.Array:
    """cumsum over the last axis as a triangular matmul at full float32 precision."""
    K = x_NK.shape[-1]
    return jnp.matmul(x_NK, jnp.triu(jnp.ones((K, K))), precision=jax.lax.Precision.HIGHEST)


def _invert(p: jax.Array, u: jax.Array) -> jax.Array:
    """The smallest token whose running sum of probabilities exceeds u: [..., V], [...] -> [...]."""
    shape = p.shape[:-1]
    p_NV = p.reshape(-1, p.shape[-1])
    N, V = p_NV.shape
    blocks = -(-V // BLOCK)
    p_NbB = jnp.pad(p_NV, ((0, 0), (0, blocks * BLOCK - V))).reshape(N, blocks, BLOCK)
    sum_Nb = jnp.sum(p_NbB, axis=-1)
    upto_Nb = _running_sum(sum_Nb)
    target_N = u.reshape(-1) * upto_Nb[:, -1]
    # Block: the first whose running sum exceeds the target; the last that holds any probability
    # where rounding leaves none.
    index_1b = jnp.arange(blocks)[None]
    last_N = jnp.max(jnp.where(sum_Nb > 0, index_1b, 0), axis=-1)
    block_N = jnp.minimum(
        jnp.sum((upto_Nb <= target_N[:, None]).astype(jnp.int32), axis=-1), last_N
    )
    here_Nb = index_1b == block_N[:, None]
    before_N = jnp.sum(jnp.where(index_1b < block_N[:, None], sum_Nb, 0.0), axis=-1)
    inside_NB = jnp.sum(jnp.where(here_Nb[..., None], p_NbB, 0.0), axis=1)
    run_NB = _running_sum(inside_NB)
    offset_1B = jnp.arange(BLOCK)[None]
    last_N = jnp.max(jnp.where(inside_NB > 0, offset_1B, 0), axis=-1)
    rest_N1 = (target_N - before_N)[:, None]
    place_N = jnp.minimum(jnp.sum((run_NB <= rest_N1).astype(jnp.int32), axis=-1), last_N)
    return (block_N * BLOCK + place_N).reshape(shape).astype(jnp.int32)
