"""The embedded tasks: answers checked by reading the pictures, splits, determinism, budgets."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from g2rpo_jax import rewards
from g2rpo_jax.data import embedded, media, prompts, rows, tokenizer
from g2rpo_jax.data.embedded import scene
from g2rpo_jax.data.embedded.sheet import contact_sheet
from g2rpo_jax.data.processor import Processor
from g2rpo_jax.data.settings import DataConfig

DIGITS = load_digits()
# An independent enlargement: every pixel becomes a 2x2 block.
TILES = np.stack([np.kron(np.round(image * 255 / 16), np.ones((2, 2))) for image in DIGITS.images])
FLAT = TILES.reshape(len(TILES), -1).astype(np.float32)
NORMS = (FLAT**2).sum(1)


def read_picture(image):
    """What stands in the picture, by nearest neighbour: (digit, x, y, tile index) by cell."""
    pixels = np.asarray(image).astype(np.float32)
    grey = np.where(np.ptp(pixels, axis=2) == 0, pixels[..., 0], 0)  # bars are coloured
    grey = np.where(grey == 48, 0, grey)  # grid lines
    found = {}
    for row in range(4):
        for column in range(4):
            regions, corners = [], []
            for y in {min(max(16 * row + d, 0), 48) for d in (-1, 0, 1)}:
                for x in {min(max(16 * column + d, 0), 48) for d in (-1, 0, 1)}:
                    regions.append(grey[y : y + 16, x : x + 16].ravel())
                    corners.append((x, y))
            regions = np.stack(regions)
            if regions.max(0).reshape(16, 16)[4:12, 4:12].sum() < 500:
                continue
            distance = NORMS[None] - 2 * regions @ FLAT.T + (regions**2).sum(1)[:, None]
            place, tile = np.unravel_index(distance.argmin(), distance.shape)
            found[row, column] = (int(DIGITS.target[tile]), *corners[place], int(tile))
    return found


def read_bars(image):
    """Bar value by column, from the blue pixels: half a pixel per unit."""
    blue = np.asarray(image)[:, 8::16, 2] == 255
    grey = np.asarray(image)[:, 8::16, 0] == 255
    heights = (blue & ~grey).sum(0)
    return {column: int(2 * height) for column, height in enumerate(heights) if height}


def expected(raw, picture):
    """The answer to a question, worked out from what was read off the picture."""
    question = raw["problem_reserved_text"]
    numbers = [int(n) for n in re.findall(r"\d", question)]
    cells = sorted(picture)
    digits = [picture[cell][0] for cell in cells]
    where = {picture[cell][0]: cell for cell in cells}

    def letter(text):
        return next(option[0] for option in raw["options"] if option[3:] == str(text))

    if question == "Read the number.":
        return "".join(map(str, digits))
    if match := re.fullmatch("What is the (sum|difference|product) of the digits\\?", question):
        a, b = digits
        return str({"sum": a + b, "difference": abs(a - b), "product": a * b}[match.group(1)])
    if question.startswith("Which digit is the"):
        place = digits.index(max(digits) if "largest" in question else min(digits))
        return letter(("first", "second", "third")[place])
    if question.startswith("How many digits are"):
        return str(digits.count(numbers[0]))
    if question.startswith("How many steps"):
        (r1, c1), (r2, c2) = where[numbers[0]], where[numbers[1]]
        return str(abs(r1 - r2) + abs(c1 - c2))
    if question.startswith("From"):
        (r1, c1), (r2, c2) = where[numbers[1]], where[numbers[0]]  # "From 7, 3 is:"
        assert (r1 == r2) != (c1 == c2)
        if r1 == r2:
            return letter("left" if c1 < c2 else "right")
        return letter("above" if r1 < r2 else "below")
    if question.startswith("Where is the digit"):
        _, x, y, _ = picture[where[numbers[0]]]
        assert digits.count(numbers[0]) == 1
        corners = [round(edge * 1000 / 64) for edge in (x, y, x + 16, y + 16)]
        return json.dumps({"boxes": corners})
    bars = read_bars(raw["images"][0])
    names = {picture[3, column][0]: value for column, value in bars.items()}
    assert len(names) == len(bars) == 3
    if question.startswith("What is the value of bar"):
        return str(names[numbers[0]])
    if question.startswith("How much taller"):
        return str(names[numbers[0]] - names[numbers[1]])
    assert question == "Which bar is the tallest?"
    return str(max(names, key=names.get))


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_follow_from_what_a_nearest_neighbour_reads_and_splits_share_no_digit(split):
    bank = scene.digit_bank(split)
    allowed = {source for sources in bank.sources for source in sources}
    for raw in embedded.rows(split, 120, seed=3):
        picture = read_picture(raw["images"][0])
        assert raw["answer"] == f"<answer>{expected(raw, picture)}</answer>", raw
        assert {entry[3] for entry in picture.values()} <= allowed


def test_captions_name_every_cell_and_every_bar():
    seen = Counter()
    for raw in embedded.rows("train", 60, seed=1, tasks=(), captions=True):
        picture = read_picture(raw["images"][0])
        if raw["problem_reserved_text"] == "List the cells.":
            cells = [(row, column) for row in range(4) for column in range(4)]
            text = "".join(str(picture[cell][0]) if cell in picture else "x" for cell in cells)
        else:
            bars = read_bars(raw["images"][0])
            text = ", ".join(f"{picture[3, column][0]} {bars[column]}" for column in sorted(bars))
        assert raw["answer"] == f"<answer>{text}</answer>"
        seen[raw["problem_reserved_text"]] += 1
    assert len(seen) == 2


def test_the_splits_divide_all_digit_images_class_by_class():
    train, test = scene.digit_bank("train"), scene.digit_bank("test")
    for digit in range(10):
        mine = set(np.flatnonzero(DIGITS.target == digit))
        assert set(train.sources[digit]) | set(test.sources[digit]) == mine
        assert not set(train.sources[digit]) & set(test.sources[digit])
        assert abs(len(test.sources[digit]) - 0.2 * len(mine)) <= 0.5
        np.testing.assert_array_equal(train.tiles[digit], TILES[list(train.sources[digit])])


def test_no_chart_of_the_test_split_shows_values_that_training_shows():
    shown = {}
    for split in ("train", "test"):
        raws = embedded.rows(split, 600, tasks=("chart_figure_qa",))
        shown[split] = {tuple(read_bars(raw["images"][0]).values()) for raw in raws}
    assert len(shown["test"]) > 50 and not shown["train"] & shown["test"]


def pixels(raw):
    return np.asarray(raw["images"][0])


def test_a_row_depends_on_split_seed_and_number_alone():
    short, long = embedded.rows("train", 20, seed=5), embedded.rows("train", 60, seed=5)
    for a, b in zip(short, long, strict=False):
        np.testing.assert_array_equal(pixels(a), pixels(b))
        assert {**a, "images": 0} == {**b, "images": 0}
    other = embedded.rows("train", 20, seed=6)
    assert all((pixels(a) != pixels(b)).any() for a, b in zip(short, other, strict=True))


def test_tasks_take_turns_and_no_letter_gives_the_answer_away():
    raws = embedded.rows("train", 2400)
    assert set(Counter(raw["task_type"] for raw in raws).values()) == {400}
    assert {raw["task_type"] for raw in raws} == set(rewards.TASKS)
    for options in (3, 4):
        letters = Counter(raw["answer"][8] for raw in raws if len(raw["options"]) == options)
        # At least 100 draws of one in three or four: four standard errors are below 0.18.
        share = [n / letters.total() for n in letters.values()]
        assert len(share) == options and max(abs(s - 1 / options) for s in share) < 0.18, letters
    assert len(letters) == 4


def test_every_answer_scores_full_marks_in_the_response_format():
    for raw in embedded.rows("test", 120, seed=2, captions=True):
        example = rows.to_example(raw, "row", DataConfig())
        for think in (True, False):
            text = prompts.response(example, think)
            score = rewards.score(text, example.answer, example.problem_type)
            assert score["accuracy"] == 1.0 and score["format"] == 1.0, (raw, score)


def test_prompts_fit_48_tokens_and_responses_26(tmp_path):
    tokenizer.build(str(tmp_path))
    processor = Processor(str(tmp_path))
    for raw in embedded.rows("train", 420, seed=9, captions=True):
        example = rows.to_example(raw, "row", DataConfig())
        prompt = processor.encode(prompts.messages(example))
        assert len(prompt.input_ids) <= 48
        assert (prompt.input_ids == processor.image_id).sum() == 16
        assert len(processor.encode_text(prompts.response(example) + "<|im_end|>")) <= 26


def test_written_rows_read_back_as_the_rows_themselves(tmp_path):
    path = embedded.write(str(tmp_path), "test", rows=12, seed=4)
    from_disk = rows.RowSet(path, DataConfig())
    direct = rows.RowSet("embedded:test?rows=12&seed=4", DataConfig())
    assert len(from_disk) == len(direct) == 12
    for a, b in ((from_disk[i], direct[i]) for i in range(12)):
        assert (a.problem, a.answer, a.options, a.task) == (b.problem, b.answer, b.options, b.task)
        assert (a.id, a.thinking, a.problem_type) == (b.id, b.thinking, b.problem_type)
        opened = [media.open_media(example, media.Limits()).images for example in (a, b)]
        for one, other in zip(*opened, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("embedded:trian", "unknown split 'trian'"),
        ("embedded:train?row=3", "unknown option 'row'; did you mean 'rows'"),
        ("embedded:train?rows=many", "rows, seed and captions are integers"),
        ("embedded:train?rows=0", "at least one row"),
        ("embedded:train?tasks=", "at least one row and one task"),
        ("embedded:train?tasks=orc", "unknown embedded task 'orc'; did you mean 'ocr'"),
    ],
)
def test_a_wrong_specification_says_what_is_wrong(source, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rows.RowSet(source, DataConfig())


def test_the_contact_sheet_is_a_picture(tmp_path):
    contact_sheet(str(tmp_path / "sheet.png"))
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
