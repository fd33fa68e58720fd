"""The programs of a run are clean: the tiny model's, 2B's, 8B's; and every entry of the tables."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from g2rpo_jax import advantages, objectives, platform, ranks, shaping
from g2rpo_jax.config import resolve
from g2rpo_jax.models.qwen3_vl.sizes import config_of
from g2rpo_jax.neuron import lint, programs, run
from g2rpo_jax.neuron.allowed import ALLOWED
from g2rpo_jax.neuron.checks import Limits
from g2rpo_jax.parallel.mesh import MeshConfig, make
from g2rpo_jax.train import narrow, state
from g2rpo_jax.train.programs import ROWS, abstract
from tests.test_config import variant

P, G, T, K = 8, 4, 6, 3


def f32(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def reports(directory, calls, **changes):
    """Lints of the named programs of a size, divided over 8 devices."""
    config = variant("tiny" if "tiny" in directory else "paper")
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        setattr(config[section] if section else config, field, value)
    config = resolve(config)
    mesh = make(MeshConfig(1, 2, 4))
    tokens, patches = programs.buckets(config)[0]
    if calls is None:
        found = programs.calls(config, config_of(directory), mesh, tokens, patches)
    else:
        made = abstract(config, config_of(directory), mesh, platform.BACKENDS["neuron"])
        found = [c for c in made.calls(tokens, patches) if c.name in calls]
        assert {c.name for c in found} == calls
    limits = Limits(devices=mesh.size)
    return [lint.check(c.function, *c.args, program=c.name, limits=limits) for c in found]


def clean(found):
    errors = [str(error) for report in found for error in report.errors]
    assert not errors, "\n".join(errors)


@pytest.fixture(scope="module")
def tiny():
    return reports("assets/tiny", None)


@pytest.fixture(scope="module")
def kept():
    """2B, whose backward pass keeps the products with weights."""
    few = {"batch__generate_prompts": 8, "batch__microbatches": 64}  # these are only 8 devices
    names = {"prefill", "decode", "update"}
    return reports("Qwen3-VL-2B-Instruct", names, model__remat="products", **few)


@pytest.mark.slow
def test_every_program_of_the_tiny_run_is_clean(tiny):
    clean(tiny)
    names = {report.program for report in tiny}
    assert names == {
        *("prefill", "decode", "score", "update", "advantage", "length_reward", "sft_update"),
        *("score_packed", "update_packed"),
        *("look", "compact", "greedy_prefill", "greedy_decode", "greedy_look", "greedy_compact"),
    }
    update = next(report for report in tiny if report.program == "update")
    assert update.operations["stablehlo.while"] > 5 and update.operations["stablehlo.gather"]


@pytest.mark.slow
def test_a_step_of_8b_is_clean():
    names = {"prefill", "decode", "score", "update"}
    few = {"batch__generate_prompts": 8, "batch__microbatches": 64}  # these are only 8 devices
    clean(reports("Qwen3-VL-8B-Instruct", names, **few))


@pytest.mark.slow
def test_the_programs_of_2b_are_clean(kept):
    clean(kept)


@pytest.mark.slow
def test_every_exception_is_still_needed(tiny, kept):
    assert not lint.unused([*tiny, *kept]), "remove them from neuron/allowed.py"
    assert all(entry.reason for entry in ALLOWED)


@pytest.mark.parametrize("name", advantages.ESTIMATORS)
def test_every_estimator_is_clean(name):
    group = advantages.Group(
        reward_PG=f32(P, G),
        valid_PG=jax.ShapeDtypeStruct((P, G), bool),
        task_P=jax.ShapeDtypeStruct((P,), jnp.int32),
        components={"accuracy": f32(P, G), "format": f32(P, G)},
        length_PG=f32(P, G),
        surprise_PG=f32(P, G),
        logp_PG=f32(P, G),
        row_P=jax.ShapeDtypeStruct((P,), jnp.int32),
        num_tasks=K,
        num_rows=ROWS,
    )
    options = advantages.AdvantageConfig(name=name)
    state = jax.eval_shape(lambda: advantages.init_state(options, K, ROWS))
    estimator = functools.partial(advantages.ESTIMATORS[name], options=options)
    clean([lint.check(estimator, group, state, program="advantage")])


def test_the_reference_form_of_ranks_is_refused_as_documented():
    group, valid = f32(P, G), jax.ShapeDtypeStruct((P, G), bool)
    report = lint.check(ranks.RANKS["erfinv"].within_group, group, valid)
    assert {"sort", "scatter"} <= {error.rule for error in report.errors}
    assert "g2rpo_jax/ranks.py" in str(report.errors[0])


def test_moments_and_parameters_rounded_by_chance_are_clean():
    config = resolve(variant("tiny"))
    tx = state.optimizer(dataclasses.replace(config.optim, state_dtype="bfloat16"), 10)
    params = {f"{i}_proj": jax.ShapeDtypeStruct((4, 8), jnp.bfloat16) for i in range(30)}

    def update(params, moments, count):
        grads = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        updates, moments = tx.update(grads, moments, params)
        return narrow.apply(params, updates, count), moments

    count = jax.ShapeDtypeStruct((), jnp.int32)
    clean([lint.check(update, params, jax.eval_shape(tx.init, params), count)])


@pytest.mark.parametrize(
    "fields",
    [
        *({"name": name} for name in objectives.OBJECTIVES),
        *({"name": "rec", "rec_mask": name} for name in ("all", "ring")),
        *({"name": "rec", "rec_weight": name} for name in ("clipped_ratio", "advantage")),
        *({"aggregation": name} for name in objectives.AGGREGATIONS),
        *({"kl_estimator": name} for name in objectives.KL_ESTIMATORS),
        *({"importance": name} for name in objectives.IMPORTANCE),
        *(
            {"importance": "masked", "importance_level": name}
            for name in objectives.IMPORTANCE_LEVELS
        ),
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_every_loss_is_clean(fields):
    config = objectives.ObjectiveConfig(**fields)

    def loss(logp, old, adv, mask, token, entropy):
        tokens = objectives.Tokens(logp, old, mask, adv, token, entropy, old)
        tokens = dataclasses.replace(tokens, seen=objectives.look(config, tokens))
        loss, _ = objectives.token_losses(config, tokens)
        trust, _ = objectives.importance_weights(config, old, entropy, mask)
        loss = loss * trust + objectives.kl(config.kl_estimator, logp, old)
        return jnp.sum(objectives.aggregation_weights(config.aggregation, mask) * loss)

    each = f32(P, G, T)
    mask, token = (jax.ShapeDtypeStruct(each.shape, kind) for kind in (bool, jnp.int32))
    clean([lint.check(jax.grad(loss), each, each, f32(P, G), mask, token, each)])


@pytest.mark.parametrize("form", shaping.ENTROPY_FORMS)
@pytest.mark.parametrize("name", shaping.ENTROPY_ESTIMATORS)
def test_every_entropy_term_is_clean(name, form):
    def penalty(logp, entropy, mask, task_P, bounds_P2):
        sums = shaping.entropy_sums(entropy, mask, task_P, K)
        weight_P = shaping.entropy_coefficient(form, sums, task_P, bounds_P2)
        return jnp.sum(weight_P[:, None, None] * shaping.entropy_term(name, logp, entropy))

    args = (f32(P, G, T), f32(P, G, T), jax.ShapeDtypeStruct((P, G, T), bool))
    task_P = jax.ShapeDtypeStruct((P,), jnp.int32)
    clean([lint.check(jax.grad(penalty, (0, 1)), *args, task_P, f32(P, 2))])


@pytest.mark.parametrize("form", shaping.LENGTH_FORMS)
def test_every_length_reward_is_clean(form):
    reward = functools.partial(
        shaping.length_reward, options=shaping.ShapingConfig(length_form=form)
    )
    lengths = shaping.Lengths(f32(P, G), f32(P, G), f32(P, 4), f32(P), f32())
    clean([lint.check(reward, lengths)])


def test_the_exact_gelu_has_no_erf_left_when_a_compiler_sees_it():
    gelu = jax.jit(jax.value_and_grad(lambda x: jax.nn.gelu(x, approximate=False)))
    lowered = gelu.trace(f32()).lower(lowering_platforms=("neuron",))
    text = lowered.compiler_ir("hlo").as_hlo_text()
    assert " erf(" not in text and "exponential" in text
    erf = jax.jit(jax.lax.erf).trace(f32()).lower(lowering_platforms=("neuron",))
    assert " erf(" in erf.compiler_ir("hlo").as_hlo_text()


def test_buckets_start_with_the_smallest_that_has_images():
    config = resolve(variant("paper"))
    found = programs.buckets(config)
    assert found[0] == (1024, 1024) and len(found) == 20
    assert run.chosen(config, None, None, every=False) == [(1024, 1024)]
    assert run.chosen(config, 77, None, every=True) == [(77, 1024)]
    assert run.chosen(config, None, None, every=True) == found
    text_only = dataclasses.replace(config, data=dataclasses.replace(config.data, patches=(0,)))
    assert programs.buckets(text_only)[0] == (1024, 0)


def test_the_shown_table_names_what_is_wrong_and_how_to_write_it(monkeypatch):
    config = variant("tiny")
    config.advantage.ranks = "erfinv"
    config = resolve(config)
    calls = programs.calls
    wanted = ("advantage", "length_reward")
    monkeypatch.setattr(programs, "calls", lambda *a: [c for c in calls(*a) if c.name in wanted])
    lines = []
    mesh = make(MeshConfig(1, 1, 1), jax.devices()[:1])
    assert not run.run(config, mesh, [(48, 64)], compiled=False, say=lines.append)
    text = "\n".join(lines)
    assert "advantage: sort at g2rpo_jax/ranks.py:" in text and "instead: count comparisons" in text
    assert "allowed (g2rpo_jax/neuron/allowed.py)" in text and ALLOWED[0].reason[:40] in text
    lines.clear()
    only = ["length_reward"]
    assert run.run(config, mesh, [(48, 64)], compiled=True, names=only, say=lines.append)
    assert "nothing that Neuron is known to refuse" in lines[-1]
    assert any("no collectives" in line for line in lines)
    assert not any(line.startswith("  advantage ") for line in lines)
    with pytest.raises(ValueError, match="--programs=updat: the run has advantage, length_reward"):
        run.run(config, mesh, [(48, 64)], compiled=False, names=["updat"], say=lines.append)


def test_the_documentation_lists_every_exception():
    text = (Path(__file__).parents[2] / "docs/neuron.md").read_text()
    for entry in ALLOWED:
        where = "anywhere" if entry.site == "*" else f"`{entry.site}`"
        assert f"| {entry.rule} | {where} |" in text
    for key, value in platform.BACKENDS["neuron"].environment:
        assert f"| `{key}` | `{value}` |" in text
