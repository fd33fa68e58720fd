"""Examples to chat messages: the question, its media, options, and the answer's shape."""

import dataclasses
import functools
import os
import re
import traceback
from collections.abc import Callable, Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from g2rpo_jax.data.example import IMAGE_MARKER, VIDEO_MARKER, BadRow, Example
from g2rpo_jax.tables import lookup

Template = Callable[[Example], str]
MARKERS = {"image": IMAGE_MARKER, "video": VIDEO_MARKER}
MARK = re.compile("\0(image|video)([0-9]+)\0")  # what stands for a marker inside a template

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
        "The answer is a box, three points on the object and three beside it, as JSON. "
        'Example: <answer>{"boxes": [35, 227, 437, 932], "positive_points": [[90, 300], '
        '[200, 500], [300, 800]], "negative_points": [[10, 10], [600, 300], [900, 950]]}</answer>'
    ),
    "segmentation in a video": (
        "The answer is the second at which the object is seen well, a box, three points on the "
        "object and three beside it at that time, as JSON. "
        'Example: <answer>{"time": 1.5, "boxes": [35, 227, 437, 932], "positive_points": '
        '[[90, 300], [200, 500], [300, 800]], "negative_points": [[10, 10], [600, 300], '
        "[900, 950]]}</answer>"
    ),
    "counting": "The answer is one whole number. Example: <answer>27</answer>",
    "detection": (
        "The answer is a list of boxes as JSON, corners in thousandths of the image, with your "
        "confidence in each from 0 to 1. Example: "
        '<answer>{"boxes": [[35, 227, 437, 932], [500, 80, 610, 300]], "scores": [1.0, 1.0]}'
        "</answer>"
    ),
    "trajectory": (
        "The answer is a path as JSON, points in their order in thousandths of the image. "
        'Example: <answer>{"points": [[100, 700], [250, 520], [400, 500]]}</answer>'
    ),
    "label set": (
        "The answer is every label that applies, separated by semicolons. "
        "Example: <answer>sinus rhythm; left axis deviation</answer>"
    ),
    "GUI action": (
        "The answer is one action as JSON, with a point in thousandths of the screen or a text "
        'where it needs them. Example: <answer>{"action": "click", "point": [512, 88]}</answer>'
    ),
    "tool calls": (
        "The answer is a list of calls as JSON. Example: "
        '<answer>{"calls": [{"name": "weather", "parameters": {"city": "Rome"}}]}</answer>'
    ),
}


def answer_shape(example: Example) -> str:
    """The sentence on what the answer must look like."""
    kind = example.problem_type
    if kind == "segmentation" and example.data_type == "video":
        kind = "segmentation in a video"
    return ANSWER_SHAPE.get(kind, ANSWER_SHAPE["open-ended"])


def messages(
    example: Example,
    template: str | Template = "plain",
    images: Sequence | None = None,
    videos: Sequence | None = None,
) -> list[dict]:
    """The conversation that asks `example`: one user message of media and texts in their order.

    Markers in options are text, and so is a marker of a kind of which the row has no media and by
    its data_type is not (a question on the HTML tag <video>).
    Args:
      template: a name in TEMPLATES, the path of a .jinja file, or a function of the example.
      images, videos: the opened media; default the example's own.
    Returns:
      [{"role": "user", "content": parts}], a part being {"type": "image", "image": picture},
      {"type": "video", "video": clip} or {"type": "text", "text": ...}.
    Raises:
      BadRow: image_count or video_count, if media and markers differ in number.
      ValueError: on an unknown template, or one that fails or loses a marker.
    """
    media = {
        "image": list(example.images if images is None else images),
        "video": list(example.videos if videos is None else videos),
    }
    template = load(template) if isinstance(template, str) else template
    problem, marks = marked(example, {kind: len(found) for kind, found in media.items()})
    options = tuple(option.replace("\0", "") for option in example.options)
    text = template(dataclasses.replace(example, problem=problem, options=options))
    pieces = MARK.split(text)
    found = list(zip(pieces[1::3], map(int, pieces[2::3]), strict=True))
    if found != marks:
        raise ValueError(
            f"{example.where}: the prompt template shows {len(found)} of the row's {len(marks)} "
            "pictures and clips, each must stand once and in order: use {{ problem }} once and "
            "without filters that change it"
        )
    content = []
    for i, piece in enumerate(pieces[::3]):
        if i > 0:
            kind, number = found[i - 1]
            content.append({"type": kind, kind: media[kind][number]})
        if piece:
            content.append({"type": "text", "text": piece})
    return [{"role": "user", "content": content}]


