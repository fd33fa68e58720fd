"""The sampler draws what softmax says, from host uniforms, whatever the batch."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy import stats

from g2rpo_jax.rollout.sampler import SamplingConfig, greedy, log_prob, sample, uniforms

PLAIN = SamplingConfig()


def draw(config, logits_V, u_N):
    """Tokens for many uniforms under one distribution."""
    logits_NV = jnp.broadcast_to(
        jnp.asarray(logits_V, jnp.float32)[None], (len(u_N), len(logits_V))
    )
    token_N, logp_N = jax.jit(sample, static_argnums=0)(config, logits_NV, jnp.asarray(u_N))
    return np.asarray(token_N), np.asarray(logp_N)


def softmax64(logits_V):
    x = np.asarray(logits_V, np.float64)
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("V", [3, 128, 129, 1000])
def test_token_frequencies_match_the_softmax(V):
    logits_V = np.random.default_rng(V).normal(size=V) * 2
    u_N = np.random.default_rng(1).random(40_000, np.float32)
    token_N, _ = draw(PLAIN, logits_V, u_N)
    expected = softmax64(logits_V) * len(u_N)
    counts = np.bincount(token_N, minlength=V)
    big = expected >= 5  # chi-square needs cells of some size; the rest is pooled
    observed = np.append(counts[big], counts[~big].sum())
    wanted = np.append(expected[big], expected[~big].sum())
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


@given(st.sampled_from([2, 127, 128, 129, 400]), st.integers(0, 2**32 - 1))
def test_the_token_is_where_the_running_sum_passes_u(V, seed):
    rng = np.random.default_rng(seed)
    logits_V = rng.normal(size=V) * 3
    u = rng.random()
    (token,), _ = draw(PLAIN, logits_V, np.array([u], np.float32))
    running = np.cumsum(softmax64(logits_V))
    before = running[token - 1] if token else 0.0
    assert before - 1e-5 <= u <= running[token] + 1e-5


def test_u_at_the_edges_gives_a_possible_token():
    logits_V = np.array([-1e9, 0.0, -1e9, 1.0, -1e9] + [-1e9] * 300)
    token_N, _ = draw(PLAIN, logits_V, np.array([0.0, np.float32(1) - 2**-24], np.float32))
    assert token_N.tolist() == [1, 3]


def test_log_prob_is_that_of_scipy():
    logits_NV = np.random.default_rng(0).normal(size=(7, 333)).astype(np.float32) * 5
    token_N = np.random.default_rng(1).integers(0, 333, 7)
    got = log_prob(jnp.asarray(logits_NV), jnp.asarray(token_N))
    want = [np.log(softmax64(row)[t]) for row, t in zip(logits_NV, token_N, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_reported_log_probs_are_at_the_sampling_temperature_before_any_cut():
    logits_V = np.random.default_rng(0).normal(size=50)
    config = SamplingConfig(temperature=0.7, top_k=5, top_p=0.9)
    token_N, logp_N = draw(config, logits_V, np.random.default_rng(1).random(100, np.float32))
    want_V = np.log(softmax64(logits_V / 0.7))
    np.testing.assert_allclose(logp_N, want_V[token_N], rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_draws_the_k_most_likely_in_their_proportions(k):
    logits_V = np.random.default_rng(k).normal(size=60)
    u_N = np.random.default_rng(2).random(20_000, np.float32)
    token_N, _ = draw(SamplingConfig(top_k=k), logits_V, u_N)
    allowed = np.argsort(logits_V)[-k:]
    assert set(token_N) == set(allowed)
    p_V = np.zeros(60)
    p_V[allowed] = softmax64(logits_V[allowed])
    shares_V = np.bincount(token_N, minlength=60) / len(u_N)
    np.testing.assert_allclose(shares_V, p_V, atol=0.015)


@given(st.sampled_from([2, 300]), st.sampled_from([0.05, 0.5, 0.9]), st.integers(0, 2**32 - 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(V, p, seed):
    logits_V = np.random.default_rng(seed).permutation(V) * (6.0 / V)  # no ties
    q_V = softmax64(logits_V)
    order = np.argsort(-q_V)
    size = int(np.searchsorted(np.cumsum(q_V[order]), p * (1 + 1e-6))) + 1
    u_N = np.append(np.linspace(0, 1, 512, endpoint=False), 1 - 1e-7).astype(np.float32)
    token_N, _ = draw(SamplingConfig(top_p=p), logits_V, u_N)
    assert set(token_N) <= set(order[: size + 1])  # + 1: p may lie within rounding of a step
    assert order[0] in token_N


def test_greedy_takes_the_first_of_equals():
    logits = jnp.array([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert greedy(logits).tolist() == [1, 0]


def test_uniforms_depend_on_their_own_prompt_and_response_only():
    many = uniforms(3, 0, [5, 9, 2], 4, 6)
    alone = uniforms(3, 0, [9], 4, 6)
    np.testing.assert_array_equal(many[1], alone[0])
    np.testing.assert_array_equal(uniforms(3, 0, [9], 2, 3)[0], alone[0, :2, :3])
    assert (uniforms(4, 0, [9], 4, 6) != alone).all()
    assert (uniforms(3, 1, [9], 4, 6) != alone).all()
    stream = np.random.Philox(key=[3, 0x67327270], counter=[0, 0, 9, 2])
    np.testing.assert_array_equal(np.random.Generator(stream).random(6, np.float32), alone[0, 2])


def test_uniforms_are_uniform_and_unrelated():
    u_PGT = uniforms(0, 0, range(40), 8, 30)
    assert u_PGT.min() >= 0 and u_PGT.max() < 1
    assert stats.kstest(u_PGT.ravel(), "uniform").pvalue > 1e-3
    flat = u_PGT.reshape(320, 30)
    off_diagonal = np.corrcoef(flat)[np.triu_indices(320, 1)]
    assert abs(off_diagonal.mean()) < 0.01


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_settings_that_make_no_sense_name_their_field(bad):
    with pytest.raises(ValueError, match=f"sampling.{next(iter(bad))}"):
        SamplingConfig(**bad)
