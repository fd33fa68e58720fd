"""Evaluates a model on benchmarks.

python launch/eval.py --config=configs/eval.py:tiny
python launch/eval.py --config=configs/eval.py --config.model=runs/mine \
    --config.benchmarks=chartqa:LMUData/ChartQA_TEST.tsv --workdir=runs/mine_chartqa --resume
python launch/eval.py --config=configs/eval.py ... --config.hosts=4 --config.host=0 --workdir=DIR
python launch/eval.py --merge --workdir=DIR
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from g2rpo_jax import cli, platform
from g2rpo_jax.config import resolve
from g2rpo_jax.evaluate.settings import EvalSettings

CONFIG = config_flags.DEFINE_config_file(
    "config", "configs/eval.py", "config file: FILE.py:VARIANT"
)
WORKDIR = flags.DEFINE_string("workdir", None, "where results go (default: runs/CONFIG_VARIANT)")
RESUME = flags.DEFINE_bool("resume", False, "go on from the predictions of the folder")
MERGE = flags.DEFINE_bool("merge", False, "only join all hosts' predictions of --workdir")


def main() -> None:
    settings = resolve(CONFIG.value, EvalSettings)
    if (settings.hosts > 1 or MERGE.value) and not WORKDIR.value:
        raise ValueError("several hosts, and --merge, need --workdir: one folder for all of them")
    platform.prepare(settings.host_devices)
    platform.keep_programs()
    from g2rpo_jax.evaluate.run import conclude, run  # after prepare: JAX reads it once

    if MERGE.value:
        conclude(Path(WORKDIR.value), settings, print)
        return
    if settings.hosts > 1:
        workdir = Path(WORKDIR.value)
        workdir.mkdir(parents=True, exist_ok=True)
    else:
        name = cli.run_name(flags.FLAGS["config"].config_filename)
        workdir = cli.workdir_of(WORKDIR.value, name, RESUME.value)
    run(settings, workdir, RESUME.value, say=print)


if __name__ == "__main__":
    cli.main(main)
