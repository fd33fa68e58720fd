"""Release mode against the authors' formulas, transcribed here on their own."""

import itertools
import json
import math
import random
import re

import numpy as np
import pytest

from g2rpo_jax import rewards

RELEASE = rewards.Scorer(rewards.RewardConfig(mode="release"))


# What the release computes, from the method's description: plain loops, float32 by NumPy, ROUGE by
# the package that the release calls. Anything that goes wrong is 0.


def theirs(response, truth, problem_type, data_type):
    clean = re.sub(r"\s*([<>/])\s*", r"\1", response)
    pattern = r"\s*<thinking>.*?</thinking>\s*<answer>.*?</answer>\s*"
    form = float(bool(re.fullmatch(pattern, clean, re.DOTALL)))
    found = re.search(r"<answer>\s*(.*?)\s*</answer>", clean, re.DOTALL)
    answer = found.group(1).strip() if found else ""
    try:
        accuracy = ACCURACY[problem_type](answer or clean.strip(), truth, data_type)
    except Exception:
        accuracy = 0.0
    structure = STRUCTURE.get(problem_type, lambda *_: 0.5)(answer, truth, data_type)
    return accuracy, form, structure if form else 0.0


def letter(answer, truth, _):
    def plain(text):
        return re.sub(r"[\s(){}$%\[\]]|\\text|\\boxed", "", text).lower()

    return float(plain(answer) == plain(truth))


def rounded(answer, truth, _):
    a, b = (float(x.replace(",", "")) for x in (answer, truth))
    return float(round(a, 2) == round(b, 2))


def relative(answer, truth, _):
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = (np.float32(float(x.replace(",", ""))) for x in (answer, truth))
        error = np.abs(a - b) / (np.abs(b) + np.float32(1e-8))
    # torch.arange(0.5, 0.975, 0.05) in float32 is this; a test below says so
    thresholds = (0.5 + 0.05 * np.arange(10)).astype(np.float32)
    return float(np.mean(error < np.float32(1) - thresholds))