def marked(example: Example, counts: dict[str, int]) -> tuple[str, list[tuple[str, int]]]:
    """The question with numbered marks in place of its markers, and these as (kind, number).

    Args:
      counts: of the media of each kind.
    Raises:
      BadRow: image_count, video_count.
    """
    problem, marks = example.problem.replace("\0", ""), []
    kinds = [kind for kind in MARKERS if counts[kind] or example.data_type == kind]
    for kind in kinds:
        number = problem.count(MARKERS[kind])
        if number != counts[kind]:
            raise BadRow(
                f"{kind}_count",
                f"{example.where}: 'problem' has {number} {MARKERS[kind]} markers for "
                f"{counts[kind]} {kind}s; one marker per {kind} is needed",
            )
    pattern = "|".join(re.escape(MARKERS[kind]) for kind in kinds) or "(?!)"

    def mark(match: re.Match) -> str:
        kind = next(kind for kind in kinds if MARKERS[kind] == match.group())
        marks.append((kind, sum(other == kind for other, _ in marks)))
        return f"\0{kind}{marks[-1][1]}\0"

    return re.sub(pattern, mark, problem), marks


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
    lines.append(answer_shape(example))
    return "\n".join(lines)


TEMPLATES: dict[str, Template] = {
    "plain": plain,
    "release": lambda example: with_instructions(example, "thinking"),
    "onethinker": lambda example: with_instructions(example, "think"),
}


@functools.lru_cache
def load(template: str) -> Template:
    """A template by its name in TEMPLATES, or the user's own, from a .jinja file.

    The file is given problem, options (a list), problem_type, task, data_type and answer_shape. It
    runs in jinja's sandbox and is tried once here.
    Raises:
      ValueError: on an unknown name; or naming the file, and the line at which it fails.
    """
    if not template.endswith((".jinja", ".j2")) and os.sep not in template:
        return lookup(TEMPLATES, template, kind="prompt template")
    folder, name = os.path.split(os.path.abspath(template))
    # A name that is not among the values is an error, not an empty text.
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        file = environment.get_template(name)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"prompt template {error.filename or template} line {error.lineno}: {error.message}"
        ) from None
    except jinja2.TemplateNotFound:
        raise ValueError(
            f"prompt template {template!r}: no such file; it is a .jinja file or one of "
            f"{', '.join(TEMPLATES)}"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt template {template} is not UTF-8 text: {error}") from None

    def render(example: Example) -> str:
        try:
            return file.render(
                problem=example.problem,
                options=list(example.options),
                problem_type=example.problem_type,
                task=example.task,
                data_type=example.data_type,
                answer_shape=answer_shape(example),
            )
        # What a template can do wrong is anything an expression can.
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(frames) if f.filename == file.filename), "?")
            raise ValueError(
                f"prompt template {template} line {line}: {type(error).__name__}: {error}"
            ) from None

    for trial in TRIALS:
        messages(trial, render)
    return render


def _trial(problem_type: str, data_type: str, options: tuple[str, ...] = ()) -> Example:
    media = {"image": (), "video": ()} | {data_type: ("?",)}
    return Example(
        id="trial",
        problem=MARKERS.get(data_type, "") + "What?",
        options=options,
        answer="A",
        problem_type=problem_type,
        task=problem_type,
        data_type=data_type,
        images=media["image"],
        videos=media["video"],
        where="trial row",
    )


# One of each branch that a template is likely to have.
TRIALS = (
    _trial("multiple choice", "image", ("A. yes", "B. no")),
    _trial("segmentation", "video"),
    _trial("math", "text"),
)
