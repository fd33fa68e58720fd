"""What a run needs and costs on a machine, before it is rented: memory, work, time, changes.

python launch/plan.py --config=configs/onethinker.py --mesh=fsdp:4,tensor:8 --device=trn1
python launch/plan.py --config=configs/onethinker.py --mesh=fsdp:8 --device=h100 --rows=600000
python launch/plan.py --config=configs/onethinker.py:tiny --mesh=data:2 --device=cpu

Compiles the programs of training for virtual CPU devices: no weights, no such machine, minutes.
Of the model only its shape is read: a directory's config.json, or the name of a release.
docs/plan.md says how to read the output.
"""

import shlex
import sys

from absl import flags
from ml_collections import config_flags

from g2rpo_jax import cli, platform
from g2rpo_jax.plan.hardware import DEVICES

CONFIG = config_flags.DEFINE_config_file("config", None, "config file: FILE.py:VARIANT")
MESH = flags.DEFINE_string("mesh", None, "devices along axes, e.g. fsdp:4,tensor:8 (others 1)")
DEVICE = flags.DEFINE_string("device", None, f"one of {', '.join(DEVICES)}, cpu")
TOKENS = flags.DEFINE_integer("tokens", None, "prompt tokens (default: the largest bucket)")
PATCHES = flags.DEFINE_integer("patches", None, "patches (default: the largest bucket's)")
RESPONSE = flags.DEFINE_integer(
    "response_tokens", None, "tokens that decoding runs to (default: max_tokens)"
)
ROWS = flags.DEFINE_string("rows", None, "rows of the data set: a number, or a source to count")
ADVISE = flags.DEFINE_bool("advise", True, "compile what has to change if it does not fit")
OUT = flags.DEFINE_list("out", [], "files to write as well: .md, .json")


def main() -> None:
    from g2rpo_jax.plan import run  # imports JAX, but does not start it

    sizes = run.parse_mesh(MESH.value)
    device = run.device_of(DEVICE.value, sizes)
    platform.pretend(run.size(sizes))
    config = run.prepare(CONFIG.value, sizes)
    run.run(
        config,
        device,
        name=cli.run_name(flags.FLAGS["config"].config_filename),
        command=shlex.join(["python", *sys.argv]),
        bucket=run.bucket_of(config, TOKENS.value, PATCHES.value),
        response_tokens=RESPONSE.value,
        rows=run.count_rows(ROWS.value, config),
        advise=ADVISE.value,
        out=OUT.value,
        say=print,
    )


if __name__ == "__main__":
    for flag in ("config", "mesh", "device"):
        flags.mark_flag_as_required(flag)
    cli.main(main)
