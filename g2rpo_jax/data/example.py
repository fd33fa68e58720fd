"""The checked row that everything behind the files works with, and what makes a row unusable."""

from dataclasses import dataclass

from PIL import Image

from g2rpo_jax import rewards

IMAGE_MARKER = "<image>"
VIDEO_MARKER = "<video>"
Media = str | bytes | Image.Image


class BadRow(ValueError):
    """A row that cannot be used.

    Attributes:
      reason: a short key to count by ("missing_image").
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return BadRow, (self.reason, str(self))  # rows are checked in worker processes, too


@dataclass(frozen=True)
class Example:
    """One checked row.

    Fields:
      id: the row's problem_id, or its number in the file.
      problem: the question, with one <image> or <video> marker per picture or clip.
      options: "A. ..." strings; may be empty.
      answer: the bare answer, without <answer> tags.
      problem_type: which reward scores it; a key of rewards.REWARDS.
      task: for G2RPO, shaping and metrics: task_type, or the problem type where there is none.
      data_type: "image", "video" or "text"; some rewards differ by it.
      images: file paths, encoded bytes or PIL images, in the order of the <image> markers.
      videos: file paths, encoded bytes, or tuples of frames (each like an image), in the order of
        the <video> markers.
      thinking: a chain of thought for supervised training; "" unless the row has one.
      where: file and row, for messages.
    """

    id: str
    problem: str
    options: tuple[str, ...]
    answer: str
    problem_type: str
    task: str
    data_type: str
    images: tuple[Media, ...]
    videos: tuple[Media | tuple[Media, ...], ...] = ()
    thinking: str = ""
    where: str = ""

    @property
    def type_task(self) -> str:
        """The task that the row would have without a task_type: its problem type, segmentation
        split by data type."""
        return rewards.task_of(None, self.problem_type, self.data_type)

    def item(self, response: str) -> rewards.Item:
        """What a Scorer takes to score one response to this row."""
        return rewards.Item(
            response, self.answer, self.problem_type, self.data_type, self.task, self.problem
        )
