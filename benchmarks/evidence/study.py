"""Everything behind docs/evidence.md, and the page itself.

    python benchmarks/evidence/study.py --out=runs/study             all of it
    python benchmarks/evidence/study.py --out=runs/study --only=page     the page of what is there

Trains the sweeps of sweeps.py and the runs of supervised.py, judges every model on the same
held-out rows, measures whose gradient it is (equity.py), and writes docs/evidence.md with its
pictures. The same command again goes on: what is finished is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

from evidence import page, supervised  # noqa: E402
from evidence.found import Study  # noqa: E402
from evidence.sweeps import SWEEPS  # noqa: E402

BATCHES = 3  # of equity.py: two and a half minutes each
# Whose pass@k is wanted beside the cold start's: sweep -> arms.
SAMPLED = {"as_scored": ("g2rpo", "grpo", "dr_grpo"), "groups": ("G=2", "G=16")}
PARTS = (*SWEEPS, "supervised", "judge", "equity", "page")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and results")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    asked = parser.parse_args()
    parts = asked.only.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"--only={unknown[0]}: the parts are {', '.join(PARTS)}")
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)  # the sweeps name config files and rewards by their place in the repository
    for part in parts:
        began, commit = time.perf_counter(), head()
        print(f"-- {part}", flush=True)
        if part in SWEEPS:
            sweep(part, out)
        elif part == "supervised":
            supervised.train(out)
        elif part == "judge":
            judge(out)
        elif part == "equity":
            call("benchmarks/evidence/equity.py", f"--out={out}/equity.json", f"--seeds={BATCHES}")
        else:
            page.write(out, ROOT / "docs")
            continue
        note(out, part, commit, time.perf_counter() - began)


def call(script: str, *flags: str) -> None:
    """Runs a script of the repository in its root; ends the study if it fails."""
    subprocess.run([sys.executable, script, *flags], cwd=ROOT, check=True)


def sweep(name: str, out: Path) -> None:
    """Trains the missing cells of a sweep."""
    plan = out / f"{name}.json"
    plan.write_text(json.dumps(SWEEPS[name], indent=1) + "\n")
    call("launch/sweep.py", f"--file={plan}", f"--out={out / name}")


def judge(out: Path) -> None:
    """Held-out accuracy of every finished model, pass@k of some."""
    study = Study(out)
    models = [ROOT / "assets/tiny", *study.folders(), *study.supervised()]
    sampled = [ROOT / "assets/tiny"]
    for name, arms in SAMPLED.items():
        sampled += [cell.folder for arm in arms for cell in study.cells(name, arm)]
    names = [str(folder) for folder in models]
    flags = [f"--out={out}/judged.json", *names, "--sampled", *map(str, sampled)]
    call("benchmarks/evidence/judge.py", *flags)


def head() -> str:
    """The commit of the working tree."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def note(out: Path, part: str, commit: str, seconds: float) -> None:
    """Adds to the time that a part took, and to the commits it was begun at."""
    path = out / "times.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    before = known.get(part, {"seconds": 0.0, "commits": []})
    commits = list(dict.fromkeys([*before["commits"], commit]))
    known[part] = {"seconds": round(before["seconds"] + seconds, 1), "commits": commits}
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
