"""Examples to chat messages: the question, its pictures, options, and the answer's shape."""

from collections.abc import Sequence

from g2rpo_jax.data.example import IMAGE_MARKER, Example
from g2rpo_jax.tables import lookup

# What the answer must look like, one sentence and one example per problem type. The wording is
# ours; the shape of the prompt (question, options, tags, type) is the release's.
ANSWER_SHAPE = {
    "multiple choice": "The answer is the letter of one option. Example: <answer>A</answer>",
    "numerical": "The answer is one number. Example: <answer>3.14</answer>",
    "regression": "The answer is one number. Example: <answer>42.7</answer>",
    "math": (
        "The answer is the final result, a number or a LaTeX formula. "
        "Example: <answer>$$-\\dfrac{3}{2}$$</answer>"
    ),
    "OCR": "The answer is the text exactly as it stands. Example: <answer>Hello World</answer>",
    "open-ended": "The answer is a short text. Example: <answer>Paris is in France.</answer>",
    "spatial grounding": (
        "The answer is one box as JSON, corners in thousandths of the image. "
        'Example: <answer>{"boxes": [35, 227, 437, 932]}</answer>'
    ),
    "temporal grounding": (
        'The answer is a span in seconds as JSON. Example: <answer>{"time": [12.3, 25.7]}</answer>'
    ),
    "spatial-temporal grounding": (
        "The answer is a span in seconds and a box for each whole second in it, as JSON. "
        'Example: <answer>{"time": [8.1, 9.5], "boxes": {"9": [317, 422, 582, 997]}}</answer>'
    ),
    "tracking": (
        "The answer is a box for each whole second, as JSON. "
        'Example: <answer>{"boxes": {"1": [405, 230, 654, 463], "2": [435, 223, 678, 446]}}'
        "</answer>"
    ),
    "segmentation": (
        "The answer is a box, three points on the object and three beside it, as JSON; "
        'for a video also the time of the frame, "time": 1.5. '
        'Example: <answer>{"boxes": [35, 227, 437, 932], "positive_points": [[90, 300], '
        '[200, 500], [300, 800]], "negative_points": [[10, 10], [600, 300], [900, 950]]}</answer>'
    ),
}


def messages(
    example: Example, template: str = "plain", images: Sequence | None = None
) -> list[dict]:
    """The conversation that asks `example`: one user message of pictures and texts in their order.

    Args:
      template: a name in TEMPLATES.
      images: the opened pictures; default the example's own, which must then be PIL images.
    Returns:
      [{"role": "user", "content": parts}], a part being {"type": "image", "image": picture} or
      {"type": "text", "text": ...}.
    Raises:
      ValueError: on an unknown template, or if pictures and markers differ in number.
    """
    pictures = list(example.images if images is None else images)
    pieces = lookup(TEMPLATES, template, kind="prompt template")(example).split(IMAGE_MARKER)
    if len(pieces) - 1 != len(pictures):
        raise ValueError(
            f"{example.where}: {len(pieces) - 1} {IMAGE_MARKER} markers for {len(pictures)} images"
        )
    content = []
    for i, piece in enumerate(pieces):
        if i > 0:
            content.append({"type": "image", "image": pictures[i - 1]})
        if piece:
            content.append({"type": "text", "text": piece})
    return [{"role": "user", "content": content}]


def response(example: Example, think: bool = True, tag: str = "thinking") -> str:
    """The response that a supervised step teaches: thinking (or none), then the answer."""
    thinking = example.thinking if think else ""
    return f"<{tag}>{thinking}</{tag}><answer>{example.answer}</answer>"


def plain(example: Example) -> str:
    """The question, then the options one per line; for models that know the answer format."""
    return "\n".join([example.problem, *example.options])


def with_instructions(example: Example, tag: str) -> str:
    """Question, options under "Options:", the tags to use, and the answer's shape."""
    lines = [example.problem]
    if example.options:
        lines += ["Options:", *example.options]
    lines.append(
        f"Think it through inside <{tag}> and </{tag}> tags, "
        "then give only the final answer inside <answer> and </answer> tags."
    )
    lines.append(ANSWER_SHAPE.get(example.problem_type, ANSWER_SHAPE["open-ended"]))
    return "\n".join(lines)


TEMPLATES = {
    "plain": plain,
    "release": lambda example: with_instructions(example, "thinking"),
    "onethinker": lambda example: with_instructions(example, "think"),
}
