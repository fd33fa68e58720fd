"""The `data` section of the configuration: where rows come from and how they become prompts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Rows in the OneThinker format.

    Attributes:
      train, test: a .json or .jsonl file, or `embedded:SPLIT?rows=N` for the built-in task set.
      image_dir: what relative image paths start from; empty means the rows' own folder.
      template: how a row becomes a prompt: plain, release, onethinker.
      min_pixels, max_pixels: image size limits; 0 keeps the model directory's own.
      prompt_tokens, patches: bucket sizes, rising. A batch takes the smallest that holds its rows.
      max_bad_share: more unusable rows than this share of the file is an error.
    """

    train: str = "data/onethinker_rl_train.json"
    test: str = "data/onethinker_rl_test.json"
    image_dir: str = ""
    template: str = "release"
    min_pixels: int = 0
    max_pixels: int = 0
    prompt_tokens: tuple[int, ...] = (1024, 2048, 4096)
    patches: tuple[int, ...] = (0, 2048, 4096)
    max_bad_share: float = 0.1

    def __post_init__(self):
        for name, sizes in (("prompt_tokens", self.prompt_tokens), ("patches", self.patches)):
            if not sizes or list(sizes) != sorted(set(sizes)):
                raise ValueError(f"data.{name}={sizes} must be a rising list of sizes")
        if not 0.0 <= self.max_bad_share <= 1.0:
            raise ValueError(f"data.max_bad_share={self.max_bad_share} must lie in [0, 1]")

    @property
    def pixel_limits(self) -> dict[str, int]:
        """The limits that are set."""
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return {name: value for name, value in limits.items() if value}
