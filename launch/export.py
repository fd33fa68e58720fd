"""Writes a Hugging Face directory from a training checkpoint.

python launch/export.py --run=runs/mine --directory=models/mine
python launch/export.py --run=runs/mine --directory=models/mine-40 --step=40 --dtype=float32
"""

from absl import flags

from g2rpo_jax import cli, platform

RUN = flags.DEFINE_string("run", None, "run folder, with config.json and checkpoints/")
DIRECTORY = flags.DEFINE_string("directory", None, "Hugging Face directory to write")
STEP = flags.DEFINE_integer("step", 0, "which checkpoint (0: the newest)", lower_bound=0)
DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float16", "float32"], "of the weights on disk"
)


def main() -> None:
    platform.prepare()
    from g2rpo_jax.evaluate.policy import export  # after prepare: JAX reads it once

    step = export(RUN.value, DIRECTORY.value, STEP.value, DTYPE.value)
    print(f"{DIRECTORY.value}: {RUN.value} after step {step}, in {DTYPE.value}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["run", "directory"])
    cli.main(main)
