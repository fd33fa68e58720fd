"""The `data` section of the configuration: where rows come from and how they become prompts."""

import dataclasses

from g2rpo_jax.data import media


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Rows in the OneThinker format.

    Attributes:
      train, test: where rows come from: a .json, .jsonl, .parquet or .arrow file, a folder of
        Hugging Face datasets (`FOLDER?split=NAME`), `embedded:SPLIT?rows=N` for the built-in task
        set, or several with commas between.
      image_dir: what relative media paths start from; empty means the rows' own folder.
      template: how a row becomes a prompt: plain, release, onethinker, or a .jinja file's path.
      min_pixels, max_pixels: image size limits; 0 keeps the model directory's own.
      max_image_pixels: larger pictures (as their header says) are refused before decoding.
      allow_outside_paths: take absolute media paths, and ones that lead out of `image_dir`.
      video_fps, video_min_frames, video_max_frames: frames sampled per second, and their bounds.
      video_frame_pixels: bound of a frame's height x width; 0 keeps the model directory's own (for
        Qwen3-VL twelve times more). Two frames of 65536 pixels are 64 tokens and 256 patches. This
        and 128 frames are what OneThinker's code trains with: at most 4,096 tokens, 16,384 patches.
      video_max_pixels: bound of frames x height x width; 0 keeps the model directory's own.
      video_max_seconds: longer videos are refused before decoding.
      video_outer_marks: see data.video.VideoSettings.
      prompt_tokens, patches: bucket sizes, rising. A batch takes the smallest that holds its rows.
      max_bad_share: more unusable rows than this share of those seen is an error.
      workers: processes that read and encode rows; 0: threads of the run's own process.
      prefetch: encoded prompts kept ready at most; one takes 6 KiB of host memory for each patch
        of 16 x 16 pixels.
    """

    train: str = "data/onethinker_rl_train.json"
    test: str = "data/onethinker_rl_test.json"
    image_dir: str = ""
    template: str = "release"
    min_pixels: int = 0
    max_pixels: int = 0
    max_image_pixels: int = 2**26
    allow_outside_paths: bool = False
    video_fps: float = 2.0
    video_min_frames: int = 4
    video_max_frames: int = 128
    video_frame_pixels: int = 64 * 32 * 32
    video_max_pixels: int = 0
    video_max_seconds: float = 3600.0
    video_outer_marks: bool = True
    prompt_tokens: tuple[int, ...] = (1024, 2048, 4096)
    patches: tuple[int, ...] = (0, 2048, 4096)
    max_bad_share: float = 0.1
    workers: int = 0
    prefetch: int = 128

    def __post_init__(self):
        for name, sizes in (("prompt_tokens", self.prompt_tokens), ("patches", self.patches)):
            if not sizes or list(sizes) != sorted(set(sizes)):
                raise ValueError(f"data.{name}={sizes} must be a rising list of sizes")
        if not 0.0 <= self.max_bad_share <= 1.0:
            raise ValueError(f"data.max_bad_share={self.max_bad_share} must lie in [0, 1]")
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError(
                f"data.workers={self.workers} must be at least 0, "
                f"and data.prefetch={self.prefetch} at least 1"
            )
        if not 0 < self.max_image_pixels <= media.MOST_PIXELS:
            raise ValueError(
                f"data.max_image_pixels={self.max_image_pixels} must lie in 1..{media.MOST_PIXELS}"
            )
        if not 1 <= self.video_min_frames <= self.video_max_frames:
            raise ValueError(
                f"data.video_min_frames={self.video_min_frames} and data.video_max_frames="
                f"{self.video_max_frames} must be at least 1 and rise"
            )
        if min(self.video_fps, self.video_max_seconds) <= 0:
            raise ValueError("data.video_fps and data.video_max_seconds must be above 0")

    @property
    def media_options(self) -> dict:
        """The arguments of `Processor` that are set; 0 leaves the model directory's own."""
        pixels = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        clip = {"frame_pixels": self.video_frame_pixels, "max_pixels": self.video_max_pixels}
        video_limits = {
            "fps": self.video_fps,
            "min_frames": self.video_min_frames,
            "max_frames": self.video_max_frames,
            "max_seconds": self.video_max_seconds,
            "outer_marks": self.video_outer_marks,
            **{name: value for name, value in clip.items() if value},
        }
        return {
            "max_image_pixels": self.max_image_pixels,
            "video_limits": video_limits,
            **{name: value for name, value in pixels.items() if value},
        }
