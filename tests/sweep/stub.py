"""Plays launch/train.py for the runner: same flags, same files, no training.

The learning rate says what happens: 9 fails, 8 asks the sweep to stop and then saves, 7 asks it to
stop and then does not let go.
"""

import json
import os
import signal
import sys
from pathlib import Path

given = dict(
    argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:] if "=" in argument
)
folder, seed = Path(given["workdir"]), int(given["config.seed"])
rate, steps = float(given["config.optim.lr"]), int(given["config.steps"])
assert "--requeue" in sys.argv and given["config"].endswith("onethinker.py:tiny")


def row(step: int, accuracy: float) -> None:
    numbers = {"eval/accuracy": accuracy, "eval/accuracy/ocr": accuracy, "host/rss_gib": 0.01}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "reward/accuracy": accuracy} | numbers) + "\n")


def end(step: int, accuracy: float) -> None:
    scores = {"ocr": accuracy, "mean": accuracy}
    told = {"steps": step, "finished": step == steps, "wall_seconds": 2.5, "after": scores}
    told |= {"before": {"ocr": 0.25, "mean": 0.25}, "cpus": sorted(os.sched_getaffinity(0))}
    (folder / "summary.json").write_text(json.dumps(told))
    sys.exit(0)


def asked(number, _):
    if rate == 7:
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    end(1, 0.3)


with (folder / "starts").open("a") as file:
    file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")
signal.signal(signal.SIGTERM, asked)
row(0, 0.25)
if rate == 9:
    print("step 1\rstep 2\rstep 3")
    sys.exit("error: the disk is full")
if rate in (7, 8) and not (folder / "summary.json").exists():
    row(1, 0.3)
    os.kill(os.getppid(), signal.SIGINT)
    signal.pause()
    signal.pause()
row(steps, 0.5 + rate + seed / 100)
end(steps, 0.5 + rate + seed / 100)
