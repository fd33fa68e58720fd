"""Prompts and patches: equal to transformers' processor; needs no torch."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from g2rpo_jax.data import images, tokenizer
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.processor import Processor

RNG = np.random.default_rng(0)


def picture(width, height, mode="RGB"):
    """Noise over a slope, so that resampling shows."""
    slope = np.linspace(0, 128, width)[None, :, None]
    noise = RNG.integers(0, 128, (height, width, 3))
    return Image.fromarray((slope + noise).astype(np.uint8)).convert(mode)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    tokenizer.build(str(path))
    return str(path)


def library_processor(fields):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    names = ("image_processor_type", "processor_class")
    return Qwen2VLImageProcessorPil(**{k: v for k, v in fields.items() if k not in names})


CLIP = {
    "size": {"shortest_edge": 64 * 64, "longest_edge": 200 * 200},
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


@pytest.mark.parametrize("fields", [tokenizer.PREPROCESSOR, CLIP], ids=["tiny", "clip"])
@pytest.mark.parametrize(
    ("width", "height", "mode"),
    [
        (64, 64, "RGB"),
        (17, 40, "RGB"),  # grows
        (301, 77, "RGB"),  # shrinks
        (250, 250, "RGBA"),
        (90, 61, "L"),
        (33, 33, "P"),
    ],
)
def test_patches_equal_the_librarys_bit_for_bit(tmp_path, fields, width, height, mode):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    image = picture(width, height, mode)
    patches, grid = images.to_patches(image, images.load_settings(str(tmp_path)))
    wanted = library_processor(fields)([image], return_tensors="np")
    np.testing.assert_array_equal(patches, wanted["pixel_values"])
    assert patches.dtype == np.float32
    assert [list(grid)] == wanted["image_grid_thw"].tolist()


def test_settings_are_read_in_the_old_and_the_new_form(tmp_path):
    nested = {
        "image_processor": {"patch_size": 16, "size": {"shortest_edge": 9, "longest_edge": 99}}
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert images.load_settings(str(tmp_path)) == images.ImageSettings(9, 99, patch_size=16)
    old = {"min_pixels": 7, "max_pixels": 77, "patch_size": 8}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert images.load_settings(str(tmp_path)) == images.ImageSettings(7, 77, patch_size=8)


def test_a_sliver_of_an_image_is_refused():
    with pytest.raises(ValueError, match="aspect ratio above 200"):
        images.to_patches(picture(2, 500), images.ImageSettings())


def conversation(*pictures):
    content = [{"type": "text", "text": "Look:"}]
    for i, image in enumerate(pictures):
        content += [{"type": "image", "image": image}, {"type": "text", "text": f" number {i}?"}]
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "<thinking></thinking><answer>7</answer>"},
        {"role": "user", "content": "And now?"},
    ]


@pytest.mark.parametrize("sizes", [(), ((64, 64),), ((48, 80), (100, 30), (64, 64))])
def test_prompts_equal_those_of_the_qwen3_vl_processor(directory, monkeypatch, sizes):
    from transformers import AutoTokenizer, Qwen3VLProcessor

    # Its video half needs torchvision; the image half does not.
    monkeypatch.setattr(
        Qwen3VLProcessor, "check_argument_for_proper_class", lambda *arguments: None
    )
    reference = Qwen3VLProcessor(
        image_processor=library_processor(tokenizer.PREPROCESSOR),
        tokenizer=AutoTokenizer.from_pretrained(directory),
        video_processor=None,
        chat_template=tokenizer.CHAT_TEMPLATE,
    )
    messages = conversation(*(picture(*size) for size in sizes))
    wanted = reference.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="np"
    )
    prompt = Processor(directory).encode(messages)
    np.testing.assert_array_equal(prompt.input_ids, wanted["input_ids"][0])
    assert prompt.input_ids.dtype == np.int32
    if sizes:
        np.testing.assert_array_equal(prompt.pixel_values, wanted["pixel_values"])
        np.testing.assert_array_equal(prompt.image_grid_thw, wanted["image_grid_thw"])
    else:
        assert prompt.pixel_values is None and prompt.image_grid_thw is None


def test_the_chat_template_writes_qwens_turns(directory):
    processor = Processor(directory)
    content = [{"type": "image", "image": None}, {"type": "text", "text": "Describe this image."}]
    messages = [{"role": "user", "content": content}]
    # As Qwen's model cards print it.
    wanted = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Describe this image."
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert processor.render(messages) == wanted
    without = wanted.removesuffix("<|im_start|>assistant\n")
    assert processor.render(messages, add_generation_prompt=False) == without


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>"])
def test_control_tokens_in_a_text_are_refused(directory, token):
    processor = Processor(directory)
    for content in (f"What is {token}?", [{"type": "text", "text": f"a{token}b"}]):
        with pytest.raises(BadRow, match="holds the control token") as caught:
            processor.encode([{"role": "user", "content": content}])
        assert caught.value.reason == "special_token" and token in str(caught.value)
    # Tags are text like any other, and so is what only resembles a token.
    processor.encode(
        [{"role": "user", "content": "<think> <answer> <image> <|im_ended|> <|im_end>"}]
    )


def test_a_chat_template_that_drops_media_is_named(directory, tmp_path):
    tokenizer.build(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("no media at all")
    with pytest.raises(BadRow, match="shows 0 pictures and clips .none. where .* have 1 .image."):
        Processor(str(tmp_path)).encode(conversation(picture(64, 64)))


def test_a_prompt_is_shown_with_the_sizes_of_its_media(directory):
    processor = Processor(directory)
    clip = np.zeros((3, 30, 40, 3), np.uint8)
    content = [
        {"type": "image", "image": picture(100, 40)},
        {"type": "text", "text": "One\ntwo"},
        {"type": "video", "video": clip},
    ]
    shown = processor.show(processor.encode([{"role": "user", "content": content}]))
    total = len(processor.encode([{"role": "user", "content": content}]).input_ids)
    assert shown[:3] == [
        f"{total} tokens: 20 of pictures and videos, {total - 20} of text",
        "image, medium 1: 40x100 pixels (height x width) -> 32x96 -> 1x4x12 = 48 patches -> "
        "12 tokens",
        "video, medium 2: 30x40 pixels (height x width) -> 32x32 -> 2x4x4 = 32 patches -> "
        "8 tokens; 3 frames, 1.0 s",
    ]
    assert shown[3:] == [
        "<|im_start|>user",
        "<|vision_start|><|image_pad|> x 12<|vision_end|>One",
        "two<|vision_start|><0.2 seconds><|vision_start|><|video_pad|> x 4<|vision_end|>"
        "<1.0 seconds><|vision_start|><|video_pad|> x 4<|vision_end|> x 2<|im_end|>",
        "<|im_start|>assistant",
    ]


def test_a_processor_is_opened_again_in_another_process(directory):
    processor = Processor(directory, video_limits={"fps": 1.0}, max_pixels=4096)
    copy = pickle.loads(pickle.dumps(processor))
    assert copy.settings == processor.settings and copy.limits == processor.limits
    assert copy.limits.video.fps == 1.0 and copy.settings.max_pixels == 4096
    a, b = (p.encode(conversation(picture(64, 64))).input_ids for p in (copy, processor))
    np.testing.assert_array_equal(a, b)


def test_media_may_be_paths(directory, tmp_path):
    image = picture(40, 70)
    image.save(tmp_path / "a.png")
    found = Processor(directory).encode(conversation(str(tmp_path / "a.png")))
    wanted = Processor(directory).encode(conversation(image))
    np.testing.assert_array_equal(found.pixel_values, wanted.pixel_values)
    with pytest.raises(BadRow, match="message: image nowhere.png does not exist"):
        Processor(directory).encode(conversation("nowhere.png"))


def test_ends_come_from_the_generation_config_or_the_tokenizer(directory, tmp_path):
    processor = Processor(directory)
    end, pad = (processor.encode_text(token)[0] for token in ("<|im_end|>", "<|endoftext|>"))
    assert processor.eos_ids == (end, pad) and processor.pad_id == pad
    tokenizer.build(str(tmp_path))
    (tmp_path / "generation_config.json").unlink()
    assert Processor(str(tmp_path)).eos_ids == (end,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", '{"version"', "tokenizer.json cannot be read"),
        ("chat_template.jinja", None, "no chat template"),
        ("preprocessor_config.json", None, "no preprocessor_config.json"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON"),
    ],
)
def test_an_incomplete_directory_is_named_with_what_it_lacks(tmp_path, name, content, message):
    tokenizer.build(str(tmp_path))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Processor(str(tmp_path))


def test_data_and_processor_import_neither_torch_nor_jax_nor_transformers(directory):
    code = (
        "import sys\n"
        "from g2rpo_jax.data import batches, embedded, processor, prompts, rows, settings\n"
        "from g2rpo_jax.data import video_file\n"
        f"p = processor.Processor({directory!r})\n"
        "example = rows.RowSet('embedded:train?rows=6', settings.DataConfig())[0]\n"
        "assert len(p.encode(prompts.messages(example)).input_ids) > 16\n"
        "found = {'torch', 'jax', 'transformers'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
