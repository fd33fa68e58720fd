"""A row of a prompt and G responses is G separate sequences, and decoding is the row by tokens."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, RowInputs, pack
from tests.models.tiny_qwen3_vl import IMAGE, VOCABULARY, prompt, reference

P, G, T, S, N = 3, 2, 5, 40, 48
QUICK = {"xla_backend_optimization_level": 0}  # the compile is most of these tests' time
GRIDS = [((4, 4), (2, 6)), (), ((6, 8),)]


@pytest.fixture(scope="module")
def config():
    return Qwen3VLConfig.from_dict(reference().config.to_dict())


def random_model(config, dtype="float32"):
    """Random weights, the same numbers in any dtype, with logits of order one."""
    graphdef, params = nnx.split(Qwen3VL(config, nnx.Rngs(0), dtype, "float32"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(x + 0.15 * rng.normal(size=x.shape).astype(np.float32), dtype), params
    )
    return graphdef, params


def prompts_and_responses():
    rng = np.random.default_rng(1)
    prompts = [prompt(rng, grids) for grids in GRIDS]
    return prompts, rng.integers(0, 140, (P, G, T)).astype(np.int32)


def separate(prompts, response_PGT, config):
    """P * G prompts with a response behind each, every one with its own images."""
    whole = [
        SimpleNamespace(**vars(p) | {"input_ids": np.append(p.input_ids, response_T)})
        for p, response_GT in zip(prompts, response_PGT, strict=True)
        for response_T in response_GT
    ]
    return pack(whole, config, S, N)


def logp_of(logits, token):
    logp = jax.nn.log_softmax(logits)
    picked = jnp.arange(VOCABULARY)[None, None, None] == token[..., None]
    return jnp.where(picked, logp, 0).sum(-1)


def row_logps(graphdef, params, rows, response_PGT, remat="none"):
    model = nnx.merge(graphdef, params)
    return logp_of(model.unembed(model.row_hidden(rows, response_PGT, remat)), response_PGT)


def separate_logps(graphdef, params, rows, starts, response_PGT):
    """The same from plain sequences: the slice of each that predicts its response."""
    model = nnx.merge(graphdef, params)
    logits = model.unembed(model.prompt_hidden(rows))
    sliced = [logits[i, start - 1 : start - 1 + T] for i, start in enumerate(starts)]
    return logp_of(jnp.stack(sliced).reshape(P, G, T, VOCABULARY), response_PGT)


def with_gradient(params, logps):
    """Log-probs [P, G, T] and the gradient of a weighted sum of them."""
    weight_PGT = np.random.default_rng(2).normal(size=(P, G, T))

    def loss(params):
        logp_PGT = logps(params)
        return (logp_PGT * jnp.asarray(weight_PGT, logp_PGT.dtype)).sum(), logp_PGT

    gradient, logp_PGT = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICK)(params)
    return logp_PGT, gradient


def from_row(config, dtype, remat="none"):
    graphdef, params = random_model(config, dtype)
    prompts, response_PGT = prompts_and_responses()
    rows = pack(prompts, config, S, N)
    return with_gradient(params, lambda p: row_logps(graphdef, p, rows, response_PGT, remat))


def from_sequences(config, dtype):
    graphdef, params = random_model(config, dtype)
    prompts, response_PGT = prompts_and_responses()
    starts = [len(p.input_ids) for p in prompts for _ in range(G)]
    rows = separate(prompts, response_PGT, config)
    return with_gradient(params, lambda p: separate_logps(graphdef, p, rows, starts, response_PGT))


def assert_same(found, expected, relative):
    """Relative to the largest number of the array: a sum of many terms is as exact as its terms."""
    found, expected = (jax.tree_util.tree_leaves_with_path(x) for x in (found, expected))
    for (path, a), (_, b) in zip(found, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(b).max() > 0, path
        assert np.abs(a - b).max() <= relative * np.abs(b).max(), jax.tree_util.keystr(path)


def test_a_row_of_responses_is_separate_sequences(config):
    assert_same(from_row(config, "float32"), from_sequences(config, "float32"), 1e-5)


def test_a_row_of_responses_is_separate_sequences_in_float64(config):
    # Recomputed layers, so that both ways to the gradient are compared.
    with jax.enable_x64(True):
        found = from_row(config, "float64", remat="full")
        assert found[0].dtype == "float64"
        assert_same(found, from_sequences(config, "float64"), 1e-10)


@pytest.fixture(scope="module")
def case(config):
    """A random model split in two, its jitted row_hidden, and rows with responses to feed it."""
    graphdef, params = random_model(config)
    prompts, response_PGT = prompts_and_responses()
    hidden = jax.jit(lambda params, *args: nnx.merge(graphdef, params).row_hidden(*args))
    return SimpleNamespace(
        graphdef=graphdef,
        params=params,
        rows=jax.tree.map(jnp.asarray, pack(prompts, config, S, N)),
        response_PGT=response_PGT,
        hidden=hidden,
    )


def test_prefill_and_decode_give_the_hidden_states_of_the_row(case):
    expected = case.hidden(case.params, case.rows, case.response_PGT)
    model = nnx.merge(case.graphdef, case.params)
    hidden_PD, cache = nnx.jit(lambda m, rows: m.prefill(rows, G, T))(model, case.rows)
    step = jax.jit(lambda params, *args: nnx.merge(case.graphdef, params).decode(*args))
    found = [jnp.broadcast_to(hidden_PD[:, None], expected[:, :, 0].shape)]
    for t in range(T - 1):
        token_PG = case.response_PGT[:, :, t]
        hidden_PGD, cache = step(case.params, token_PG, jnp.int32(t), cache, case.rows)
        found.append(hidden_PGD)
    np.testing.assert_allclose(np.stack(found, 2), expected, rtol=0, atol=2e-5)
    assert step._cache_size() == 1  # every token is the same program


def test_what_stands_in_padding_changes_nothing(case):
    rows, rng = case.rows, np.random.default_rng(5)
    real_PN, real_PS = np.asarray(rows.segment_PN) >= 0, np.asarray(rows.mask_PS)
    noise = dict(
        tokens_PS=np.where(real_PS, rows.tokens_PS, rng.integers(0, 140, (P, S))),
        patches_PNC=np.where(real_PN[..., None], rows.patches_PNC, rng.normal(size=(P, N, 96))),
        pos_weight_PN4=np.where(real_PN[..., None], rows.pos_weight_PN4, 1.0),
    )
    noise = {name: jnp.asarray(x, getattr(rows, name).dtype) for name, x in noise.items()}
    changed_PGT = case.response_PGT.copy()
    changed_PGT[..., -1] = 0  # predicted, but never fed
    found = case.hidden(case.params, dataclasses.replace(rows, **noise), changed_PGT)
    np.testing.assert_array_equal(found, case.hidden(case.params, rows, case.response_PGT))


def test_responses_to_a_prompt_do_not_see_each_other(case):
    swapped = case.hidden(case.params, case.rows, case.response_PGT[:, ::-1])
    expected = case.hidden(case.params, case.rows, case.response_PGT)
    np.testing.assert_array_equal(swapped[:, ::-1], expected)


def test_other_images_compile_nothing(case, config):
    case.hidden(case.params, case.rows, case.response_PGT)
    before = case.hidden._cache_size()
    rng = np.random.default_rng(3)
    for grids in [(), ((2, 2),) * 5, ((8, 4), (2, 2))]:
        rows = pack([prompt(rng, grids, words=(1, 4)) for _ in range(P)], config, S, N)
        rows = jax.tree.map(jnp.asarray, rows)
        assert np.isfinite(case.hidden(case.params, rows, case.response_PGT)).all()
    assert case.hidden._cache_size() == before


def test_one_token_responses_come_from_the_prompt_alone(case):
    found = case.hidden(case.params, case.rows, case.response_PGT[:, :, :1])
    expected = case.hidden(case.params, case.rows, case.response_PGT)[:, :, :1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_batch_of_text_needs_no_vision_tower(config):
    graphdef, params = random_model(config)
    rng = np.random.default_rng(0)
    rows = pack([prompt(rng), prompt(rng)], config, 16, 0)
    assert rows.patches_PNC.shape == (2, 0, 96)
    program = jax.make_jaxpr(lambda p, r: nnx.merge(graphdef, p).prompt_hidden(r))(params, rows)
    assert str(program).count("scan[") == 1  # the language model's


FORBIDDEN = {"sort", "top_k", "argmax", "argmin", "cumsum", "cond", "while", "erf", "scatter-add"}


@pytest.mark.parametrize("what", ["gradient", "decode"])
def test_no_operation_that_trainium_refuses(config, what):
    # The compiler of Trainium has no sort, no two-operand reduction, no conditional and no
    # trustworthy scatter-add, and reads out of bounds where a gather is not clamped.
    model = Qwen3VL(config, nnx.Rngs(0), embedding_gradient="onehot")
    graphdef, params = nnx.split(model)
    prompts, response_PGT = prompts_and_responses()
    rows = pack(prompts, config, S, N)
    _, cache = jax.eval_shape(lambda m: m.prefill(rows, G, T), model)

    def loss(params):
        return nnx.merge(graphdef, params).row_hidden(rows, response_PGT, "full").sum()

    def decode(params, cache):
        return nnx.merge(graphdef, params).decode(response_PGT[:, :, 0], jnp.int32(1), cache, rows)

    programs = {
        "gradient": lambda: jax.make_jaxpr(jax.grad(loss))(params),
        "decode": lambda: jax.make_jaxpr(decode)(params, cache),
    }
    seen = equations(programs[what]().jaxpr)
    assert not FORBIDDEN & seen.keys()
    assert {"gather", "dot_general", "scan"} <= seen.keys()
    for equation in seen["gather"]:
        assert equation.params["mode"] == jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS


def equations(jaxpr):
    """(primitive name, its equations) over a program and all its inner programs."""
    found = {}
    todo = [jaxpr]
    while todo:
        for equation in todo.pop().eqns:
            found.setdefault(equation.primitive.name, []).append(equation)
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            ):
                value = getattr(value, "jaxpr", value)
                if hasattr(value, "eqns"):
                    todo.append(value)
    return found


def test_row_inputs_lead_with_the_prompts():
    rng = np.random.default_rng(0)
    rows = pack(
        [prompt(rng, grids) for grids in GRIDS],
        Qwen3VLConfig.from_dict(reference().config.to_dict()),
        S,
        N,
    )
    assert isinstance(rows, RowInputs)
    assert {x.shape[0] for x in jax.tree.leaves(rows)} == {P}
    assert (rows.tokens_PS == IMAGE).sum() == (rows.image_index_PS >= 0).sum() == (28 + 48) // 4
