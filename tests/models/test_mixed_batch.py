"""A batch of text, one picture, three pictures and a video: every row is as it is alone."""

import dataclasses

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from g2rpo_jax import models, rollout
from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.example import Example
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.models.qwen3_vl import Qwen3VL
from g2rpo_jax.rollout.encoder import Encoder
from tests import tiny

G, T = 2, 5
# Bounds on float32 sums in another order; what is seen is about 1e-6, a wrong row gives about 1.
LOGP, GRADIENT = 2e-5, 5e-5
# So small that three pictures and six frames stay small prompts.
MEDIA = dict(template="plain", max_pixels=32 * 48, video_frame_pixels=32 * 32, video_max_frames=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory: random weights for the tiny tokenizer and its patches of 8 pixels."""
    path = tmp_path_factory.mktemp("model")
    words = tokenizer.build(str(path))
    config = dataclasses.replace(
        tiny.CONFIG,
        text=dataclasses.replace(tiny.CONFIG.text, vocab_size=words.get_vocab_size()),
        vision=dataclasses.replace(tiny.CONFIG.vision, patch_size=8),
        image_token_id=words.token_to_id("<|image_pad|>"),
        video_token_id=words.token_to_id("<|video_pad|>"),
        vision_start_token_id=words.token_to_id("<|vision_start|>"),
        vision_end_token_id=words.token_to_id("<|vision_end|>"),
    )
    models.save(Qwen3VL(config, nnx.Rngs(0)), path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video file of three seconds."""
    path = str(tmp_path_factory.mktemp("media") / "clip.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(30):
            pixels = np.full((32, 48, 3), 8 * i, np.uint8)
            pixels[:, i : i + 10] = 255 - 8 * i
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def picture(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(problem, data_type, images=(), videos=()):
    return Example(
        id="1",
        problem=problem,
        options=(),
        answer="7",
        problem_type="numerical",
        task="ocr",
        data_type=data_type,
        images=images,
        videos=videos,
    )


@pytest.fixture(scope="module")
def examples(clip):
    three = tuple(picture(*size, seed=size[0]) for size in ((40, 30), (16, 90), (64, 64)))
    return [
        example("How much is 3 and 4?", "text"),
        example("<image> Read the number.", "image", (picture(70, 50, 1),)),
        example("<image> and <image> or <image>?", "image", three),
        example("In <video> how many?", "video", videos=(clip,)),
    ]


def encoder(folder, tokens, patches):
    config = DataConfig(prompt_tokens=tokens, patches=patches, **MEDIA)
    return Encoder(config, Processor(str(folder), **config.media_options))


def weighted(graphdef, params, rows, response_PGT, weight_PGT):
    """Weighted sum of the responses' log-probs, and these [P, G, T]."""
    model = nnx.merge(graphdef, params)
    logp = jax.nn.log_softmax(model.unembed(model.row_hidden(rows, response_PGT, "none")))
    logp_PGT = jnp.take_along_axis(logp, response_PGT[..., None], axis=-1)[..., 0]
    return (logp_PGT * weight_PGT).sum(), logp_PGT


value = jax.jit(weighted, static_argnums=0)
gradient = jax.jit(jax.grad(weighted, argnums=1, has_aux=True), static_argnums=0)


@pytest.mark.slow  # five programs to compile
def test_every_row_of_a_mixed_batch_is_as_it_is_alone(folder, examples):
    model = models.load(folder)
    graphdef, params = nnx.split(model)
    rng = np.random.default_rng(0)
    response_PGT = rng.integers(0, 250, (4, G, T)).astype(np.int32)
    weight_PGT = rng.normal(size=(4, G, T)).astype(np.float32)

    own = encoder(folder, (16, 32, 64, 128), (0, 16, 32, 64, 128))
    prompts = [own.encode(row) for row in examples]
    kinds = [[medium.kind for medium in prompt.media] for prompt in prompts]
    assert kinds == [[], ["image"], ["image"] * 3, ["video"]]
    assert prompts[3].image_grid_thw.tolist() == [[3, 2, 4]] and prompts[3].media[0].frames == 6
    alone = [own.pack([prompt], 1, model.config) for prompt in prompts]
    assert len({(rows.tokens_PS.shape, rows.segment_PN.shape) for rows in alone}) == 4
    mixed = encoder(folder, (128,), (128,)).pack(prompts, 4, model.config)

    for p, rows in enumerate(alone):
        given = rows, response_PGT[p : p + 1], weight_PGT[p : p + 1]
        only_PGT = np.zeros_like(weight_PGT)
        only_PGT[p] = weight_PGT[p]
        found, found_PGT = gradient(graphdef, params, mixed, response_PGT, only_PGT)
        if not kinds[p]:
            assert all((leaf == 0).all() for leaf in jax.tree.leaves(found["vision"]))
        if kinds[p] == ["video"]:  # each bucket's gradient takes seconds to compile
            expected, logp_PGT = gradient(graphdef, params, *given)
            assert_same(found, expected)
        else:
            logp_PGT = value(graphdef, params, *given)[1]
        np.testing.assert_allclose(found_PGT[p], logp_PGT[0], rtol=0, atol=LOGP)
    assert np.abs(np.diff(found_PGT, axis=0)).max() > 0.1  # or equal rows would say nothing


def assert_same(found, expected):
    """Relative to the largest number of each array."""
    found = jax.tree_util.tree_leaves_with_path(found)
    for (path, a), b in zip(found, jax.tree.leaves(expected), strict=True):
        size = max(np.abs(b).max(), 1e-3)
        assert np.abs(a - b).max() <= GRADIENT * size, jax.tree_util.keystr(path)


def test_generate_takes_a_video_as_a_path_as_frames_and_as_pictures(folder, clip):
    model = models.load(folder)

    def answer(source):
        parts = [{"type": "video", "video": source}, {"type": "text", "text": " What moves?"}]
        messages = [{"role": "user", "content": parts}]
        return rollout.generate(model, messages, responses=1, max_tokens=4, temperature=0.0)

    from_path = answer(clip)
    frames = Processor(str(folder)).encode(
        [{"role": "user", "content": [{"type": "video", "video": clip}]}]
    )
    assert frames.media[0].frames == 6
    stack = np.stack([np.asarray(picture(48, 32, seed)) for seed in range(4)])
    from_array, from_pictures = answer(stack), answer([Image.fromarray(x) for x in stack])
    np.testing.assert_array_equal(from_array.tokens[0], from_pictures.tokens[0])
    np.testing.assert_array_equal(from_array.logps[0], from_pictures.logps[0])
    assert np.isfinite(from_path.logps[0]).all()
    assert not np.array_equal(from_path.logps[0], from_array.logps[0])  # the video is seen
