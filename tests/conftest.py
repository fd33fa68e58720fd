"""Settings of every test: several virtual devices, strict shapes, no network."""

import os

from tests import QUICK_COMPILATION

# Before JAX starts: eight virtual CPU devices for the sharding tests.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        QUICK_COMPILATION,
    ]
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # launchers run by tests leave the user's alone
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import dataclasses

import jax
from hypothesis import settings

from g2rpo_jax import platform

jax.config.update("jax_numpy_rank_promotion", "raise")  # [P] with [P, G] is a slip, not a feature

# Layers are scanned, which compiles sooner; tests/models/test_layers.py holds both forms equal.
platform.BACKENDS["cpu"] = dataclasses.replace(platform.BACKENDS["cpu"], unroll_layers=0)

settings.register_profile("quick", deadline=None, max_examples=60)
settings.load_profile("quick")


def pytest_collection_modifyitems(items):
    """The folders with the longest tests come first: then several processes end together."""
    first = ("tests/train/", "tests/models/")
    items.sort(key=lambda item: not item.nodeid.startswith(first))
