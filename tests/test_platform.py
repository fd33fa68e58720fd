"""Back ends: found without starting them, and never against the user's own settings."""

import os

import pytest

from g2rpo_jax import platform


@pytest.fixture
def bare(monkeypatch):
    """No setting of the user's, and none left behind."""
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "NEURON_CC_FLAGS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform.glob, "glob", lambda pattern: [])
    return monkeypatch


def test_device_files_decide(bare):
    assert platform.detect() == "cpu"
    bare.setattr(platform.glob, "glob", lambda p: ["x"] if "nvidia" in p else [])
    assert platform.detect() == "gpu"
    bare.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert platform.detect() == "gpu"


def test_a_cpu_run_divides_the_host_and_compiles_quickly(bare):
    platform.prepare(host_devices=2)
    assert "device_count=2" in os.environ["XLA_FLAGS"]
    assert "optimization_level=1" in os.environ["XLA_FLAGS"]


def test_the_users_settings_stay(bare):
    bare.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=5")
    bare.setenv("JAX_PLATFORMS", "neuron")
    bare.setenv("NEURON_CC_FLAGS", "-O2")
    platform.prepare(host_devices=2)
    assert "device_count=5" in os.environ["XLA_FLAGS"] and "=2" not in os.environ["XLA_FLAGS"]
    assert os.environ["NEURON_CC_FLAGS"] == "-O2"
    assert os.environ["JAX_PLATFORMS"] == "neuron"


def test_every_back_end_knows_its_embedding_gradient():
    assert {b.embedding_gradient for b in platform.BACKENDS.values()} == {"scatter", "onehot"}
    assert not platform.BACKENDS["neuron"].donate
