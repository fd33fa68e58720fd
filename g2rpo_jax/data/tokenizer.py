"""The tiny model's processor directory: byte-level BPE in Qwen's format, template, image settings.

The vocabulary is trained on the embedded tasks' texts, so their words are single tokens, but any
UTF-8 text encodes and decodes back, byte by byte if need be. Digits are always tokens of their own,
as in Qwen.
"""

import json
import os
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from g2rpo_jax.data import embedded

# Qwen's pre-tokenizer. What differs from Qwen: no NFC normaliser, so any text comes back unchanged.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD, EOS = "<|endoftext|>", "<|im_end|>"
SPECIAL = (
    PAD,
    "<|im_start|>",
    EOS,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# One token each, but text like any other: decoding keeps them, and the rewards read them.
TAGS = ("<thinking>", "</thinking>", "<answer>", "</answer>", "<think>", "</think>")
# Punctuation with its space, which the pattern would cut in two: answers get a third shorter.
PIECES = ('{"boxes": [', "]}", ", ", ". ")
VOCAB_SIZE = 448

# A short form of Qwen3-VL's own template: the same turns, without tools and thinking switches.
CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for item in content -%}
{%- if item.type == 'image' or 'image' in item -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif item.type == 'video' or 'video' in item -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'text' in item -%}{{ item.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + render(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    "size": {
        "shortest_edge": 32 * 32,
        "longest_edge": 128 * 128,
    },  # in pixels: 64x64 stays as it is
    "patch_size": 8,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
    "do_rescale": True,
    "do_normalize": True,
    "do_resize": True,
    "do_convert_rgb": True,
    "resample": 3,
}


def corpus(rows: int = 3000) -> Iterable[str]:
    """The texts that the vocabulary is trained on: questions, options, chains of thought, roles.

    Cell captions are left out: each cell must stay a token, so no run of x may be merged.
    """
    # As they follow each other in a prompt: after a space, and a line break before each option.
    for raw in embedded.rows("train", rows, seed=0):
        yield " " + raw["problem_reserved_text"] + "".join(f"\n{o}" for o in raw["options"])
        yield raw["thinking"]
    yield from ["user", "assistant", "system", " List the cells.", " List the bars."] * 20


def train(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """The tiny tokenizer; the same one every time.

    Args:
      vocab_size: of everything, special tokens included; 256 of it are the bytes.
    Raises:
      ValueError: if the bytes and the added tokens do not fit.
    """
    added = [*SPECIAL, *TAGS, *PIECES]
    learned = vocab_size - len(added)
    if learned < 256:
        raise ValueError(
            f"{vocab_size=} is too small: 256 bytes and {len(added)} added tokens must fit"
        )
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=learned,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Added tokens never reach the merges in use, so keep them out of the training text as well.
    tokenizer.train_from_iterator(_without(PIECES, corpus()), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in added[len(SPECIAL) :]]
    )
    return tokenizer


def _without(pieces: tuple[str, ...], texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        for piece in pieces:
            text = text.replace(piece, "\0")
        yield from text.split("\0")


def build(directory: str, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Write tokenizer.json, its config, the chat template and the image settings into `directory`.

    transformers' AutoTokenizer and `data.processor.Processor` load the result; no weights yet.
    Returns:
      the tokenizer; `get_vocab_size()` is the model's vocabulary size (at most `vocab_size`).
    """
    os.makedirs(directory, exist_ok=True)
    tokenizer = train(vocab_size)
    tokenizer.save(os.path.join(directory, "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen3VLProcessor",
        "model_max_length": 4096,
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": None,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "rstrip": False,
                "single_word": False,
                "normalized": False,
                "special": token.special,
            }
            for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }
    generation = {
        "bos_token_id": ids[PAD],
        "eos_token_id": [ids[EOS], ids[PAD]],
        "pad_token_id": ids[PAD],
    }
    _write_json(directory, "tokenizer_config.json", settings)
    _write_json(directory, "generation_config.json", generation)
    _write_json(directory, "preprocessor_config.json", PREPROCESSOR)
    with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(CHAT_TEMPLATE)
    return tokenizer


def _write_json(directory: str, name: str, value: dict) -> None:
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
