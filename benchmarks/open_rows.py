"""How long a large file of rows takes to open, what memory that costs, how fast rows are drawn.

    python benchmarks/open_rows.py                    600,000 rows, about 400 MB a format
    python benchmarks/open_rows.py --rows=20000

For each format it writes rows like OneThinker's to a temporary folder, then opens them in a
process of its own: seconds to open, peak resident memory of the process, checked rows per second in
shuffled order. Beside it, in processes of their own, what loading the whole file by the usual call
costs: json.load, json.loads a line, pyarrow's read_table.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

from PIL import Image

DRAWS = 20_000
FORMATS = ("rows.json", "rows.jsonl", "groups.parquet", "one_group.parquet")


def make(i: int, rng: random.Random) -> dict:
    """A row of about 660 bytes as JSON."""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(15, 45)))
    kind, task, options, answer = rng.choice(KINDS)
    return {
        "problem_id": i,
        "problem": f"<image> {words}?",
        "data_type": "image",
        "problem_type": kind,
        "options": options,
        "data_source": rng.choice(("RefCOCOg", "MapQA", "ARES", "AI2D", "Spacellava")),
        "answer": f"<answer>{answer}</answer>",
        "images": ["./images/one.png"],
        "problem_reserved_text": f"{words}?",
        "task_type": task,
    }


WORDS = "the angle of chart region describes wearing blue lady π “größe” triangle which of".split()
CHOICES = ["A. The first of them", "B. The second", "C. None of those", "D. All"]
KINDS = (
    ("spatial grounding", "spatial_grounding", [], '{"boxes": [577, 232, 899, 786]}'),
    ("multiple choice", "general_vqa_science_stem", CHOICES, "C"),
    ("numerical", "chart_figure_qa", [], "40.33"),
    ("regression", "spatial_reasoning", [], "2.55"),
    ("OCR", "ocr", [], "Menus may use the culinary terms"),
    ("math", "math_reasoning", [], "8657"),
)


def write(folder: str, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.makedirs(f"{folder}/images")
    Image.new("RGB", (64, 64)).save(f"{folder}/images/one.png")
    rng, part = random.Random(0), []
    grouped = one = None
    with open(f"{folder}/rows.json", "w") as array, open(f"{folder}/rows.jsonl", "w") as lines:
        array.write("[\n")
        for i in range(rows):
            part.append(make(i, rng))
            text = json.dumps(part[-1], ensure_ascii=False)
            array.write(text + (",\n" if i < rows - 1 else "\n]\n"))
            lines.write(text + "\n")
            if len(part) == 10_000 or i == rows - 1:
                table, part = pa.Table.from_pylist(part), []
                if grouped is None:
                    grouped = pq.ParquetWriter(f"{folder}/groups.parquet", table.schema)
                grouped.write_table(table, row_group_size=1000)
                one = table if one is None else pa.concat_tables([one, table])
    grouped.close()
    # Uncompressed and in plain encoding: its one group has the full size of the data.
    pq.write_table(
        one, f"{folder}/one_group.parquet", row_group_size=rows, compression="none",
        use_dictionary=False,
    )  # fmt: skip


def ours(path: str) -> None:
    from g2rpo_jax.data.batches import PromptStream
    from g2rpo_jax.data.rows import RowSet
    from g2rpo_jax.data.settings import DataConfig

    base = _peak_mib()
    started = time.perf_counter()
    rows = RowSet(path, DataConfig())
    opened = time.perf_counter() - started
    _say("opened", len(rows), opened, base)
    stream = PromptStream(rows)
    stream.take(1)
    started = time.perf_counter()
    stream.take(DRAWS)
    rate = DRAWS / (time.perf_counter() - started)
    print(f"{'':22}{rate:10,.0f} checked rows/s in shuffled order, peak {_peak_mib():,.0f} MiB")


def peer(path: str) -> None:
    import pyarrow.parquet as pq

    base = _peak_mib()
    started = time.perf_counter()
    if path.endswith(".parquet"):
        rows, name = pq.read_table(path), "read_table"
    elif path.endswith(".json"):
        with open(path) as file:
            rows, name = json.load(file), "json.load"
    else:
        with open(path) as file:
            rows, name = [json.loads(line) for line in file], "json.loads"
    _say(name, len(rows), time.perf_counter() - started, base)


def _say(what: str, rows: int, seconds: float, base: float) -> None:
    print(
        f"  {what:10}{rows:10,} rows in {seconds:6.2f} s, peak {_peak_mib():6,.0f} MiB "
        f"({base:,.0f} MiB before)"
    )


def _peak_mib() -> float:
    # Not getrusage: on Linux its peak is at least that of the process that started this one.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        return ours(args.open)
    if args.peer:
        return peer(args.peer)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write(folder, args.rows)
        print(f"wrote {args.rows:,} rows in {time.perf_counter() - started:.0f} s")
        for name in FORMATS:
            path = os.path.join(folder, name)
            print(f"{name}, {os.path.getsize(path) / 2**20:,.0f} MiB")
            for flag in ("--open", "--peer"):
                subprocess.run([sys.executable, __file__, flag, path], check=True)


if __name__ == "__main__":
    main()
