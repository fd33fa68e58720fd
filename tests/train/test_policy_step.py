"""The update does not depend on how the minibatch is cut over micro-batches or devices."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from g2rpo_jax.models.logprobs import token_stats
from g2rpo_jax.models.qwen3_vl import packing
from g2rpo_jax.objectives import ObjectiveConfig
from g2rpo_jax.parallel import rules
from g2rpo_jax.parallel.mesh import MeshConfig, make, row_sharding
from g2rpo_jax.train import state
from g2rpo_jax.train.policy_step import StepConfig, compile_score, compile_step
from tests import tiny

# SGD keeps the gradient's size in the update: Adam's first step is its sign alone.
SGD = optax.chain(optax.clip_by_global_norm(1e6), optax.sgd(0.1))
CONFIG = StepConfig(
    objective=ObjectiveConfig(aggregation="token_mean"),
    entropy_weight=0.5,
    tasks=3,
    logprob_chunk=5,
)


@functools.cache
def program(config, mesh, tx):
    """The compiled update; compiling is what these tests spend their time on."""
    graphdef, start = tiny.model()
    mesh = make(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])
    train = state.create(start, tx)
    return compile_step(graphdef, tx, config, mesh, train, tiny.NOTHING, donate=False), mesh


def step(config=CONFIG, mesh=(1, 1, 1), batch=None, tx=SGD, params=None):
    """(new state, sums) of one update, on the host."""
    update, mesh = program(config, mesh, tx)
    train = state.create(params or tiny.model()[1], tx)
    train = jax.device_put(train, rules.shardings(train, mesh))
    batch = jax.device_put(batch or tiny.batch(), row_sharding(mesh))
    return jax.device_get(update(train, tiny.NOTHING, batch))


@pytest.fixture(scope="module")
def whole():
    return step()


@pytest.mark.parametrize("parts", [4])
def test_micro_batches_change_nothing(whole, parts):
    tiny.close(step(dataclasses.replace(CONFIG, microbatches=parts)), whole)


def test_mesh_and_micro_batches_together_change_nothing(whole):
    config = dataclasses.replace(CONFIG, microbatches=4)
    tiny.close(step(config, mesh=(1, 2, 2)), whole)


def test_parameters_are_divided_as_the_rules_say():
    mesh = make(MeshConfig(2, 2, 2))
    _, params = tiny.model()
    placed = jax.device_put(params, rules.shardings(params, mesh))
    q = placed["layers"]["q_proj"].get_value()  # [layers, D, Q * H]
    assert {s.data.shape for s in q.addressable_shards} == {(2, 16, 16)}
    norm = placed["norm"].get_value()
    assert norm.sharding.is_fully_replicated


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(name="gspo", importance="truncated"),
        ObjectiveConfig(name="gvpo"),
        ObjectiveConfig(name="disco_logp", disco_beta=0.5),  # needs a look before its gradient
    ],
    ids=lambda objective: objective.name,
)
def test_micro_batches_change_no_loss_of_responses_or_groups(objective):
    config = dataclasses.replace(CONFIG, objective=objective, entropy_weight=0.0)
    start = jax.device_get(tiny.model()[1])
    whole = step(config)
    tiny.close(step(dataclasses.replace(config, microbatches=4)), whole)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole[0].params, start)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_weights_of_the_sampler_gap_multiply_the_loss_and_are_counted():
    """The trainer finds every token 1.5 times as likely as the sampler did: 1.5 times the step."""
    graphdef, params = tiny.model()
    mesh = make(MeshConfig(data=1), jax.devices()[:1])
    batch = dataclasses.replace(tiny.batch(), on_policy_P=np.ones(8, bool))
    score = compile_score(graphdef, CONFIG, mesh)
    found_PGT = np.asarray(score(params, tiny.NOTHING, batch.inputs, batch.response_PGT))
    batch = dataclasses.replace(batch, sampler_logp_PGT=found_PGT - np.float32(np.log(1.5)))
    start = jax.device_get(params)

    def moved(**fields):
        objective = ObjectiveConfig(name="gpg", importance="truncated", **fields)
        config = dataclasses.replace(CONFIG, objective=objective, entropy_weight=0.0)
        new, sums = step(config, batch=batch)
        return jax.tree.map(lambda a, b: a - b, new.params, start), sums["importance_cut"]

    open_step, cut = moved()
    assert cut == 0
    bounded_step, cut = moved(importance_cap=1.25)
    assert cut == batch.mask_PGT.sum()
    tiny.close(open_step, jax.tree.map(lambda x: x * 1.2, bounded_step), rtol=1e-3, atol=1e-6)


def test_filler_rows_are_inert(whole):
    batch = tiny.batch()
    wild = dataclasses.replace(
        batch,
        response_PGT=np.where(np.arange(8)[:, None, None] == 7, 3, batch.response_PGT),
        old_logp_PGT=np.where(np.arange(8)[:, None, None] == 7, -50.0, batch.old_logp_PGT),
    )
    tiny.close(step(batch=wild)[0], whole[0])


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    batch = tiny.batch()
    adv_PG = batch.adv_PG.copy()
    adv_PG[0, 0] = np.nan
    _, params = tiny.model()
    tx = optax.adamw(1e-2)
    new, sums = step(batch=dataclasses.replace(batch, adv_PG=adv_PG), tx=tx)
    tiny.close(new.params, jax.device_get(params), rtol=0, atol=0)
    assert new.skipped == 1 and sums["skipped"] == 1 and new.update == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(new.opt_state))


def test_the_first_update_has_ratio_one_and_the_policy_gradient():
    """On-policy rows: clip bounds cannot bite, however tight."""
    batch = dataclasses.replace(tiny.batch(), on_policy_P=np.ones(8, bool))
    plain = dataclasses.replace(CONFIG, entropy_weight=0.0)
    tight = dataclasses.replace(
        plain, objective=ObjectiveConfig(aggregation="token_mean", clip_low=1e-3, clip_high=1e-3)
    )
    gpg = dataclasses.replace(
        plain, objective=ObjectiveConfig(name="gpg", aggregation="token_mean")
    )
    a, b, c = (step(config, batch=batch)[0].params for config in (plain, tight, gpg))
    tiny.close(a, b, rtol=1e-5, atol=1e-7)
    tiny.close(a, c, rtol=1e-5, atol=1e-7)


def test_the_gap_counts_fresh_tokens_only():
    graphdef, params = tiny.model()
    mesh = make(MeshConfig(data=1), jax.devices()[:1])
    batch = tiny.batch()
    logp_PGT = np.asarray(
        compile_score(graphdef, CONFIG, mesh)(
            params, tiny.NOTHING, batch.inputs, batch.response_PGT
        )
    )
    shifted = dataclasses.replace(batch, sampler_logp_PGT=logp_PGT + 0.25)
    _, sums = step(batch=shifted)
    fresh = batch.mask_PGT & batch.on_policy_P[:, None, None]
    assert sums["gap_tokens"] == fresh.sum()
    np.testing.assert_allclose(sums["gap"] / sums["gap_tokens"], 0.25, rtol=1e-4)
    np.testing.assert_allclose(sums["gap_max"], 0.25, rtol=1e-4)


def test_a_kl_term_to_itself_adds_nothing_and_to_another_pulls_back():
    graphdef, params = tiny.model()
    mesh = make(MeshConfig(data=1), jax.devices()[:1])
    batch = tiny.batch()
    objective = ObjectiveConfig(aggregation="token_mean", kl_coefficient=1.0, kl_estimator="k2")
    config = dataclasses.replace(CONFIG, objective=objective, entropy_weight=0.0)
    score = compile_score(graphdef, config, mesh)
    own = dataclasses.replace(
        batch,
        adv_PG=np.zeros_like(batch.adv_PG),
        ref_logp_PGT=np.asarray(score(params, tiny.NOTHING, batch.inputs, batch.response_PGT)),
    )
    new, sums = step(config, batch=own)
    assert abs(sums["kl"]) < 1e-8
    tiny.close(new.params, jax.device_get(params), rtol=0, atol=1e-6)
    _, other = tiny.model(seed=1)
    other_PGT = np.asarray(score(other, tiny.NOTHING, batch.inputs, batch.response_PGT))
    away = dataclasses.replace(own, ref_logp_PGT=other_PGT)
    new, sums = step(config, batch=away)
    before_PGT = np.asarray(score(params, tiny.NOTHING, batch.inputs, batch.response_PGT))
    after_PGT = np.asarray(score(new.params, tiny.NOTHING, batch.inputs, batch.response_PGT))
    mask = batch.mask_PGT
    assert (
        np.square(after_PGT - other_PGT)[mask].sum() < np.square(before_PGT - other_PGT)[mask].sum()
    )


@pytest.mark.parametrize("chunk", [1, 5, 24, 1000])
def test_log_probs_and_entropy_by_chunks_equal_a_float64_softmax(chunk):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(2, 4, 6, 16)), rng.normal(size=(40, 16))
    label = rng.integers(0, 40, (2, 4, 6))
    got = token_stats(np.float32(hidden), np.float32(table), label, temperature=0.8, chunk=chunk)
    logits = hidden @ table.T / 0.8
    logp = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    logp -= logits.max(-1, keepdims=True)
    want = np.take_along_axis(logp, label[..., None], -1)[..., 0]
    np.testing.assert_allclose(got.logp_PGT, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        got.entropy_PGT, -(np.exp(logp) * logp).sum(-1), rtol=1e-4, atol=1e-4
    )


def test_no_array_of_tokens_by_vocabulary_lives_at_once():
    """Peak temporary memory grows with the chunk, not with tokens x vocabulary."""
    hidden = jax.ShapeDtypeStruct((1, 1, 4096, 8), np.float32)
    table = jax.ShapeDtypeStruct((4096, 8), np.float32)
    label = jax.ShapeDtypeStruct((1, 1, 4096), np.int32)

    def loss(hidden, table, label):
        stats = token_stats(hidden, table, label, chunk=64)
        return (stats.logp_PGT + stats.entropy_PGT).sum()

    grad = jax.jit(jax.grad(loss, argnums=(0, 1)))
    memory = grad.lower(hidden, table, label).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 4096 * 4 / 8


@pytest.mark.parametrize("mesh, parts", [((1, 1, 1), 2), ((2, 2, 2), 1)])
def test_packed_responses_change_nothing(whole, mesh, parts):
    batch = tiny.batch()
    length_PG = batch.mask_PGT.sum(-1)
    assert {0, 1, 6} <= set(length_PG.flat)  # filler, one token, all there is room for
    shards = mesh[0] * mesh[1]
    packs_BR = packing.by_pack(len(length_PG), shards, parts)
    made = packing.layout(
        batch.response_PGT,
        length_PG,
        batch.inputs.next_position_P,
        shards=shards,
        parts=parts,
        places=packing.fed(length_PG).sum(1)[packs_BR].sum(1).max() + 1,  # one of padding
    )
    config = dataclasses.replace(CONFIG, microbatches=parts)
    tiny.close(step(config, mesh, dataclasses.replace(batch, packing=made)), whole)
