"""A run's checkpoint as a model, and as a Hugging Face directory that transformers opens."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from g2rpo_jax import models
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.evaluate import policy
from g2rpo_jax.models import trained
from g2rpo_jax.settings import OptimConfig
from g2rpo_jax.train import state

TINY = "assets/tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with two checkpoints, and the parameters of each."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps({"model": {"directory": TINY}}))
    params = nnx.state(models.load(TINY))
    tx = state.optimizer(OptimConfig(), 10)
    checkpoints = Checkpoints(folder / "checkpoints", keep=2)
    saved = {}
    for step in (20, 40):
        saved[step] = jax.tree.map(lambda x, step=step: x + np.float32(step / 1000), params)
        checkpoints.save(step, state.create(saved[step], tx), {"at": step})
    checkpoints.close()
    return folder, saved


def assert_equal(model, params):
    for a, b in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("asked, given", [(0, 40), (40, 40), (20, 20)])
def test_a_checkpoint_is_loaded_as_a_model(run, asked, given):
    folder, saved = run
    model, origin = policy.load(folder, asked)
    assert origin == {"model": str(folder), "step": given, "weights": f"checkpoint {given}"}
    assert_equal(model, saved[given])


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": ["vision", "embedding"]},
        {"lora_rank": 2, "lora_alpha": 4.0, "lora_targets": ["q_proj", "down_proj"]},
    ],
    ids=["frozen", "adapted"],
)
def test_a_run_that_trained_some_parameters_is_loaded_whole(options, tmp_path):
    """The checkpoint holds these alone; the export is the base with them in it."""
    section = {"directory": TINY} | options
    (tmp_path / "config.json").write_text(json.dumps({"model": section}))
    base = models.load(TINY)
    graphdef, params, frozen = trained.split(models.load(TINY), **options)
    params = jax.tree.map(lambda x: x + np.float32(0.01), params)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(3, state.create(params, state.optimizer(OptimConfig(), 10)), {"at": 3})
    checkpoints.close()
    assert policy.export(tmp_path, tmp_path / "hf", dtype="float32") == 3
    exported = dict(nnx.to_flat_state(nnx.state(models.load(tmp_path / "hf"))))
    want = nnx.merge(graphdef, params, frozen)
    if "lora_rank" in options:
        a, b = want.layers.q_proj_lora_a[...], want.layers.q_proj_lora_b[...]
        q = base.layers.q_proj[...] + 2.0 * np.einsum("nir,nro->nio", a, b)
        np.testing.assert_allclose(exported["layers", "q_proj"][...], q, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(exported["layers", "k_proj"][...], base.layers.k_proj[...])
    else:
        for path, value in nnx.to_flat_state(nnx.state(want)):
            np.testing.assert_array_equal(exported[path][...], value[...])
        np.testing.assert_array_equal(exported["embedding",][...], base.embedding[...])


def test_a_directory_is_loaded_as_it_stands():
    model, origin = policy.load(TINY)
    assert origin["step"] is None and len(origin["weights"]) == 16
    assert_equal(model, nnx.state(models.load(TINY)))


def test_an_export_holds_the_checkpoints_parameters(run, tmp_path):
    folder, saved = run
    assert policy.export(folder, tmp_path / "hf", dtype="float32") == 40
    assert_equal(models.load(tmp_path / "hf"), saved[40])
    with pytest.raises(ValueError, match="holds a model already"):
        policy.export(folder, tmp_path / "hf")


@pytest.mark.slow
def test_transformers_opens_an_export(run, tmp_path):
    import transformers

    folder, _ = run
    policy.export(folder, tmp_path / "hf", step=20)
    theirs, info = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("7 + 5")["input_ids"]
    assert len(tokens) > 0
    ours = models.load(tmp_path / "hf")
    ids = np.array([tokens])
    mine = models.logits(ours, ids, np.ones_like(ids))
    import torch

    with torch.no_grad():
        other = theirs.float()(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(np.asarray(mine), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "step, said", [(30, "no checkpoint of step 30; it has 20, 40"), (-1, "no checkpoint")]
)
def test_a_step_that_is_not_there(run, step, said):
    with pytest.raises(ValueError, match=said):
        policy.load(run[0], step)


def test_what_is_neither_run_nor_model(tmp_path, run):
    with pytest.raises(ValueError, match="is no run folder"):
        policy.export(TINY, tmp_path / "out")
    with pytest.raises(ValueError, match="is for a run's checkpoints"):
        policy.load(TINY, 3)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not tell the run's model.directory"):
        policy.load(tmp_path)


def test_a_checkpoint_of_another_model_is_a_clear_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"directory": TINY}}))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, {"params": {"other": jnp.zeros(3)}}, {})
    checkpoints.close()
    with pytest.raises(ValueError, match="step 1 does not hold this model's params"):
        policy.load(tmp_path)
