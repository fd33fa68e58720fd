"""Lowers every program of a run for Neuron and names what its compiler is known to refuse.

python launch/lint.py --config=configs/onethinker.py:tiny
python launch/lint.py --config=configs/onethinker.py --config.mesh.fsdp=4 --config.mesh.tensor=8
python launch/lint.py --config=configs/onethinker.py --config.model.directory=Qwen3-VL-2B-Instruct

The mesh is the config's, over virtual devices. No Neuron device, package or weights are needed.
Exits with 1 if anything is found.
"""

import math
import sys

from absl import flags
from ml_collections import config_flags

from g2rpo_jax import cli, platform

CONFIG = config_flags.DEFINE_config_file("config", None, "config file: FILE.py:VARIANT")
TOKENS = flags.DEFINE_integer("tokens", None, "prompt tokens (default: the smallest bucket)")
PATCHES = flags.DEFINE_integer("patches", None, "patches (default: the smallest bucket's)")
BUCKETS = flags.DEFINE_bool("buckets", False, "every bucket of the config")
PROGRAMS = flags.DEFINE_list("programs", [], "only these, e.g. update,decode (default: all)")
DEVICES = flags.DEFINE_integer(
    "devices", 0, "virtual devices (default: the product of the mesh's sizes, -1 counting as 1)"
)
PARTITIONED = flags.DEFINE_bool(
    "partitioned", False, "also compile for the mesh and check collectives and sizes (minutes)"
)


def main() -> None:
    from g2rpo_jax.config import resolve

    config = resolve(CONFIG.value)
    sizes = (config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    platform.pretend(DEVICES.value or math.prod(max(1, size) for size in sizes))
    from g2rpo_jax.neuron.run import chosen, run  # after: JAX reads the environment once
    from g2rpo_jax.parallel.mesh import make

    buckets = chosen(config, TOKENS.value, PATCHES.value, BUCKETS.value)
    mesh, names = make(config.mesh), PROGRAMS.value
    sys.exit(0 if run(config, mesh, buckets, PARTITIONED.value, names) else 1)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.main(main)
