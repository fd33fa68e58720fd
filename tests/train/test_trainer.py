"""The stages, with a stand-in for the device."""

import collections
import types

import jax
import numpy as np
import pytest

from g2rpo_jax.models.qwen3_vl import layout
from g2rpo_jax.objectives import ObjectiveConfig
from g2rpo_jax.parallel import mesh as meshes
from g2rpo_jax.parallel.processes import Group
from g2rpo_jax.settings import BatchConfig
from g2rpo_jax.train.clock import Clock
from g2rpo_jax.train.packs import Packs
from g2rpo_jax.train.trainer import Trainer
from tests import tiny

P, G, T, N = 8, 2, 3, 4  # N minibatches


def columns(bound, gaps, kl=0.0, keep_PG=None):
    """StepBatch's columns of 8 rows in 4 minibatches (rows 3 and 4 carried over), and how many
    minibatches were scored; the sampler said -1 everywhere, the trainer says -2."""
    calls = []

    def score(params, frozen, inputs, response_PGT, packing):
        calls.append(params)
        return response_PGT * 0.0 - 2.0

    example = types.SimpleNamespace(task="a")
    rows = [
        types.SimpleNamespace(
            drawn=types.SimpleNamespace(home=0, prompt="prompt"),
            example=example,
            born=5 if p in (3, 4) else 6,
            token_GT=np.ones((G, T), np.int32),
            mask_GT=np.ones((G, T), bool),
            length_G=np.full(G, T),
            logp_GT=np.full((G, T), -1, np.float32),
        )
        for p in range(P)
    ]
    trainer = Trainer.__new__(Trainer)
    trainer.config = types.SimpleNamespace(
        batch=BatchConfig(
            prompts=P, minibatches=N, microbatches=1, rollout_prompts=P, packed_shares=()
        ),
        responses=G,
        max_tokens=T,
        objective=ObjectiveConfig(sampler_gap=bound, kl_coefficient=kl),
    )
    trainer.group = types.SimpleNamespace(count=1, index=0)
    trainer.mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:2])
    inputs = layout.empty(tiny.CONFIG, P, 4, 0)
    trainer.encoder = types.SimpleNamespace(pack=lambda *_: inputs, packed=collections.Counter())
    trainer.bounds = types.SimpleNamespace(entropy_K2=np.zeros((1, 2), np.float32))
    trainer.packs = Packs(trainer.config, trainer.mesh, Group())
    trainer.model_config, trainer.tasks, trainer.frozen = None, ("a",), None
    trainer.state = types.SimpleNamespace(params="now")
    trainer.reference = "reference" if kl else None
    trainer.programs = types.SimpleNamespace(score=score)
    trainer.clock = Clock()
    trainer.gaps = collections.deque(gaps)
    adv_PG = np.arange(P * G, dtype=np.float32).reshape(P, G)
    keep_PG = np.ones((P, G), bool) if keep_PG is None else keep_PG
    return trainer._columns(rows, adv_PG, keep_PG, step=6)[0], calls


def test_old_log_probs_of_the_first_minibatch_are_never_read_and_not_computed():
    got, calls = columns(bound=0.0, gaps=[0.0])
    assert calls == ["now"] * (N - 1)
    expected_P = np.array([0, -2, -2, -1, -1, -2, -2, -2])  # rows 0 and 4 are the first minibatch
    np.testing.assert_array_equal(got["old_logp_PGT"][:, 0, 0], expected_P)
    assert got["on_policy_P"].tolist() == [True, True, True, False, False, True, True, True]
    assert columns(bound=0.0, gaps=[0.0], kl=0.1)[1] == ["now"] * (N - 1) + ["reference"] * N


def test_responses_that_are_not_kept_have_no_tokens_in_the_update():
    whole, _ = columns(bound=0.0, gaps=[0.0])
    assert whole["mask_PGT"].all()
    keep_PG = np.arange(P * G).reshape(P, G) % 3 > 0
    got, _ = columns(bound=0.0, gaps=[0.0], keep_PG=keep_PG)
    np.testing.assert_array_equal(got["mask_PGT"], np.repeat(keep_PG[..., None], T, axis=2))
    np.testing.assert_array_equal(got["adv_PG"], whole["adv_PG"])


@pytest.mark.parametrize(
    ("bound", "gaps", "trusted"),
    [
        (1e-3, [1e-4, 1e-3], True),
        (1e-3, [1e-4, 2e-3, 1e-4], False),
        (1e-3, [], False),  # nothing measured yet
        (1e-3, [float("nan")], False),
        (0.0, [0.0], False),
    ],
)
def test_the_samplers_log_probs_serve_where_the_measured_gap_allows_it(bound, gaps, trusted):
    got, calls = columns(bound, gaps)
    assert len(calls) == (0 if trusted else N - 1)
    if trusted:
        assert np.all(got["old_logp_PGT"] == -1)
