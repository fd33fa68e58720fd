"""Chat messages to model inputs, and tokens back to text, from a Hugging Face Qwen3-VL directory.

The layout of a prompt is that of transformers' Qwen3VLProcessor: the chat template's one image
token per picture becomes as many as the picture has merged patches.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from tokenizers import Tokenizer

from g2rpo_jax.data import images

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One encoded prompt.

    Fields:
      input_ids: int32 [s]; an image token for every merged patch.
      pixel_values: float32 [patches of all images, patch features], or None without images.
      image_grid_thw: int64 [images, 3]: frames, patch rows, patch columns; or None.
    """

    input_ids: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None


class Processor:
    """Tokenizer, chat template and image settings of one model directory; needs no torch.

    Attributes:
      eos_ids: ids that end a response.
      pad_id: id to fill with.
      image_id: the image token's id.
      settings: how pictures become patches.
    """

    def __init__(self, directory: str, **pixel_limits: int) -> None:
        """Read the directory.

        Args:
          pixel_limits: min_pixels, max_pixels in place of the directory's.

        Raises:
          ValueError: naming the file that is missing or unreadable.
        """
        self.directory = directory
        try:
            self._tokenizer = Tokenizer.from_file(_required(directory, "tokenizer.json"))
        except ValueError:
            raise
        except Exception as error:  # tokenizers raises bare Exception on a damaged file
            raise ValueError(f"{directory}/tokenizer.json cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _json(directory, "tokenizer_config.json")
        self._template = _template(directory, config)
        self.settings = dataclasses.replace(images.load_settings(directory), **pixel_limits)
        self.image_id = self.token_id(IMAGE_TOKEN)
        self.eos_ids, self.pad_id = self._ends(config)

    def _ends(self, config: dict) -> tuple[tuple[int, ...], int]:
        """End and padding ids: generation_config.json first, the tokenizer's own otherwise."""
        generation = _json(self.directory, "generation_config.json")
        listed = generation.get("eos_token_id")
        if listed is None:
            eos = [self.token_id(_content(config.get("eos_token")))]
        else:
            eos = listed if isinstance(listed, list) else [listed]
        pad = config.get("pad_token")
        return tuple(eos), self.token_id(_content(pad)) if pad is not None else eos[-1]

    def token_id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(
                f"{self.directory}/tokenizer.json has no token {token!r}: no Qwen-VL directory"
            )
        return index

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer; a model's vocabulary may be padded beyond it."""
        return self._tokenizer.get_vocab_size()

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The chat template's text for `messages`, one image token per picture."""
        return self._template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, add_vision_id=False
        )

    def encode(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> Prompt:
        """Encode one conversation with its pictures.

        Args:
          messages: chat messages; content is a text or a list of {"type": "text", "text": ...} and
            {"type": "image", "image": PIL image} parts.
          add_generation_prompt: end with the opening of the assistant's turn.
        Raises:
          ValueError: if the text holds image tokens of its own, a video, or a picture is unusable.
        """
        pictures = [part["image"] for part in _parts(messages) if part.get("type") == "image"]
        for picture in pictures:
            if not isinstance(picture, Image.Image):
                raise ValueError(f"a message's image is {picture!r}: open it as a PIL image first")
        text = self.render(messages, add_generation_prompt)
        pieces = text.split(IMAGE_TOKEN)
        if len(pieces) - 1 != len(pictures):
            raise ValueError(
                f"the prompt has {len(pieces) - 1} image tokens for {len(pictures)} images: "
                f"{IMAGE_TOKEN} must not occur in a message's text"
            )
        if VIDEO_TOKEN in text:
            raise ValueError("the prompt holds a video, which this processor does not read")
        if not pictures:
            return Prompt(np.array(self.encode_text(text), np.int32), None, None)
        done = [images.to_patches(picture, self.settings) for picture in pictures]
        grid = np.array([size for _, size in done], np.int64)
        merged = grid.prod(axis=1) // self.settings.merge_size**2
        expanded = pieces[0] + "".join(
            IMAGE_TOKEN * int(n) + piece for n, piece in zip(merged, pieces[1:], strict=True)
        )
        values = np.concatenate([patches for patches, _ in done])
        return Prompt(np.array(self.encode_text(expanded), np.int32), values, grid)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it count as such."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of `token_ids` without special tokens; tags such as <thinking> stay.

        Bytes that are no UTF-8 become U+FFFD, ids beyond the tokenizer's vocabulary nothing.
        """
        return self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True)


def _parts(messages: Sequence[dict]) -> Iterable[dict]:
    for message in messages:
        if not isinstance(message["content"], str):
            yield from message["content"]


def _content(token: str | dict) -> str:
    """A token of tokenizer_config.json, which may be an object with a `content`."""
    return token["content"] if isinstance(token, dict) else str(token)


def _required(directory: str, name: str) -> str:
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        raise ValueError(
            f"{directory}: no {name}; a Hugging Face Qwen3-VL directory with tokenizer.json, "
            "tokenizer_config.json, a chat template and preprocessor_config.json is needed"
        )
    return path


def _json(directory: str, name: str) -> dict:
    """A JSON object, empty where the file is missing."""
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None


def _template(directory: str, config: dict) -> jinja2.Template:
    """The chat template: chat_template.jinja, chat_template.json or the tokenizer's own."""
    path = os.path.join(directory, "chat_template.jinja")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    else:
        text = _json(directory, "chat_template.json").get("chat_template") or config.get(
            "chat_template"
        )
        if not isinstance(text, str):
            raise ValueError(
                f"{directory}: no chat template (chat_template.jinja, chat_template.json, or in "
                "tokenizer_config.json): copy it from the model's repository"
            )

    def refuse(message: str) -> None:
        raise ValueError(f"{directory}: the chat template refuses the messages: {message}")

    # As transformers sets it up: a template is code from the internet, so it runs in the sandbox.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = refuse
    return environment.from_string(text)
