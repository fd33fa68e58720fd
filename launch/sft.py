"""Makes the tiny model from nothing by supervised warm-up.

python launch/sft.py --config=configs/cold_start.py
python launch/sft.py --config=configs/cold_start.py --config.directory=runs/my_model
"""

import json
from pathlib import Path

from ml_collections import config_flags

from g2rpo_jax import cli, platform
from g2rpo_jax.config import SftConfig, resolve

CONFIG = config_flags.DEFINE_config_file("config", "configs/cold_start.py", "config file")


def main() -> None:
    config = resolve(CONFIG.value, SftConfig)
    platform.prepare(config.host_devices)
    platform.keep_programs()
    from g2rpo_jax.train.sft import run  # after prepare: JAX reads the environment once

    outcome = run(config)
    path = Path(config.directory) / "cold_start.json"
    path.write_text(json.dumps(outcome, indent=1) + "\n")
    print(f"{config.directory}: {outcome['steps']} steps in {outcome['seconds']} s; {path}")


if __name__ == "__main__":
    platform.use_large_pages()
    cli.main(main)
