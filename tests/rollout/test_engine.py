"""Rollouts: sampled log-probs are the trainer's, and a sample does not depend on its batch."""

import jax
import numpy as np
import pytest

from g2rpo_jax.metrics import CompileCounter
from g2rpo_jax.models.qwen3_vl import pack
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make, replicated
from g2rpo_jax.rollout.engine import Engine, chunk_tokens, join
from g2rpo_jax.rollout.sampler import SamplingConfig
from g2rpo_jax.train.policy_step import StepConfig, compile_score
from tests import tiny

EOS, PAD = (5, 17), 0


def engine(responses=4, tokens=12, chunk=4, devices=1, graphdef=None, **sampling):
    mesh = make(MeshConfig(data=devices), jax.devices()[:devices])
    return Engine(
        graphdef or tiny.model()[0],
        mesh,
        responses=responses,
        max_tokens=tokens,
        chunk=chunk,
        sampling=SamplingConfig(**sampling),
        eos=EOS,
        pad=PAD,
    )


@pytest.fixture(scope="module")
def rolled():
    _, params = tiny.model()
    rows = tiny.prompts(6)
    return params, rows, engine().generate(params, pack(rows, tiny.CONFIG, 12, 8), range(6), seed=3)


def test_sampler_log_probs_are_the_trainers(rolled):
    params, rows, out = rolled
    graphdef, _ = tiny.model()
    score = compile_score(graphdef, StepConfig(), make(MeshConfig(data=1), jax.devices()[:1]))
    logp_PGT = np.asarray(
        score(params, tiny.NOTHING, pack(rows, tiny.CONFIG, 12, 8), out.token_PGT)
    )
    np.testing.assert_allclose(
        out.logp_PGT[out.mask_PGT], logp_PGT[out.mask_PGT], rtol=1e-4, atol=1e-4
    )


def test_a_response_ends_with_its_end_token_and_is_padded_after(rolled):
    _, _, out = rolled
    assert out.ended_PG.any() and not out.ended_PG.all()
    for tokens, mask, ended in zip(
        out.token_PGT.reshape(-1, 12),
        out.mask_PGT.reshape(-1, 12),
        out.ended_PG.ravel(),
        strict=True,
    ):
        n = mask.sum()
        assert mask[:n].all() and (tokens[n:] == PAD).all()
        assert np.isin(tokens[: n - 1], EOS).sum() == 0
        assert np.isin(tokens[n - 1], EOS) == ended
        assert ended or n == 12


def test_a_sample_does_not_depend_on_its_batch_bucket_or_chunk(rolled):
    params, rows, out = rolled
    alone = engine(chunk=6).generate(params, pack(rows[4:5], tiny.CONFIG, 16, 16), [4], seed=3)
    np.testing.assert_array_equal(alone.token_PGT[0], out.token_PGT[4])
    np.testing.assert_allclose(alone.logp_PGT[0], out.logp_PGT[4], rtol=1e-4, atol=1e-4)


def test_devices_change_nothing(rolled):
    params, rows, out = rolled
    two = engine(devices=2)
    params = jax.device_put(params, replicated(two.mesh))
    got = two.generate(params, pack(rows, tiny.CONFIG, 12, 8), range(6), seed=3)
    np.testing.assert_array_equal(got.token_PGT, out.token_PGT)


def test_another_seed_or_prompt_id_draws_something_else(rolled):
    params, rows, out = rolled
    inputs = pack(rows, tiny.CONFIG, 12, 8)
    generate = engine().generate
    assert (generate(params, inputs, range(6), seed=4).token_PGT != out.token_PGT).any()
    assert (generate(params, inputs, range(6, 12), seed=3).token_PGT != out.token_PGT).any()


def test_greedy_takes_the_most_likely_token_at_every_place(rolled):
    params, rows, _ = rolled
    graphdef, _ = tiny.model()
    inputs = pack(rows, tiny.CONFIG, 12, 8)
    out = engine(responses=1, temperature=0.0).generate(params, inputs, range(6), seed=0)
    from flax import nnx

    model = nnx.merge(graphdef, params)
    logits = np.asarray(model.unembed(model.row_hidden(inputs, out.token_PGT)))
    best = logits.argmax(-1)
    np.testing.assert_array_equal(best[out.mask_PGT], out.token_PGT[out.mask_PGT])


