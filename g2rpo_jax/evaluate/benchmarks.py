"""The benchmarks: one visible table, with what the OpenVLThinkerV2 paper reports for each.

To add one, write one entry in BENCHMARKS (docs/evaluation.md shows how). The paper names 18
benchmarks in six domains; its figures here were read from a public review of the paper
(https://dimensionstp.github.io/study-concept/openvlthinkerv2/), those of MMMU and MathVista also
from the authors' README. None: not found. Three of the 18 (two of mathematics, one of charts) were
not found by name; the table's further entries of those domains carry no figures.
"""

import dataclasses
import os
import re

from g2rpo_jax.evaluate.metrics import METRICS
from g2rpo_jax.tables import lookup

PAPER_BASELINE, PAPER_MODEL = "Qwen3-VL-Instruct-8B (paper)", "OpenVLThinkerV2 (paper)"


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
      title: its name in tables.
      domain: a key of DOMAINS.
      metric: a name in METRICS.
      files: the files it is usually found in, below `data_dir`; all of them are its rows.
      baseline, openvlthinker: the paper's scores, in `scale`; None where not known.
      scale: what a perfect score is (100 for percent).
      problem_type: what the prompt asks the answer to look like, for rows that do not say.
      suffix: added to every question on a line of its own.
      suffix_sign: questions that hold this text have such a suffix already and get none.
    """

    title: str
    domain: str
    metric: str
    files: tuple[str, ...] = ()
    baseline: float | None = None
    openvlthinker: float | None = None
    scale: float = 100.0
    problem_type: str = "open-ended"
    suffix: str = ""
    suffix_sign: str = ""

    def __post_init__(self):
        lookup(METRICS, self.metric, kind="metric")
        lookup(DOMAINS, self.domain, kind="domain")


@dataclasses.dataclass(frozen=True)
class Domain:
    """One domain: the paper's table it stands in, and the paper's averages (its Table 4)."""

    title: str
    table: str
    baseline: float | None = None
    openvlthinker: float | None = None


DOMAINS = {
    "general": Domain("General VQA", "Visual reasoning", 71.3, 77.9),
    "math": Domain("Mathematics", "Visual reasoning", 59.2, 66.2),
    "chart": Domain("Charts", "Visual reasoning", 69.9, 76.0),
    "document": Domain("Documents", "Documents and spatial reasoning", 86.8, 91.4),
    "spatial": Domain("Spatial reasoning", "Documents and spatial reasoning", 60.9, 63.6),
    "grounding": Domain("Grounding", "Visual grounding", 87.1, 90.7),
    "other": Domain("Other", "Other rows"),
}

# Wordings of the protocols in short; the paper's own prompts are not published.
_SHORT = "Answer the question using a single word or phrase."
_POINTS = (
    "Output the point coordinates in thousandths of the image, in JSON format: "
    '[{"point_2d": [x, y], "label": "point_1"}]'
)

BENCHMARKS: dict[str, Benchmark] = {
    "mmmu": Benchmark("MMMU", "general", "choice_or_short", ("MMMU_DEV_VAL.tsv",), 60.2, 71.6),
    "mmbench": Benchmark(
        "MMBench", "general", "multiple_choice", ("MMBench_DEV_EN.tsv",), 85.1, 88.2
    ),
    "mmstar": Benchmark("MMStar", "general", "multiple_choice", ("MMStar.tsv",), 68.5, 73.8),
    "mathvista": Benchmark(
        "MathVista",
        "math",
        "choice_or_math",
        ("MathVista_MINI.tsv",),
        74.2,
        79.5,
        problem_type="math",
    ),
    "mathverse": Benchmark(
        "MathVerse", "math", "choice_or_math", ("MathVerse_MINIVOnly.tsv",), problem_type="math"
    ),
    "mathvision": Benchmark(
        "MathVision", "math", "choice_or_math", ("MathVision.tsv",), problem_type="math"
    ),
    "chartqa": Benchmark(
        "ChartQA", "chart", "relaxed", ("ChartQA_TEST.tsv",), 82.8, 87.4, suffix=_SHORT
    ),
    "charxiv": Benchmark(
        "CharXiv (RQ)",
        "chart",
        "short_answer",
        ("CharXiv_reasoning_val.tsv",),
        44.5,
        53.0,
        suffix=_SHORT,
    ),
    "ai2d": Benchmark("AI2D", "chart", "multiple_choice", ("AI2D_TEST.tsv",)),
    "docvqa": Benchmark(
        "DocVQA", "document", "anls", ("DocVQA_VAL.tsv",), None, 96.7, suffix=_SHORT
    ),
    "ocrbench": Benchmark(
        "OCRBench", "document", "ocrbench", ("OCRBench.tsv",), None, 911.0, scale=1000.0
    ),
    "infovqa": Benchmark(
        "InfoVQA", "document", "anls", ("InfoVQA_VAL.tsv",), None, 86.4, suffix=_SHORT
    ),
    "embspatial": Benchmark(
        "EmbSpatial", "spatial", "relation", ("EmbSpatialBench.tsv",), None, 83.1
    ),
    "refspatial": Benchmark(
        "RefSpatial",
        "spatial",
        "points_inside",
        ("RefSpatial_Location.tsv", "RefSpatial_Placement.tsv"),
        43.9,
        44.6,
        suffix=_POINTS,
        suffix_sign="point_2d",
    ),
    "robospatial": Benchmark(
        "RoboSpatial", "spatial", "robospatial", ("RoboSpatialHome.tsv",), None, 63.2
    ),
    "refcoco": Benchmark(
        "RefCOCO",
        "grounding",
        "iou_half",
        ("eval_refcoco_val.json", "eval_refcoco_testA.json", "eval_refcoco_testB.json"),
        None,
        93.4,
        problem_type="spatial grounding",
    ),
    "refcoco+": Benchmark(
        "RefCOCO+",
        "grounding",
        "iou_half",
        ("eval_refcocop_val.json", "eval_refcocop_testA.json", "eval_refcocop_testB.json"),
        None,
        88.2,
        problem_type="spatial grounding",
    ),
    "refcocog": Benchmark(
        "RefCOCOg",
        "grounding",
        "iou_half",
        ("eval_refcocog_val.json", "eval_refcocog_test.json"),
        None,
        90.4,
        problem_type="spatial grounding",
    ),
    "vsibench": Benchmark(
        "VSI-Bench (numbers)", "other", "mra", ("VSI-Bench.json",), problem_type="regression"
    ),
    "rows": Benchmark("rows", "other", "reward"),  # training rows, by the reward of their type
}

# A comma starts the next part only before a benchmark's name or "NAME:"; paths may hold commas.
_NAMES = "|".join(re.escape(name) for name in (*BENCHMARKS, "all"))
_SPLIT = re.compile(rf",(?=\s*(?:(?:{_NAMES})\s*(?:,|$)|[\w+.-]+:))")


@dataclasses.dataclass(frozen=True)
class Source:
    """A benchmark and where its rows are: files, or one embedded specification."""

    name: str
    paths: tuple[str, ...]

    @property
    def benchmark(self) -> Benchmark:
        return BENCHMARKS[self.name]


def sources(text: str, data_dir: str) -> tuple[Source, ...]:
    """What to evaluate on.

    Args:
      text: "chartqa:path/to/ChartQA_TEST.tsv,refcoco:a.json;b.json,docvqa"; a name alone takes the
        benchmark's usual files below `data_dir`; "all" takes every benchmark whose files are there.
      data_dir: a folder, or "".
    Raises:
      ValueError: an unknown name (with the nearest), a file that is not there, a name given twice,
        or nothing to evaluate.
    """
    found: dict[str, Source] = {}
    for part in _SPLIT.split(text.strip()) if text.strip() else []:
        name, _, paths = part.strip().partition(":")
        if name == "all" and not paths:
            if not data_dir:
                raise ValueError("benchmarks=all needs data_dir, the folder with their files")
            for each, benchmark in BENCHMARKS.items():
                usual = _usual(benchmark, data_dir)
                if usual and all(os.path.isfile(path) for path in usual):
                    found.setdefault(each, Source(each, usual))
            continue
        benchmark = lookup(BENCHMARKS, name, kind="benchmark")
        if name in found:
            raise ValueError(f"benchmarks={text!r} names {name} twice: join its files with ';'")
        chosen = tuple(path for path in paths.split(";") if path)
        if not chosen:
            if not data_dir or not benchmark.files:
                raise ValueError(
                    f"benchmark {name}: no file given; write {name}:PATH"
                    + (
                        f", or set data_dir to the folder of {', '.join(benchmark.files)}"
                        if benchmark.files
                        else ""
                    )
                )
            chosen = _usual(benchmark, data_dir)
        for path in chosen:
            if not path.startswith("embedded:") and not os.path.exists(path.partition("?")[0]):
                raise ValueError(f"benchmark {name}: there is no file {path!r}")
        found[name] = Source(name, chosen)
    if not found:
        raise ValueError(
            "nothing to evaluate: set benchmarks, such as chartqa:path/to/ChartQA_TEST.tsv, or "
            f"all with data_dir. Known: {', '.join(BENCHMARKS)}."
        )
    return tuple(found.values())


def _usual(benchmark: Benchmark, data_dir: str) -> tuple[str, ...]:
    return tuple(os.path.join(data_dir, name) for name in benchmark.files)