def words_right(answer, truth, _):
    a, b = truth.split(), answer.split()
    d = np.zeros((len(a) + 1, len(b) + 1), int)
    d[:, 0], d[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        change = d[i, j] + (a[i] != b[j])
        d[i + 1, j + 1] = min(change, d[i, j + 1] + 1, d[i + 1, j] + 1)
    return max(0.0, 1.0 - d[-1, -1] / max(1, len(a)))


def rouge(answer, truth, _):
    from rouge_score import rouge_scorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scores = rouge_scorer.RougeScorer(kinds, use_stemmer=True).score(truth, answer)
    return sum(scores[kind].fmeasure for kind in kinds) / 3


def are_numbers(value, count):
    try:
        return isinstance(value, list) and len(value) == count and [float(v) for v in value] != []
    except (TypeError, ValueError, OverflowError):
        return False


def spans(a, b):
    if not (are_numbers(a, 2) and are_numbers(b, 2)):
        return 0.0
    (s1, e1), (s2, e2) = [list(map(float, x)) for x in (a, b)]
    union = max(e1, e2) - min(s1, s2)
    return max(0.0, min(e1, e2) - max(s1, s2)) / union if union > 1e-12 else 0.0


def box(a, b):
    if not (are_numbers(a, 4) and are_numbers(b, 4)):
        return 0.0
    a, b = list(map(float, a)), list(map(float, b))
    sides = [max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    areas = [max(0.0, c[2] - c[0]) * max(0.0, c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - sides[0] * sides[1]
    return sides[0] * sides[1] / union if union > 1e-12 else 0.0


def points(a, b):
    distances = [sum(math.dist(p[i], b[i]) for i in range(3)) for p in itertools.permutations(a)]
    return math.exp(-((min(distances) / 3) ** 2) / (2 * 50.0**2))


def segments(answer, truth, data_type):
    said, right = json.loads(answer), json.loads(truth)
    overlap = box(said.get("boxes"), right["boxes"])
    similar = []
    for field in ("positive_points", "negative_points"):
        given = said[field]
        assert len(given) == 3 and all(are_numbers(p, 2) for p in given)
        given = [[float(v) for v in p] for p in given]
        finite = all(math.isfinite(v) for p in given for v in p)
        similar.append(points(given, right[field]) if finite else 0.0)
    if data_type == "image":
        return 0.5 * overlap + 0.25 * sum(similar)
    assert isinstance(said["time"], int | float)
    near = math.exp(-abs(float(said["time"]) - right["time"]) / 2.0)
    total = 0.3 * overlap + 0.3 * near + 0.2 * sum(similar)
    return total if math.isfinite(total) else 0.0  # theirs is NaN: the one score not kept


def both(answer, truth, data_type):
    said, right = json.loads(answer), json.loads(truth)
    a, b = said.get("boxes"), right["boxes"]
    shared = [box(a[k], b[k]) for k in a if k in b] if isinstance(a, dict) else []
    mean = sum(shared) / len(shared) if shared else 0.0
    return 0.5 * spans(said.get("time"), right["time"]) + 0.5 * mean


def tracks(answer, truth, data_type):
    said, right = json.loads(answer)["boxes"], json.loads(truth)["boxes"]
    return sum(box(said.get(k, []), right[k]) for k in right) / len(right)


ACCURACY = {
    "multiple choice": letter,
    "numerical": rounded,
    "regression": relative,
    "OCR": words_right,
    "open-ended": rouge,
    "spatial grounding": lambda a, t, _: box(json.loads(a).get("boxes"), json.loads(t)["boxes"]),
    "temporal grounding": lambda a, t, _: spans(json.loads(a).get("time"), json.loads(t)["time"]),
    "spatial-temporal grounding": both,
    "tracking": tracks,
    "segmentation": segments,
}


def read(text):
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def frames(value, timed):
    found, when = value.get("boxes"), value.get("time")
    shape = isinstance(found, dict) and all(are_numbers(v, 4) for v in found.values())
    return shape and (not timed or (isinstance(when, list) and len(when) == 2))


def frame_structure(timed):
    def structure(answer, truth, _):
        found, right = read(answer).get("boxes", {}), json.loads(truth)["boxes"]
        named = len(set(found) & set(right)) / len(right) if isinstance(found, dict) else 0.0
        return 0.25 * bool(frames(read(answer), timed)) + 0.25 * named

    return structure


def segment_structure(answer, _, data_type):
    value = read(answer)
    lists = [value.get(f"{sign}_points") for sign in ("positive", "negative")]
    three = all(
        isinstance(x, list) and len(x) == 3 and all(are_numbers(p, 2) for p in x) for x in lists
    )
    timed = data_type == "image" or isinstance(value.get("time"), int | float)
    return 0.5 * (three and timed and are_numbers(value.get("boxes"), 4))


STRUCTURE = {
    "spatial grounding": lambda a, *_: 0.5 * are_numbers(read(a).get("boxes"), 4),
    "temporal grounding": lambda a, *_: 0.5 * are_numbers(read(a).get("time"), 2),
    "spatial-temporal grounding": frame_structure(timed=True),
    "tracking": frame_structure(timed=False),
    "segmentation": segment_structure,
}


# Constructed answers: right, nearly right, wrong, malformed, exploits.


def a_box(rng):
    x, y = rng.randint(0, 500), rng.randint(0, 500)
    return [x, y, x + rng.randint(1, 400), y + rng.randint(1, 400)]


def some_points(rng):
    return [[rng.randint(0, 1000), rng.randint(0, 1000)] for _ in range(3)]


def truth_of(problem_type, data_type, rng):
    if problem_type == "multiple choice":
        return rng.choice("ABCDE")
    if problem_type in ("numerical", "regression"):
        return rng.choice(
            ["0", "0.0", "2.55", "-3", "1,234.5", "40.33", f"{rng.uniform(0, 9):.3f}"]
        )
    if problem_type in ("OCR", "open-ended"):
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))
    value = {}
    if problem_type in ("temporal grounding", "spatial-temporal grounding"):
        start = rng.uniform(0, 50)
        value["time"] = [round(start, 1), round(start + rng.uniform(0.5, 30), 1)]
    if problem_type in ("tracking", "spatial-temporal grounding"):
        value["boxes"] = {str(k): a_box(rng) for k in range(1, rng.randint(2, 7))}
    if problem_type in ("spatial grounding", "segmentation"):
        value["boxes"] = a_box(rng)
    if problem_type == "segmentation":
        value |= {"positive_points": some_points(rng), "negative_points": some_points(rng)}
        if data_type == "video":
            value["time"] = round(rng.uniform(0, 20), 1)
    return json.dumps(value)


WORDS = (
    "The cats were running quickly , a red-brown fox ; jumps 42 times over $ 3.50 lazy dogs and "
    "relational studies : generously flying caf\u00e9 < b / c U.S.A. \u732b"
).split()
ODD = [float("nan"), float("inf"), -float("inf"), "7", "1e2", " nan ", "x", None, True, [], {}]
ODD += [10**400, -0.5, 1e308, "Infinity", ""]


def jittered(value, rng, chance):
    """The value with numbers moved, replaced by odd ones, keys and entries gone or doubled."""
    if isinstance(value, dict):
        items = [(k, jittered(v, rng, chance)) for k, v in value.items() if rng.random() > chance]
        return dict(items) | ({"9": [0, 0, 9, 9]} if rng.random() < chance else {})
    if isinstance(value, list):
        out = [jittered(v, rng, chance) for v in value]
        return out + out[:1] if rng.random() < chance / 2 else out
    if rng.random() < chance:
        return rng.choice(ODD)
    return value + rng.choice([0, 0, rng.randint(-40, 40), rng.uniform(-2, 2)])


def answer_of(truth, problem_type, rng):
    if rng.random() < 0.05:
        return rng.choice(
            ["", " ", "null", "[]", "{}", "NaN", '{"boxes": {}}', "{", "a < b", "\ud800"]
        )
    if problem_type == "multiple choice":
        said = rng.choice([truth, truth, rng.choice("ABCDE")])
        shapes = ["{}", "({})", " {} ", "${}$", "\\boxed{{{}}}", "\\text{{{}}}", "{}.", "{} or A"]
        return rng.choice(shapes).format(rng.choice([said, said.lower()]))
    if problem_type in ("numerical", "regression"):
        near = float(truth.replace(",", "")) * rng.uniform(0.3, 1.7)
        odd = ["nan", "-inf", "1e400", "1_0", "1e39", "three", f"{near:,.2f}", " 2.549 "]
        return rng.choice([truth, f"{near:.3f}", str(near), rng.choice(odd)])
    if problem_type in ("OCR", "open-ended"):
        said = [w for w in truth.split() if rng.random() < 0.8] + rng.choices(WORDS, k=2)
        if rng.random() < 0.3:
            rng.shuffle(said)
        return rng.choice([" ", "  ", "\n"]).join(said)
    return json.dumps(jittered(json.loads(truth), rng, rng.choice([0, 0, 0.05, 0.3])))


def response_of(answer, rng):
    shapes = ["<thinking>so</thinking><answer>{}</answer>"] * 4 + [
        "{}",
        "<answer>{}</answer>",
        " <thinking> a < b </thinking>\n\n<answer> {} </answer> ",
        "< thinking >1 / 2< / thinking >< answer >{}</ answer >\n",
        "<thinking>so</thinking><answer>{}</answer>.",
        "<thinking>a</thinking>b</thinking><answer>{}</answer><answer>c</answer>",
        "<thinking>so</thinking>x<answer>{}</answer>",
        "<think>so</think><answer>{}</answer>",
        "<answer>{}",
    ]
    return rng.choice(shapes).replace("{}", answer, 1)


@pytest.mark.parametrize(
    ("problem_type", "data_type"),
    [(name, "image") for name in ACCURACY] + [("segmentation", "video"), ("segmentation", "text")],
)
def test_four_hundred_answers_score_as_the_release_scores_them(problem_type, data_type):
    rng = random.Random(f"{problem_type} {data_type}")
    cases = []
    for _ in range(400):
        truth = truth_of(problem_type, data_type, rng)
        cases.append((response_of(answer_of(truth, problem_type, rng), rng), truth))
    scores = RELEASE.score_batch([(r, t, problem_type, data_type) for r, t in cases])
    seen = set()
    for (response, truth), ours in zip(cases, scores, strict=True):
        accuracy, form, structure = theirs(response, truth, problem_type, data_type)
        where = (response, truth, ours)
        # theirs sums and divides in other orders, in float32 for regression
        assert ours.accuracy == pytest.approx(accuracy, abs=1e-6), where
        assert (ours.format, ours.structure) == (form, structure), where
        assert ours.total == pytest.approx(0.9 * accuracy + 0.1 * form + structure, abs=1e-6)
        seen.add(round(accuracy, 2))
    assert len(seen) > 1 or data_type == "text"


def test_the_thresholds_are_torchs():
    import torch

    theirs = torch.arange(0.5, 0.95 + 0.05 / 2, 0.05, dtype=torch.float32).numpy()
    assert theirs.tolist() == (0.5 + 0.05 * np.arange(10)).astype(np.float32).tolist()


THREE = [[1, 1], [2, 2], [3, 3]]
SEGMENT = {"boxes": [0, 0, 9, 9], "positive_points": THREE, "negative_points": THREE, "time": 1.0}
EASY = {"1": [0, 0, 100, 100], "2": [400, 400, 500, 500], "3": [700, 0, 800, 90]}


def tagged(answer):
    return f"<thinking>so</thinking><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("problem_type", "answer", "truth", "release", "sound"),
    [
        # one easy frame of three stands for all
        (
            "spatial-temporal grounding",
            json.dumps({"time": [0, 9], "boxes": {"1": EASY["1"]}}),
            json.dumps({"time": [0, 9], "boxes": EASY}),
            1.0,
            0.5 + 0.5 / 3,
        ),
        # the text is changed before it is read
        ("OCR", "if a < b", "if a < b", 0.25, 1.0),
        ("open-ended", "km/h", "km / h", 1.0, 1.0),
        # texts and booleans as numbers
        ("spatial grounding", '{"boxes": ["0", 0, "1e1", 10]}', '{"boxes": [0, 0, 10, 10]}', 1, 0),
        ("spatial grounding", '{"boxes": [0, 0, true, 1]}', '{"boxes": [0, 0, 1, 1]}', 1, 0),
        # NaN and infinities in JSON
        ("segmentation", json.dumps(SEGMENT | {"time": math.inf}), json.dumps(SEGMENT), 0.7, 0.0),
        ("segmentation", json.dumps(SEGMENT | {"time": math.nan}), json.dumps(SEGMENT), 0.0, 0.0),
        # a truth of one word; words of other scripts
        ("open-ended", "Paris", "Paris", 2 / 3, 1.0),
        ("open-ended", "\u6771\u4eac \u99c5", "\u6771\u4eac\u99c5", 0.0, 1.0),
        # off by 4e-9 / 1e-8 = 0.4, which is below 0.50 and 0.45
        ("regression", "0.000000004", "0", 0.2, 0.0),
        # off by exactly 0.05, which is below 1 - 0.95 in float32
        ("regression", "9.5", "10", 1.0, 0.9),
        # ways to name an option
        ("multiple choice", "B. no", "B", 0.0, 1.0),
    ],
)
def test_where_the_modes_differ(problem_type, answer, truth, release, sound):
    for mode, expected in (("release", release), ("sound", sound)):
        config = rewards.RewardConfig(mode=mode)
        score = rewards.score(tagged(answer), truth, problem_type, "video", config)
        assert score["accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("response", "truth", "problem_type", "release", "sound"),
    [
        # repeated tags: format
        (tagged("B") + "<answer>C</answer>", "B", "multiple choice", (1, 0.5), (0, 0)),
        # no frame at all has the shape; frames without boxes count as frames
        (tagged('{"boxes": {}}'), '{"boxes": {"1": [0, 0, 1, 1]}}', "tracking", (1, 0.25), (1, 0)),
        (
            tagged('{"boxes": {"1": null}}'),
            '{"boxes": {"1": [0, 0, 1, 1]}}',
            "tracking",
            (1, 0.25),
            (1, 0),
        ),
        # times that are no numbers
        (
            tagged('{"time": [null, {}], "boxes": {}}'),
            json.dumps({"time": [0, 9], "boxes": EASY}),
            "spatial-temporal grounding",
            (1, 0.25),
            (1, 0),
        ),
    ],
)
def test_where_format_and_structure_differ(response, truth, problem_type, release, sound):
    for mode, expected in (("release", release), ("sound", sound)):
        score = rewards.score(
            response, truth, problem_type, "video", rewards.RewardConfig(mode=mode)
        )
        assert (score["format"], score["structure"]) == expected


def test_math_is_read_as_it_stands_in_release_mode():
    config = rewards.RewardConfig(mode="release", deadline_s=60.0)
    # math-verify reads 2 in a bare 2x, and two equal words are equal
    assert rewards.score(tagged("2x"), "2", "math", config=config)["accuracy"] == 1.0
    assert rewards.score(tagged("$\\frac12$"), "0.5", "math", config=config)["accuracy"] == 1.0
    assert rewards.score(tagged("3"), "\\frac12", "math", config=config)["accuracy"] == 0.0
