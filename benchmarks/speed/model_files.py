"""A workload's model and training rows on disk: every side reads the same directory."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from speed.workloads import END, IMAGE, MERGE, PATCH, START, VIDEO, Workload
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from g2rpo_jax.models.qwen3_vl import Qwen3VLConfig
from g2rpo_jax.models.qwen3_vl.weights import tensor_shapes

PAD = "<|endoftext|>"
SPECIAL = {
    PAD: 0,
    "<|image_pad|>": IMAGE,
    "<|video_pad|>": VIDEO,
    "<|vision_start|>": START,
    "<|vision_end|>": END,
}
NEVER = "<|never|>"  # the end of a response: an id beyond the vocabulary, never sampled
TEMPLATE = (
    "{%- for message in messages -%}{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for item in message.content -%}{%- if item.type == 'image' -%}"
    "<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ item.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": PATCH**2, "longest_edge": 1024**2},
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "rescale_factor": 1 / 255,
    "do_rescale": True,
    "do_normalize": True,
    "do_resize": True,
    "do_convert_rgb": True,
    "resample": 3,
}


def write(workload: Workload, folder: Path, seed: int = 0) -> None:
    """Writes config, random weights, a tokenizer of words and rows.json with its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    config = workload.config()
    _json(folder / "config.json", config)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(Qwen3VLConfig.from_dict(config)).items():
        noise = rng.standard_normal(shape).astype(np.float32)
        if name.endswith("weight") and ("norm" in name):
            tensors[name] = 1 + 0.1 * noise
        else:  # products keep the scale of what they are given
            tensors[name] = noise / np.sqrt(max(np.prod(shape[1:]), 16)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    _tokenizer(workload, folder)
    _rows(workload, folder, rng)


def _tokenizer(workload: Workload, folder: Path) -> None:
    words = {f"w{i}": i for i in range(END + 1, workload.vocabulary)}
    vocabulary = SPECIAL | words | {NEVER: workload.vocabulary}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in (*SPECIAL, NEVER)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    _json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": NEVER, "pad_token": PAD},
    )
    ends = {"eos_token_id": [workload.vocabulary], "pad_token_id": 0}
    _json(folder / "generation_config.json", ends)
    _json(folder / "preprocessor_config.json", PREPROCESSOR)


def _rows(workload: Workload, folder: Path, rng: np.random.Generator, count: int = 64) -> None:
    rows = []
    for i in range(count):
        words = rng.integers(END + 1, workload.vocabulary, workload.text)
        row = {"problem": " ".join(f"w{w}" for w in words), "answer": "w6", "problem_type": "OCR"}
        if workload.side:
            noise = rng.integers(0, 256, (workload.side, workload.side, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{i}.png")
            row |= {"problem": "<image>" + row["problem"], "images": [f"{i}.png"]}
        rows.append(row | {"task_type": "ocr"})
    _json(folder / "rows.json", rows)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
