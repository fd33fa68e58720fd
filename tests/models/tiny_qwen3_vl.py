"""Small random Qwen3-VL models in transformers, and prompts for them; shared by the tests here."""

from types import SimpleNamespace

import numpy as np
import torch
import transformers
from flax import nnx
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # these models are too small to share out

IMAGE, VIDEO, START, END, VOCABULARY = 150, 151, 152, 153, 160
MERGE, PATCH_FEATURES = 2, 3 * 2 * 4 * 4


def reference(tied: bool = False, seed: int = 0, **text):
    """A transformers model with random weights large enough for logits of order one.

    With `num_experts` among the changes of the text config, a mixture of experts.
    """
    Config, Model = transformers.Qwen3VLConfig, Qwen3VLForConditionalGeneration
    if "num_experts" in text:
        Config, Model = transformers.Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
    config = Config(
        text_config=dict(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            tie_word_embeddings=tied,
            rope_parameters=dict(
                rope_type="default",
                rope_theta=5000.0,
                mrope_section=[4, 2, 2],
                mrope_interleaved=True,
            ),
        )
        | text,
        vision_config=dict(
            depth=4,
            hidden_size=24,
            intermediate_size=40,
            num_heads=2,
            patch_size=4,
            out_hidden_size=32,
            num_position_embeddings=49,
            deepstack_visual_indexes=[2, 0],  # not in order: the order of the mergers counts
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    model = Model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if norm else 0.15 * noise)
    return model


def prompt(rng, grids=(), words=(3, 9), token=IMAGE):
    """Words, and between them one run of image tokens for each (rows, columns) of patches."""
    runs = []
    for h, w in grids:
        text = rng.integers(0, 140, rng.integers(*words))
        runs += [text, [START], [token] * (h * w // MERGE**2), [END]]
    runs.append(rng.integers(0, 140, rng.integers(*words)))
    count = sum(h * w for h, w in grids)
    return SimpleNamespace(
        input_ids=np.concatenate(runs).astype(np.int64),
        pixel_values=rng.normal(size=(count, PATCH_FEATURES)).astype(np.float32) if count else None,
        image_grid_thw=np.array([[1, h, w] for h, w in grids]) if count else None,
    )


def padded(prompts, side):
    """input_ids and attention_mask of prompts padded on one side."""
    length = max(len(p.input_ids) for p in prompts)
    ids = np.full((len(prompts), length), 7, np.int64)
    mask = np.zeros((len(prompts), length), np.int64)
    for row, p in enumerate(prompts):
        n = len(p.input_ids)
        here = slice(0, n) if side == "right" else slice(length - n, length)
        ids[row, here], mask[row, here] = p.input_ids, 1
    return dict(input_ids=ids, attention_mask=mask)


def batch(prompts, side="right"):
    """The arrays that Hugging Face's processor returns for prompts padded on one side."""
    arrays = padded(prompts, side)
    seen = [p for p in prompts if p.pixel_values is not None]
    if seen:
        arrays["pixel_values"] = np.concatenate([p.pixel_values for p in seen])
        arrays["image_grid_thw"] = np.concatenate([p.image_grid_thw for p in seen])
    return arrays


def torch_inputs(arrays):
    """The same for a transformers model."""
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return inputs | {"mm_token_type_ids": (inputs["input_ids"] == IMAGE).int()}


def torch_logits(model, arrays):
    """Logits [B, L, V] of the transformers model."""
    with torch.no_grad():
        return model(**torch_inputs(arrays)).logits.numpy()


def greedy_tokens(model, rows, T: int):
    """T tokens after every prompt, [P, T], by the model's own prefill and decoding."""
    hidden_PD, cache = nnx.jit(lambda model, rows: model.prefill(rows, 1, T))(model, rows)
    found, step = [], nnx.jit(lambda model, *args: model.decode(*args))
    for t in range(T):
        found.append(np.asarray(model.unembed(hidden_PD)).argmax(-1))
        hidden_PGD, cache = step(model, found[-1][:, None], t, cache, rows)
        hidden_PD = hidden_PGD[:, 0]
    return np.stack(found, 1)


def torch_greedy_tokens(model, prompts, T: int):
    """The same by transformers' `generate`."""
    settings = dict(max_new_tokens=T, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        out = model.generate(**torch_inputs(batch(prompts, "left")), **settings)
    return out[:, -T:].numpy()
