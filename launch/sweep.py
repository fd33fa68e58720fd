"""Runs a configuration in several variants at several seeds, and compares what they reach.

python launch/sweep.py --config=configs/onethinker.py:tiny --grid=advantage.name=g2rpo,grpo \
    --seeds=0,1,2 --baseline=advantage.name=grpo --out=runs/estimators
python launch/sweep.py --config=configs/onethinker.py:tiny --grid=advantage.name=g2rpo,grpo \
    --grid=optim.lr=1e-4,3e-4 --set=steps=50 --set=host_devices=1 --out=runs/rates
python launch/sweep.py --file=sweep.json --out=runs/named
python launch/sweep.py --collect --out=runs/estimators     results so far, nothing is run

The same command again goes on: what is finished is not run again. docs/sweeps.md has the rest.
"""

import sys
from pathlib import Path

from absl import flags

from g2rpo_jax import cli

CONFIG = flags.DEFINE_string("config", None, "config file: FILE.py:VARIANT")
FILE = flags.DEFINE_string("file", None, "the sweep as JSON; flags come on top")
GRID = flags.DEFINE_multi_string("grid", [], "FIELD=VALUE,VALUE,...; several make all combinations")
SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE for every arm")
SEEDS = flags.DEFINE_list("seeds", [], "seeds that every arm runs at (default: 0)")
BASELINE = flags.DEFINE_string("baseline", None, "what to compare with: an arm, or FIELD=VALUE")
OUT = flags.DEFINE_string("out", None, "folder of the sweep")
PARALLEL = flags.DEFINE_integer("parallel", 0, "cells at a time (0: as cores and memory allow)", 0)
COLLECT = flags.DEFINE_bool("collect", False, "only make the tables and curves of --out again")


def main() -> None:
    from g2rpo_jax.sweep import ending, plan, runner  # JAX is imported, not started

    out = Path(OUT.value)
    if COLLECT.value:
        print(ending.conclude(plan.parse(plan.read_file(out / plan.FILE)), out))
        return
    content = plan.read_file(Path(FILE.value)) if FILE.value else {}
    flags_say = (CONFIG.value, SET.value, GRID.value, SEEDS.value, BASELINE.value)
    asked = plan.parse(plan.from_flags(content, *flags_say))
    cells = asked.cells(out)
    runner.check_begun(cells)
    places = runner.slots(cells, PARALLEL.value)
    with runner.alone(out) as hold:
        plan.write(asked, out)
        say(runner.describe(asked, cells, places))
        command = [sys.executable, str(Path(__file__).with_name("train.py"))]
        bounded = not PARALLEL.value
        failures = runner.run(cells, command, places, bounded=bounded, say=say, hold=hold)
    say(f"\n{ending.conclude(asked, out)}")
    for name, told in failures.items():
        say(f"\n{name}: {told}")
    sys.exit(0 if all(map(runner.finished, cells)) else 1)


def say(text: str) -> None:
    """Prints at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":
    flags.mark_flag_as_required("out")
    cli.main(main)
