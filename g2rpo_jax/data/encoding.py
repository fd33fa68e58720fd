"""Examples to encoded prompts under the limits of the configured buckets; knows no JAX.

What feeds run in worker threads or processes, so it can be pickled: a copy opens the model's
directory again.
"""

from g2rpo_jax.data import media, prompts
from g2rpo_jax.data.example import BadRow, Example
from g2rpo_jax.data.processor import Processor, Prompt
from g2rpo_jax.data.settings import DataConfig


class PromptEncoder:
    """Examples to prompts under the limits of the configured buckets."""

    def __init__(self, config: DataConfig, processor: Processor):
        self.config, self.processor = config, processor
        prompts.load(config.template)  # a wrong template is an error at the start, not at a row

    def encode(self, example: Example) -> Prompt:
        """The prompt of a row, its media decoded.

        Raises:
          BadRow: media cannot be opened, or the prompt fits no bucket.
        """
        opened = media.open_media(example, self.processor.limits)
        chat = prompts.messages(example, self.config.template, opened.images, opened.videos)
        try:
            prompt = self.processor.encode(chat)
        except BadRow as bad:
            raise BadRow(bad.reason, f"{example.where}: {bad}") from None
        self._check(example, prompt)
        return prompt

    def _check(self, example: Example, prompt: Prompt) -> None:
        longest, most = self.config.prompt_tokens[-1], self.config.patches[-1]
        if len(prompt.input_ids) > longest:
            raise BadRow(
                "prompt_too_long",
                f"{example.where}: {len(prompt.input_ids)} prompt tokens; the largest bucket "
                f"data.prompt_tokens holds {longest}",
            )
        if patches(prompt) > most:
            raise BadRow(
                "too_many_patches",
                f"{example.where}: {patches(prompt)} patches; the largest bucket data.patches "
                f"holds {most}: lower data.max_pixels, data.video_frame_pixels or "
                "data.video_max_frames, or add a bucket",
            )


def patches(prompt: Prompt) -> int:
    """Patches of a prompt's media."""
    return 0 if prompt.pixel_values is None else len(prompt.pixel_values)
