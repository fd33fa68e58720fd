"""Makes one HTML file of a run: curves, configuration, and a browsable sample of rollouts.

python launch/report.py runs/onethinker_tiny
python launch/report.py runs/onethinker_tiny --out=page.html --samples=600 --megabytes=30

Works on finished, interrupted and running runs; a run writes the page itself when it ends.
"""

from pathlib import Path

from absl import flags

from g2rpo_jax import cli
from g2rpo_jax.config import RunConfig, to_plain
from g2rpo_jax.report import page

RUN = flags.DEFINE_string("run", None, "run folder; also the first argument")
OUT = flags.DEFINE_string("out", None, "file to write (default: RUN/report.html)")
SAMPLES = flags.DEFINE_integer("samples", page.SAMPLES, "logged rows on the page, at most", 1)
MEGABYTES = flags.DEFINE_float("megabytes", page.PICTURE_BYTES / 1e6, "pictures, at most", 0.0)


def main() -> None:
    if not RUN.value:
        raise ValueError("which run? python launch/report.py runs/NAME")
    written = page.write_page(
        Path(RUN.value),
        to_plain(RunConfig()),
        out=Path(OUT.value) if OUT.value else None,
        samples=SAMPLES.value,
        picture_bytes=int(MEGABYTES.value * 1e6),
    )
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    cli.main(main, argument="run")
