"""Prompts into buckets: limits by name, and how much of what is packed is padding."""

import numpy as np
import pytest
from PIL import Image

from g2rpo_jax.data import tokenizer
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.settings import DataConfig
from g2rpo_jax.rollout.encoder import Encoder
from g2rpo_jax.train.measure import padding_numbers
from tests import tiny
from tests.parallel.together import together


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tiny"))
    tokenizer.build(path)
    return path


def encoder(directory, **fields):
    config = DataConfig(template="plain", **fields)
    return Encoder(config, Processor(directory, **config.media_options))


def example(problem="<image> Read.", *pictures):
    return Example(
        id="1",
        problem=problem,
        options=(),
        answer="7",
        problem_type="numerical",
        task="ocr",
        data_type="image" if pictures else "text",
        images=pictures,
        where="f.json row 3",
    )


def prompts(*sizes):
    """(tokens, patches) of each: prompts of those sizes."""
    C = tiny.CONFIG.vision.patch_features
    return [
        tiny.Prompt(
            np.array([1] * (s - n // 4) + [tiny.IMAGE] * (n // 4)),
            np.zeros((n, C), np.float32) if n else None,
            np.array([[1, 2, n // 2]]) if n else None,
        )
        for s, n in sizes
    ]


def test_a_batch_takes_the_smallest_buckets_and_counts_what_stays_empty(directory):
    own = encoder(directory, prompt_tokens=(10, 20, 40), patches=(0, 8, 16))
    rows = own.pack(prompts((11, 0), (7, 4)), 4, tiny.CONFIG)  # two rows of four are filler
    assert rows.tokens_PS.shape == (4, 20) and rows.segment_PN.shape == (4, 8)
    assert padding_numbers(own.packed) == {
        "batch/padding_tokens_share": 1 - 18 / 80,
        "batch/padding_patches_share": 1 - 4 / 32,
    }
    own.pack(prompts((20, 16)), 1, tiny.CONFIG)
    assert own.packed == {"tokens": 38, "token_slots": 100, "patches": 20, "patch_slots": 48}
    own.packed.clear()
    own.pack(prompts((10, 0)), 1, tiny.CONFIG)
    assert padding_numbers(own.packed) == {"batch/padding_tokens_share": 0.0}


def test_processes_pack_into_one_bucket_and_count_together(directory):
    sizes = [[(11, 0), (7, 4)], [(3, 8)], []]  # the last process has filler alone

    def job(group):
        config = DataConfig(template="plain", prompt_tokens=(10, 20, 40), patches=(0, 8, 16))
        own = Encoder(config, Processor(directory), group)
        rows = own.pack([*prompts(*sizes[group.index]), None], 3, tiny.CONFIG)
        return rows.tokens_PS.shape, rows.segment_PN.shape, dict(own.packed)

    packed = {"tokens": 21, "patches": 12, "token_slots": 180, "patch_slots": 72}
    assert together(3, job) == [((3, 20), (3, 8), packed)] * 3


def test_what_fits_no_bucket_is_a_bad_row_and_never_resized(directory):
    picture = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    prompt = encoder(directory, patches=(64,)).encode(example("<image> Read.", picture))
    assert prompt.media[0].resized == (64, 64)
    for fields, reason in (
        (dict(patches=(0, 60)), "too_many_patches"),
        (dict(patches=(64,), prompt_tokens=(16,)), "prompt_too_long"),
    ):
        with pytest.raises(BadRow, match="f.json row 3: .* largest bucket") as caught:
            encoder(directory, **fields).encode(example("<image> Read.", picture))
        assert caught.value.reason == reason


def test_control_tokens_name_the_row(directory):
    with pytest.raises(BadRow, match="f.json row 3: a message's text holds") as caught:
        encoder(directory).encode(example("What does <|im_end|> do?"))
    assert caught.value.reason == "special_token"


def test_a_wrong_template_is_an_error_at_the_start(directory, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ problem }}\n{{ qustion }}")
    with pytest.raises(ValueError, match="mine.jinja line 2: UndefinedError"):
        config = DataConfig(template=str(tmp_path / "mine.jinja"))
        Encoder(config, Processor(directory))
