"""A very small random Qwen3-VL and rows for it, for tests of training and rollout."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from g2rpo_jax.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, TextConfig, VisionConfig, pack
from g2rpo_jax.train.policy_step import StepBatch

V, IMAGE = 64, 60

CONFIG = Qwen3VLConfig(
    text=TextConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        mrope_section=(2, 1, 1),
        initializer_range=0.3,
    ),
    vision=VisionConfig(
        depth=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=2,
        patch_size=4,
        out_hidden_size=32,
        num_position_embeddings=16,
        deepstack_visual_indexes=(0,),
        initializer_range=0.3,
    ),
    image_token_id=IMAGE,
    video_token_id=61,
    vision_start_token_id=62,
    vision_end_token_id=63,
    tie_word_embeddings=True,
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What `pack` takes."""

    input_ids: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None


NOTHING = nnx.State({})  # no parameter is frozen


def model(seed: int = 0):
    """(graphdef, params) of a random model whose logits are of order one."""
    return nnx.split(Qwen3VL(CONFIG, nnx.Rngs(seed)))


def prompts(count: int, seed: int = 0) -> list[Prompt]:
    """Prompts of different lengths; every third without an image."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        words = rng.integers(0, 59, rng.integers(3, 8))
        if i % 3 == 2:
            made.append(Prompt(words.astype(np.int32), None, None))
            continue
        grid = np.array([[1, 2, 2 + 2 * (i % 2)]])
        n = int(grid.prod())
        ids = np.concatenate([[62], np.full(n // 4, IMAGE), [63], words]).astype(np.int32)
        pixels = rng.normal(size=(n, CONFIG.vision.patch_features)).astype(np.float32)
        made.append(Prompt(ids, pixels, grid))
    return made


# Entropy bounds of the tasks of `batch`: a new model lies above, inside and below.
BOUNDS_K2 = np.array([(0.0, 0.1), (4.0, 9.0), (9.0, 10.0)], np.float32)


def batch(P: int = 8, G: int = 4, T: int = 6, tasks: int = 3, seed: int = 0) -> StepBatch:
    """Random rows with responses of different lengths; the last row is filler."""
    rng = np.random.default_rng(seed)
    length_PG1 = rng.integers(1, T + 1, (P, G, 1))
    mask_PGT = np.arange(T)[None, None] < length_PG1
    mask_PGT[-1] = False
    task_P = rng.integers(0, tasks, P).astype(np.int32)
    task_P[-1] = -1
    adv_PG = rng.normal(size=(P, G)).astype(np.float32)
    adv_PG[-1] = 0
    old_PGT = np.where(mask_PGT, rng.normal(size=(P, G, T)) - 4, 0).astype(np.float32)
    return StepBatch(
        inputs=pack(prompts(P, seed), CONFIG, 12, 8),
        response_PGT=rng.integers(0, 59, (P, G, T)).astype(np.int32),
        mask_PGT=mask_PGT,
        adv_PG=adv_PG,
        old_logp_PGT=old_PGT,
        on_policy_P=np.arange(P) % 2 == 0,
        sampler_logp_PGT=old_PGT,
        ref_logp_PGT=None,
        task_P=task_P,
        entropy_bounds_P2=BOUNDS_K2[task_P],
    )


def close(a, b, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Two trees of arrays agree leaf by leaf."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)
