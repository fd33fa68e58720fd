"""The six embedded tasks, and the caption rows that only the supervised warm-up uses.

A task is a function (rng, bank) -> Item. Answers that are graded (box IoU, word error rate,
relative error of a value) are preferred to yes/no questions: a group of responses then has
something to rank. Reasoning tasks carry a short useful chain of thought; the filler of `ocr` and
`spatial_grounding` is useless on purpose, so that a run shows where thinking is kept and where it
is dropped.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from g2rpo_jax.data.embedded.scene import GRID, Bank, Canvas, box_of

CELLS = [(row, column) for row in range(GRID) for column in range(GRID)]
LETTERS = "ABCD"
BAR_VALUES = tuple(range(10, 100, 10))
GRIDLINES = (30, 60, 90)
BARS = 3


@dataclass(frozen=True)
class Item:
    """One question about one picture: the parts of a OneThinker row that a task decides.

    Fields:
      canvas: the picture.
      question: without the image marker.
      answer: the bare answer, without tags.
      problem_type: which reward scores it.
      options: "A. ..." strings, empty unless multiple choice.
      thinking: a short chain of thought for the supervised warm-up.
    """

    canvas: Canvas
    question: str
    answer: str
    problem_type: str
    thinking: str
    options: tuple[str, ...] = ()


def scatter(
    rng: random.Random, bank: Bank, canvas: Canvas, digits: list[int]
) -> list[tuple[int, int, tuple[int, int]]]:
    """Paste `digits` into distinct random cells, in reading order: (row, column, corner) each."""
    cells = sorted(rng.sample(CELLS, len(digits)))
    return [
        (row, column, canvas.paste(rng, bank, digit, row, column))
        for digit, (row, column) in zip(digits, cells, strict=True)
    ]


def line_up(rng: random.Random, bank: Bank, canvas: Canvas, digits: list[int]) -> None:
    """Paste `digits` into cells that follow one another row by row, from a random first one."""
    first = rng.randrange(len(CELLS) - len(digits) + 1)
    for digit, (row, column) in zip(digits, CELLS[first:], strict=False):
        canvas.paste(rng, bank, digit, row, column)


def spaced(digits: list[int]) -> str:
    """Digits as words of their own, so that a word error rate counts them one by one."""
    return " ".join(map(str, digits))


def ocr(rng: random.Random, bank: Bank) -> Item:
    """A number of four to six digits that follow one another, read row by row: one word."""
    canvas = Canvas()
    digits = [rng.randrange(10) for _ in range(rng.randint(4, 6))]
    line_up(rng, bank, canvas, digits)
    return Item(canvas, "Read the number.", "".join(map(str, digits)), "OCR", "look at each digit")


def math_reasoning(rng: random.Random, bank: Bank) -> Item:
    """Sum, difference (larger minus smaller) or product of two digits."""
    canvas = Canvas()
    digits = [rng.randrange(10) for _ in range(2)]
    line_up(rng, bank, canvas, digits)
    name, sign, apply = rng.choice(ARITHMETIC)
    a, b = sorted(digits, reverse=True) if name == "difference" else digits
    result = apply(a, b)
    return Item(
        canvas,
        f"What is the {name} of the digits?",
        str(result),
        "math",
        f"{a} {sign} {b} = {result}",
    )


def general_vqa(rng: random.Random, bank: Bank) -> Item:
    """Which of three digits, in reading order, is the largest or the smallest."""
    canvas = Canvas()
    name, pick = rng.choice((("largest", max), ("smallest", min)))
    digits = rng.sample(range(10), 3)
    line_up(rng, bank, canvas, digits)
    place = digits.index(pick(digits))
    options = tuple(f"{letter}. {name}" for letter, name in zip(LETTERS, PLACES, strict=False))
    thinking = f"{spaced(digits)}, {PLACES[place]}"
    question = f"Which digit is the {name}?"
    return Item(canvas, question, LETTERS[place], "multiple choice", thinking, options)


def held_out_values(values: tuple[int, ...]) -> bool:
    """Whether a chart with these values, left to right, belongs to the test split (one in five)."""
    return sum((i + 1) * value // 10 for i, value in enumerate(values)) % 5 == 0


def draw_chart(rng: random.Random, bank: Bank, test: bool) -> tuple[Canvas, list, list, list]:
    """Three bars of different values on three of four columns, each with a digit as its name.

    Returns:
      canvas, columns (0..3, ascending), names (digits), values (10..90), the last three bar by bar.
    """
    canvas = Canvas()
    columns = sorted(rng.sample(range(GRID), BARS))
    names = rng.sample(range(10), BARS)
    values = rng.sample(BAR_VALUES, BARS)
    while held_out_values(tuple(values)) != test:
        values = rng.sample(BAR_VALUES, BARS)
    canvas.gridlines(GRIDLINES)
    for column, name, value in zip(columns, names, values, strict=True):
        canvas.bar(column, value)
        canvas.paste(rng, bank, name, GRID - 1, column, level=True)
    return canvas, columns, names, values


def chart(rng: random.Random, bank: Bank, test: bool) -> Item:
    """Value of a named bar, by how much one is taller than another, or the name of the tallest."""
    canvas, columns, names, values = draw_chart(rng, bank, test)
    kind = rng.choice(("value", "value", "taller", "tallest"))
    if kind == "value":
        bar = rng.randrange(BARS)
        question = f"What is the value of bar {names[bar]}?"
        return Item(canvas, question, str(values[bar]), "regression", f"column {columns[bar] + 1}")
    if kind == "taller":
        low, high = sorted(rng.sample(range(BARS), 2), key=lambda bar: values[bar])
        difference = values[high] - values[low]
        question = f"How much taller is bar {names[high]} than bar {names[low]}?"
        thinking = f"{values[high]} - {values[low]} = {difference}"
        return Item(canvas, question, str(difference), "regression", thinking)
    bar = values.index(max(values))
    thinking = f"column {columns[bar] + 1}"
    return Item(canvas, "Which bar is the tallest?", str(names[bar]), "numerical", thinking)


def count(rng: random.Random, bank: Bank) -> Item:
    """How often a named digit occurs (1 to 4) among two to five."""
    canvas = Canvas()
    named = rng.randrange(10)
    times = rng.randint(1, 4)
    others = [d for d in range(10) if d != named]
    total = rng.randint(max(times, 2), 5)
    digits = [named] * times + [rng.choice(others) for _ in range(total - times)]
    rng.shuffle(digits)
    line_up(rng, bank, canvas, digits)
    question = f"How many digits are {named}?"
    return Item(canvas, question, str(times), "regression", spaced(digits))


def steps(rng: random.Random, bank: Bank) -> Item:
    """Rows plus columns between two named digits (2 to 6)."""
    canvas = Canvas()
    while True:
        first, second = rng.sample(CELLS, 2)
        rows, columns = abs(first[0] - second[0]), abs(first[1] - second[1])
        if rows + columns >= 2:
            break
    a, b = rng.sample(range(10), 2)
    canvas.paste(rng, bank, a, *first)
    canvas.paste(rng, bank, b, *second)
    distance = rows + columns
    question = f"How many steps from {a} to {b}?"
    return Item(canvas, question, str(distance), "regression", f"{columns} + {rows} = {distance}")


def side(rng: random.Random, bank: Bank) -> Item:
    """In which direction of one digit another is: both stand in one row or in one column."""
    canvas = Canvas()
    line = rng.randrange(GRID)
    here, there = rng.sample(range(GRID), 2)
    a, b = rng.sample(range(10), 2)
    if rng.random() < 0.5:
        first, second = (line, here), (line, there)
        answer = "left" if here < there else "right"
    else:
        first, second = (here, line), (there, line)
        answer = "above" if here < there else "below"
    canvas.paste(rng, bank, a, *first)
    canvas.paste(rng, bank, b, *second)
    options = tuple(f"{letter}. {name}" for letter, name in zip(LETTERS, SIDES, strict=True))
    letter = LETTERS[SIDES.index(answer)]
    return Item(canvas, f"From {b}, {a} is:", letter, "multiple choice", answer, options)


def spatial_reasoning(rng: random.Random, bank: Bank) -> Item:
    """A count, a distance or a direction."""
    return rng.choice((count, steps, side))(rng, bank)


def spatial_grounding(rng: random.Random, bank: Bank) -> Item:
    """The 16x16 square of the named digit of two."""
    canvas = Canvas()
    digits = rng.sample(range(10), 2)
    placed = scatter(rng, bank, canvas, digits)
    which = rng.randrange(len(digits))
    box = ", ".join(map(str, box_of(placed[which][2])))
    question = f"Where is the digit {digits[which]}?"
    return Item(canvas, question, f'{{"boxes": [{box}]}}', "spatial grounding", "look here")


def captions(rng: random.Random, bank: Bank, test: bool) -> Item:
    """All 16 cells (a digit, or x), or all bars of a chart: many labels per picture.

    Not a task of its own (scored as OCR): the supervised warm-up learns to see from these first.
    """
    if rng.random() < 0.25:
        canvas, _, names, values = draw_chart(rng, bank, test)
        bars = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        return Item(canvas, "List the bars.", bars, "OCR", "")
    canvas = Canvas()
    digits = [rng.randrange(10) for _ in range(rng.randint(2, 8))]
    cells = ["x"] * len(CELLS)
    for digit, (row, column, _) in zip(digits, scatter(rng, bank, canvas, digits), strict=True):
        cells[row * GRID + column] = str(digit)
    return Item(canvas, "List the cells.", "".join(cells), "OCR", "")


SIDES = ("left", "right", "above", "below")
ARITHMETIC = (
    ("sum", "+", lambda a, b: a + b),
    ("difference", "-", lambda a, b: a - b),
    ("product", "*", lambda a, b: a * b),
)
PLACES = ("first", "second", "third")

# Task name -> (rng, bank, is this the test split) -> Item. The names are OneThinker's task_type.
TASKS: dict[str, Callable[[random.Random, Bank, bool], Item]] = {
    "spatial_grounding": lambda rng, bank, test: spatial_grounding(rng, bank),
    "spatial_reasoning": lambda rng, bank, test: spatial_reasoning(rng, bank),
    "general_vqa_science_stem": lambda rng, bank, test: general_vqa(rng, bank),
    "math_reasoning": lambda rng, bank, test: math_reasoning(rng, bank),
    "chart_figure_qa": chart,
    "ocr": lambda rng, bank, test: ocr(rng, bank),
}
