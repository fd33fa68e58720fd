"""Trains a vision-language model by reinforcement learning.

python launch/train.py --config=configs/onethinker.py:tiny
python launch/train.py --config=configs/onethinker.py:release --config.optim.lr=1e-6
python launch/train.py --config=configs/onethinker.py:tiny --workdir=runs/mine --resume
python launch/train.py --config=configs/onethinker.py --workdir=runs/mine --requeue   (a job script)

Several processes: --coordinator=HOST:PORT --processes=N --process=I in each; under SLURM (srun),
with Neuron's variables or on a TPU slice they find one another (docs/processes.md).
"""

import time

from absl import flags
from ml_collections import config_flags

from g2rpo_jax import cli, platform

BEGAN = time.perf_counter()
CONFIG = config_flags.DEFINE_config_file("config", None, "config file: FILE.py:VARIANT")
WORKDIR = flags.DEFINE_string("workdir", None, "run folder (default: runs/CONFIG_VARIANT)")
RESUME = flags.DEFINE_bool("resume", False, "go on from the newest checkpoint of the run folder")
REQUEUE = flags.DEFINE_bool(
    "requeue", False, "for job queues: as --resume if --workdir holds a run, else begin it there"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several")
PROCESSES = flags.DEFINE_integer("processes", None, "how many processes there are", 1)
PROCESS = flags.DEFINE_integer("process", None, "which process this is, from 0", 0)
CHECK_DEVICE = flags.DEFINE_bool(
    "check_device", None, "first compare the devices with the CPU (default: on Neuron only)"
)
START_S = flags.DEFINE_float("start_s", 300.0, "seconds to wait for the other processes", 1.0)


def main() -> None:
    # Imported here, as processes of data.workers import this file, too, and need no JAX.
    from g2rpo_jax.config import resolve

    config = resolve(CONFIG.value)
    platform.prepare(config.host_devices)
    from g2rpo_jax.parallel import processes  # after prepare: JAX reads the environment once
    from g2rpo_jax.train.loop import run

    name = cli.run_name(flags.FLAGS["config"].config_filename)
    group = processes.start(COORDINATOR.value, PROCESSES.value, PROCESS.value, START_S.value)
    platform.keep_programs(group.count)
    with group.run():
        workdir = group.from_first(
            lambda: cli.workdir_of(WORKDIR.value, name, RESUME.value, REQUEUE.value), "workdir"
        )
        asked = CHECK_DEVICE.value
        if platform.detect() == "neuron" if asked is None else asked:
            from g2rpo_jax.neuron import parity

            parity.of_run(config, say=print if group.is_first else lambda _: None)
        run(config, workdir, RESUME.value or REQUEUE.value, say=print, group=group, began=BEGAN)


if __name__ == "__main__":
    platform.use_large_pages()
    flags.mark_flag_as_required("config")
    cli.main(main)
