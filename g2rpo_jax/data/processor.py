"""Chat messages to model inputs, and tokens back to text, from a Hugging Face Qwen3-VL directory.

The layout of a prompt is that of transformers' Qwen3VLProcessor: the chat template's one image
token per picture becomes as many as the picture has merged patches, and its one video token becomes
a run of video tokens for each step in time, with the seconds before it.
"""

import dataclasses
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from tokenizers import Tokenizer

from g2rpo_jax.data import images, media, video
from g2rpo_jax.data.example import BadRow
from g2rpo_jax.data.images import read_json

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
REPEATED = re.compile(r"(<\|[^<|>]+\|>)\1+")
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"


@dataclasses.dataclass(frozen=True)
class MediaSize:
    """What became of one picture or clip; sizes are (height, width).

    Fields:
      kind: "image" or "video".
      pixels: size as it came.
      resized: size after resizing, in pixels.
      grid: steps in time, patch rows, patch columns.
      tokens: of the prompt, without the marks around them.
      frames: sampled; 1 for a picture.
      seconds: from the first to the last of them.
    """

    kind: str
    pixels: tuple[int, int]
    resized: tuple[int, int]
    grid: tuple[int, int, int]
    tokens: int
    frames: int = 1
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One encoded prompt.

    Fields:
      input_ids: int32 [s]; an image or video token for every merged patch.
      pixel_values: float32 [patches of all media, patch features], or None without media.
      image_grid_thw: int64 [media, 3]: steps in time, patch rows, patch columns of pictures and
        clips, in the order of the text; or None.
      media: their sizes, for people.
    """

    input_ids: np.ndarray
    pixel_values: np.ndarray | None
    image_grid_thw: np.ndarray | None
    media: tuple[MediaSize, ...] = ()


class Processor:
    """Tokenizer, chat template and media settings of one model directory; needs no torch.

    Attributes:
      eos_ids: ids that end a response.
      pad_id: id to fill with.
      image_id, video_id: ids of the image and the video token.
      settings: how pictures become patches.
      limits: what media may be decoded; `limits.video` is how clips become patches.
    """

    def __init__(
        self,
        directory: str,
        video_limits: Mapping[str, float] | None = None,
        max_image_pixels: int = media.Limits.max_image_pixels,
        **pixel_limits: int,
    ) -> None:
        """Read the directory.

        Args:
          video_limits: fields of video.VideoSettings in place of the directory's.
          max_image_pixels: pictures above are refused before decoding.
          pixel_limits: min_pixels, max_pixels in place of the directory's.

        Raises:
          ValueError: naming the file that is missing or unreadable.
        """
        self.directory = directory
        self._options = {"video_limits": video_limits, "max_image_pixels": max_image_pixels}
        self._options |= pixel_limits
        try:
            self._tokenizer = Tokenizer.from_file(_required(directory, "tokenizer.json"))
        except ValueError:
            raise
        except Exception as error:  # tokenizers raises bare Exception on a damaged file
            raise ValueError(f"{directory}/tokenizer.json cannot be read: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = read_json(os.path.join(directory, "tokenizer_config.json"))
        self._template = _template(directory, config)
        own = images.load_settings(directory)
        self.settings = dataclasses.replace(own, **pixel_limits)
        clips = dataclasses.replace(video.load_settings(directory, own), **(video_limits or {}))
        self.limits = media.Limits(max_image_pixels, clips)
        self.image_id = self.token_id(IMAGE_TOKEN)
        self.video_id = self.token_id(VIDEO_TOKEN)
        self.eos_ids, self.pad_id = self._ends(config)
        added = self._tokenizer.get_added_tokens_decoder().values()
        special = sorted({token.content for token in added if token.special}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))

    def __reduce__(self):
        """A copy in another process opens the directory again."""
        return functools.partial(Processor, **self._options), (self.directory,)

    def _ends(self, config: dict) -> tuple[tuple[int, ...], int]:
        """End and padding ids: generation_config.json first, the tokenizer's own otherwise."""
        generation = read_json(os.path.join(self.directory, "generation_config.json"))
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
        """Encode one conversation with its pictures and clips, in any mix and order.

        Args:
          messages: chat messages; content is a text or a list of parts: {"type": "text", "text":
            ...}, {"type": "image", "image": PIL image, path or bytes}, {"type": "video", "video":
            Clip, path, bytes, PIL images, or uint8 [frames, height, width, 3]}. Frames that were
            sampled before may say how many a second, "fps"; the default is the settings'.
          add_generation_prompt: end with the opening of the assistant's turn.
        Raises:
          BadRow: special_token (a text holds a control token, such as <|im_end|>: it would end the
            turn or stand for a picture), media_count (the chat template does not show each picture
            and clip once), or what opening the media gives.
        """
        self._refuse_special(messages)
        parts = [part for part in _parts(messages) if part.get("type") in ("image", "video")]
        text = self.render(messages, add_generation_prompt)
        pieces = re.split(f"({re.escape(IMAGE_TOKEN)}|{re.escape(VIDEO_TOKEN)})", text)
        shown = ["image" if token == IMAGE_TOKEN else "video" for token in pieces[1::2]]
        if shown != [part["type"] for part in parts]:
            raise BadRow(
                "media_count",
                f"the chat template of {self.directory} shows {len(shown)} pictures and clips "
                f"({', '.join(shown) or 'none'}) where the messages have {len(parts)} "
                f"({', '.join(part['type'] for part in parts) or 'none'})",
            )
        if not parts:
            return Prompt(np.array(self.encode_text(text), np.int32), None, None)
        done = [self._patches(part) for part in parts]
        for i, (replacement, _, size) in enumerate(done):
            pieces[2 * i + 1] = replacement
            if size.kind == "video" and not self.limits.video.outer_marks:
                pieces[2 * i] = pieces[2 * i].removesuffix(VISION_START)
                pieces[2 * i + 2] = pieces[2 * i + 2].removeprefix(VISION_END)
        sizes = tuple(size for _, _, size in done)
        return Prompt(
            input_ids=np.array(self.encode_text("".join(pieces)), np.int32),
            pixel_values=np.concatenate([patches for _, patches, _ in done]),
            image_grid_thw=np.array([size.grid for size in sizes], np.int64),
            media=sizes,
        )

    def _refuse_special(self, messages: Sequence[dict]) -> None:
        """Texts come from data files: a control token in one is no part of a question."""
        for text in _texts(messages):
            found = self._special.search(text)
            if found:
                raise BadRow(
                    "special_token",
                    f"a message's text holds the control token {found.group()!r} "
                    f"({_around(found)}): the model would take it for the end of a turn or for a "
                    "picture; remove it",
                )

    def _patches(self, part: dict) -> tuple[str, np.ndarray, MediaSize]:
        """(text in place of its token, patches, sizes) of one picture or clip."""
        if part["type"] == "image":
            picture = part["image"]
            if not isinstance(picture, Image.Image):
                picture = media.open_image(picture, self.limits, "message")
            patches, grid = images.to_patches(picture, self.settings)
            size = _media_size("image", (picture.height, picture.width), grid, self.settings)
            return IMAGE_TOKEN * size.tokens, patches, size
        settings = self.limits.video
        clip = part["video"]
        if isinstance(clip, np.ndarray | list | tuple):
            clip = video.from_frames(clip, settings, part.get("fps"))
        elif not isinstance(clip, video.Clip):
            clip = media.open_video(clip, self.limits, "message")
        patches, grid = video.to_patches(clip, settings)
        size = _media_size("video", clip.size, grid, settings.image)
        size = dataclasses.replace(size, frames=len(clip.frames), seconds=clip.duration)
        run = VISION_START + VIDEO_TOKEN * (size.tokens // grid[0]) + VISION_END
        steps = video.timestamps(clip, settings)
        return "".join(f"<{seconds:.1f} seconds>{run}" for seconds in steps), patches, size

    def encode_text(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written out in it count as such."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def show(self, prompt: Prompt) -> list[str]:
        """Lines that let a person see what the model is given: sizes of the media, then the text
        with its special tokens, runs of one token as "<|image_pad|> x 64"."""
        media_lines = [
            f"{size.kind}, medium {i + 1}: {_by(size.pixels)} pixels (height x width) -> "
            f"{_by(size.resized)} -> {_by(size.grid)} = {math.prod(size.grid)} patches -> "
            f"{size.tokens} tokens"
            + (f"; {size.frames} frames, {size.seconds:.1f} s" if size.kind == "video" else "")
            for i, size in enumerate(prompt.media)
        ]
        visual = sum(size.tokens for size in prompt.media)
        total = len(prompt.input_ids)
        count = f"{total} tokens: {visual} of pictures and videos, {total - visual} of text"
        text = self._tokenizer.decode([int(i) for i in prompt.input_ids], skip_special_tokens=False)
        return [count, *media_lines, *REPEATED.sub(_counted, text).strip("\n").split("\n")]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of `token_ids` without special tokens; tags such as <thinking> stay.

        Bytes that are no UTF-8 become U+FFFD, ids beyond the tokenizer's vocabulary nothing.
        """
        return self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True)


def _parts(messages: Sequence[dict]) -> Iterable[dict]:
    for message in messages:
        if not isinstance(message["content"], str):
            yield from message["content"]


def _texts(messages: Sequence[dict]) -> Iterator[str]:
    for message in messages:
        if isinstance(message["content"], str):
            yield message["content"]
    for part in _parts(messages):
        if isinstance(part.get("text"), str):
            yield part["text"]


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def _counted(run: re.Match) -> str:
    return f"{run.group(1)} x {len(run.group()) // len(run.group(1))}"


def _around(found: re.Match) -> str:
    """A match with some text on both sides, for a message."""
    return repr(found.string[max(0, found.start() - 20) : found.end() + 20])


def _media_size(
    kind: str,
    pixels: tuple[int, int],
    grid: tuple[int, int, int],
    settings: images.ImageSettings,
) -> MediaSize:
    resized = (grid[1] * settings.patch_size, grid[2] * settings.patch_size)
    return MediaSize(kind, pixels, resized, grid, math.prod(grid) // settings.merge_size**2)


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


def _template(directory: str, config: dict) -> jinja2.Template:
    """The chat template: chat_template.jinja, chat_template.json or the tokenizer's own."""
    path = os.path.join(directory, "chat_template.jinja")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    else:
        separate = read_json(os.path.join(directory, "chat_template.json"))
        text = separate.get("chat_template") or config.get("chat_template")
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