def test_a_rows_limit_cuts_its_responses_and_nothing_else(rolled):
    params, rows, whole = rolled
    limit_P = np.array([12, 0, 5, 1, 12, 7])  # 0: a filler row
    inputs = pack(rows, tiny.CONFIG, 12, 8)
    out = engine().generate(params, inputs, range(6), seed=3, limit_P=limit_P)
    inside_P1T = np.arange(12) < limit_P[:, None, None]
    np.testing.assert_array_equal(out.mask_PGT, whole.mask_PGT & inside_P1T)
    np.testing.assert_array_equal(out.token_PGT, np.where(inside_P1T, whole.token_PGT, PAD))
    np.testing.assert_array_equal(
        out.ended_PG, whole.ended_PG & (whole.length_PG <= limit_P[:, None])
    )


def test_samples_do_not_notice_that_the_batch_shrinks(rolled):
    """The same tokens, near log-probs, fewer slots, two rows of filler; and nothing is compiled
    for other lengths."""
    params, rows, whole = rolled
    mesh = make(MeshConfig(2, 2, 2))
    small = Engine(
        tiny.model()[0],
        mesh,
        responses=4,
        max_tokens=12,
        chunk=3,
        sampling=SamplingConfig(),
        eos=EOS,
        pad=PAD,
        halvings=2,
    )
    params = jax.device_put(params, rules.shardings(params, mesh))
    inputs = pack(rows + rows[:2], tiny.CONFIG, 12, 8)
    for limits in ((2, 9, 5, 3, 12, 1, 0, 0), (3, 12, 1, 2, 2, 9, 0, 0)):
        before, compiles = small.slots, CompileCounter()
        limit_P = np.array(limits)
        out = small.generate(params, inputs, range(8), seed=3, limit_P=limit_P)
        inside_P1T = np.arange(12) < limit_P[:6, None, None]
        mask_PGT = whole.mask_PGT & inside_P1T
        assert not out.mask_PGT[6:].any()
        np.testing.assert_array_equal(out.mask_PGT[:6], mask_PGT)
        np.testing.assert_array_equal(out.token_PGT[:6], np.where(mask_PGT, whole.token_PGT, PAD))
        np.testing.assert_allclose(
            out.logp_PGT[:6], np.where(mask_PGT, whole.logp_PGT, 0.0), rtol=1e-4, atol=1e-5
        )
        assert small.slots - before < 0.7 * 8 * 4 * 12
    assert compiles.count == 0


def test_rows_decoded_in_several_calls_join_to_the_same(rolled):
    params, rows, whole = rolled
    order = [4, 0, 5, 2, 3, 1]
    parts = [
        engine().generate(params, pack([rows[p] for p in ids], tiny.CONFIG, 12, 8), ids, seed=3)
        for ids in (order[:3], order[3:])
    ]
    out = join(parts, np.argsort(order))
    np.testing.assert_array_equal(out.token_PGT, whole.token_PGT)
    np.testing.assert_array_equal(out.mask_PGT, whole.mask_PGT)
    np.testing.assert_array_equal(out.ended_PG, whole.ended_PG)
    np.testing.assert_allclose(out.logp_PGT, whole.logp_PGT, rtol=1e-5, atol=1e-6)


def test_a_chunk_that_does_not_divide_the_tokens_changes_nothing(rolled):
    params, rows, whole = rolled
    out = engine(chunk=5).generate(params, pack(rows, tiny.CONFIG, 12, 8), range(6), seed=3)
    assert out.token_PGT.shape == whole.token_PGT.shape
    np.testing.assert_array_equal(out.token_PGT, whole.token_PGT)
    np.testing.assert_array_equal(out.mask_PGT, whole.mask_PGT)


def test_chunks_are_as_asked_or_of_one_length_that_the_back_end_likes():
    assert chunk_tokens(5, 28, 8) == 5
    assert [chunk_tokens(0, tokens, 8) for tokens in (28, 8, 33, 3)] == [7, 8, 7, 3]
