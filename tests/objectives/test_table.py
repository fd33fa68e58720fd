"""What every loss of the table keeps to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from g2rpo_jax import objectives
from g2rpo_jax.objectives import AGGREGATIONS, OBJECTIVES, ObjectiveConfig
from tests.objectives.batches import G, P, T, batch, scalar, seeing, value_and_gradient

NAMES = sorted(OBJECTIVES)
# Not the plain policy gradient on the first update, by design: their own tests say what they are.
OTHERS = {"gvpo", "reg_grpo", "disco_logp", "disco_ratio", "drpo", "trpa", "gtpo", "opmd_squared"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - OTHERS))
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
def test_first_update_is_the_plain_policy_gradient(name, aggregation):
    tokens = batch(1)
    distinct = np.arange(G)[:, None] + np.zeros((P, G, T), np.int32)  # no prefix is shared
    tokens = dataclasses.replace(tokens, logp_PGT=tokens.old_logp_PGT, token_PGT=distinct)
    config = ObjectiveConfig(name=name, aggregation=aggregation, opmd_tau=0.0)
    _, grad = value_and_gradient(config, tokens)
    weight = objectives.aggregation_weights(aggregation, tokens.mask_PGT, config.fixed_length)
    # Not half of it at the tie of the clip.
    assert_allclose(grad, -weight * tokens.adv_PG[..., None], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_log_probs_alone(name):
    tokens = batch(2)
    config = ObjectiveConfig(name=name)
    fields = ("old_logp_PGT", "adv_PG", "entropy_PGT", "ref_logp_PGT")

    def loss(values):
        changed = dataclasses.replace(tokens, **dict(zip(fields, values, strict=True)))
        return scalar(config, jnp.asarray(tokens.logp_PGT), changed)

    for grad in jax.grad(loss)([jnp.asarray(getattr(tokens, field)) for field in fields]):
        assert_array_equal(grad, 0.0)
    sums = jax.grad(
        lambda logp_PGT: sum(
            jax.tree.leaves(
                objectives.look(config, dataclasses.replace(tokens, logp_PGT=logp_PGT))
            ),
            0.0 * jnp.sum(logp_PGT),
        )
    )
    assert_array_equal(sums(jnp.asarray(tokens.logp_PGT)), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_outside_the_mask_changes_nothing(name):
    tokens, config = batch(3), ObjectiveConfig(name=name)
    rng = np.random.default_rng(0)
    junk = {
        field: np.where(tokens.mask_PGT, x, rng.normal(-3, 2, x.shape)).astype(x.dtype)
        for field in ("logp_PGT", "old_logp_PGT", "token_PGT", "entropy_PGT", "ref_logp_PGT")
        if (x := getattr(tokens, field)) is not None
    }
    empty_PG = ~tokens.mask_PGT.any(-1)
    assert empty_PG.any()
    junk["adv_PG"] = np.where(empty_PG, 7.0, tokens.adv_PG).astype(np.float32)
    want = value_and_gradient(config, tokens)
    got = value_and_gradient(config, dataclasses.replace(tokens, **junk))
    assert_allclose(got[0], want[0], rtol=1e-6)
    assert_allclose(got[1], want[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"drpo"}))  # it measures lengths by T
def test_more_room_changes_nothing(name):
    tokens, config = batch(4), ObjectiveConfig(name=name)
    wider = jax.tree.map(
        lambda x: np.pad(x, ((0, 0), (0, 0), (0, 5))) if x.ndim == 3 else x, tokens
    )
    want = value_and_gradient(config, tokens)
    got = value_and_gradient(config, wider)
    assert_allclose(got[0], want[0], rtol=1e-5)
    assert_allclose(got[1][..., :T], want[1], rtol=1e-5, atol=1e-8)
    assert_array_equal(got[1][..., T:], 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_responses_may_stand_in_any_order(name):
    tokens, config = batch(5), ObjectiveConfig(name=name)
    rng = np.random.default_rng(1)
    rows, places = rng.permutation(P), rng.permutation(G)
    moved = jax.tree.map(lambda x: x[rows][:, places], tokens)
    _, grad = value_and_gradient(config, tokens)
    assert_allclose(
        value_and_gradient(config, moved)[1], grad[rows][:, places], rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(
    "name, aggregation",
    [
        *((name, "sequence_mean") for name in NAMES),
        ("clip", "token_mean"),
        ("gspo", "fixed_length"),
    ],
)
def test_micro_batches_add_up_to_the_whole_batch(name, aggregation):
    tokens = batch(6)
    config = ObjectiveConfig(name=name, aggregation=aggregation)
    weight_PGT = objectives.aggregation_weights(aggregation, tokens.mask_PGT, config.fixed_length)
    looks = [
        objectives.look(config, jax.tree.map(lambda x, p=p: x[p : p + 1], tokens)) for p in range(P)
    ]
    seen = jax.tree.map(lambda *sums: sum(sums), *looks)

    def part(logp_PGT, p):
        own = jax.tree.map(lambda x: x[p], dataclasses.replace(tokens, logp_PGT=logp_PGT))
        loss, _ = objectives.token_losses(config, dataclasses.replace(own, seen=seen))
        return jnp.sum(weight_PGT[p] * loss)

    _, whole = value_and_gradient(config, tokens)
    logp_PGT = jnp.asarray(tokens.logp_PGT)
    grads = [jax.grad(part)(logp_PGT, slice(p, p + 1)) for p in range(P)]
    assert_allclose(sum(grads), whole, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_objective_contract(name):
    config = ObjectiveConfig(name=name)
    tokens = seeing(config, jax.tree.map(jnp.asarray, batch(7)))
    jitted = jax.jit(objectives.token_losses, static_argnums=0)
    for eager, compiled in zip(
        objectives.token_losses(config, tokens), jitted(config, tokens), strict=True
    ):
        assert eager.shape == (P, G, T) and eager.dtype == jnp.float32
        assert np.all(np.isfinite(eager))
        assert_allclose(eager, compiled, rtol=1e-4, atol=1e-5)
    compiled_before = jitted._cache_size()
    jitted(ObjectiveConfig(name=name), jax.tree.map(lambda x: x.copy(), tokens))
    assert jitted._cache_size() == compiled_before


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("name", "clipp", "unknown objective 'clipp'; did you mean 'clip'?"),
        ("aggregation", "token", "unknown aggregation 'token'; did you mean 'token_mean'?"),
        ("kl_estimator", "k4", "unknown KL estimator"),
        ("importance", "mask", "unknown objective.importance 'mask'; did you mean 'masked'?"),
        ("importance_level", "sequenc", "did you mean 'sequence'?"),
        ("rec_mask", "rings", "did you mean 'ring'?"),
        ("rec_weight", "ratios", "did you mean 'ratio'?"),
        ("clip_low", 1.5, "clip_low=1.5"),
        ("clip_high", -0.1, "clip_high=-0.1"),
        ("dual_clip", 0.5, "dual_clip=0.5"),
        ("fixed_length", 0, "fixed_length=0"),
        ("kl_coefficient", -1.0, "kl_coefficient=-1.0"),
        ("clip_high", float("nan"), "clip_high=nan"),
        ("gspo_low", 2.0, "gspo_low=2.0"),
        ("gvpo_beta", 0.0, "gvpo_beta=0.0"),
        ("gtpo_boost", -1.0, "gtpo_boost=-1.0"),
        ("rec_far_high", 0.1, "must not lie inside"),
        ("importance_low", 1.5, "importance_low=1.5"),
        ("importance_cap", 0.5, "importance_cap=0.5"),
    ],
)
def test_a_bad_setting_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        ObjectiveConfig(**{field: value})


def test_losses_of_groups_take_no_weights_of_single_responses():
    for name, objective in OBJECTIVES.items():
        if objective.groupwise:
            with pytest.raises(ValueError, match=f"objective.name={name} compares"):
                ObjectiveConfig(name=name, importance="truncated")


def test_a_reference_is_kept_only_where_it_is_read():
    assert not ObjectiveConfig().needs_reference
    assert ObjectiveConfig(kl_coefficient=0.1).needs_reference
    assert ObjectiveConfig(name="trpa").needs_reference
