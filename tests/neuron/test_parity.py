"""The start-up check: equal devices pass, a faulty one is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from g2rpo_jax import platform
from g2rpo_jax.neuron import parity
from g2rpo_jax.parallel.mesh import MeshConfig, make

NEURON = platform.BACKENDS["neuron"]


@pytest.fixture(scope="module")
def check():
    mesh = make(MeshConfig(1, 1, 1), jax.devices()[:1])  # one for both: compiled once
    return parity.Check(mesh, mesh, NEURON, "float32")


def off(check, wrap=lambda f: f):
    found = check.differences(wrap)
    return {d.what for d in found if not d.error <= parity.TOLERANCE["float32"]}


def spoilt(result, where):
    """A wrap that changes one result of every program whose output has it."""

    def wrap(program):
        def faulty(*args):
            out = program(*args)
            return where(out) if result is None or isinstance(out, result) else out

        return faulty

    return wrap


@pytest.mark.slow
def test_a_device_that_computes_as_the_cpu_passes(check):
    found = check.differences()
    assert off(check) == set()
    names = {d.what for d in found}
    assert {"forward", "prefill", "decode", "decoded tokens", "gradient of embedding"} <= names
    assert sum(name.startswith("gradient of vision") for name in names) > 20


@pytest.mark.slow
def test_a_fault_of_a_program_is_found_and_named(check):
    def halves_log_probs(out):
        return out * 0.5

    assert off(check, spoilt(jax.Array, halves_log_probs)) == {"forward"}

    def loses_a_gradient(out):
        new, sums = out
        params = jax.tree.map(lambda x: x, new.params)
        before = check.params["layers"]["o_proj"]
        params["layers"]["o_proj"] = jax.tree.map(jnp.asarray, before)
        return dataclasses.replace(new, params=params), sums

    def update_only(out):
        return loses_a_gradient(out) if len(out) == 2 else out

    assert off(check, spoilt(tuple, update_only)) == {"gradient of layers.o_proj"}

    def not_a_number(out):
        return out * jnp.nan

    assert off(check, spoilt(jax.Array, not_a_number)) == {"forward"}


@pytest.mark.slow
def test_a_run_on_such_a_device_is_refused(check, monkeypatch):
    said = []
    monkeypatch.setattr(parity, "Check", lambda *_: check)
    parity.require(check.mesh, NEURON, "float32", say=said.append)
    assert "start-up check: cpu and CPU differ by" in said[0]
    differences = check.differences
    halved = spoilt(jax.Array, lambda out: out * 0.5)
    monkeypatch.setattr(check, "differences", lambda: differences(halved))
    with pytest.raises(
        ValueError, match="computes something else than the CPU: forward by 5.0e-01"
    ):
        parity.require(check.mesh, NEURON, "float32", say=said.append)
