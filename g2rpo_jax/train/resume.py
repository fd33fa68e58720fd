"""Going on with a run: what a checkpoint says beside its arrays, and which fields may differ."""

import dataclasses
import fnmatch
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import jax
from absl import logging

import g2rpo_jax
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.config import RunConfig, to_plain
from g2rpo_jax.evaluate import policy

CLOSE = "same numbers but for rounding: sums are taken in another order"
MOVED = "it may lie elsewhere; what it holds must be the same"
LIMIT = "responses near the limit may get other scores"

# Fields that may differ from the run that is gone on with, and what follows. Where nothing is said,
# the run stays the same bit for bit. All others decide what is learnt and must not change.
MAY_CHANGE = {
    "checkpoint.*": "",
    "log.*": "",
    "eval.*": "held-out numbers fall on other steps or rows from here on",
    "data.test": "held-out numbers are of other rows from here on",
    "data.train": MOVED,
    "data.image_dir": MOVED,
    "data.max_bad_share": "",
    "data.workers": "",
    "data.prefetch": "",
    "model.directory": MOVED,
    "model.remat": CLOSE,
    "model.logprob_chunk": CLOSE,
    "model.rollout_copy": CLOSE,
    "model.attention": CLOSE,
    "mesh.*": CLOSE,
    "host_devices": CLOSE,
    "batch.microbatches": CLOSE,
    "batch.generate_prompts": CLOSE,
    "batch.packed_shares": CLOSE,
    "decode_chunk": CLOSE,
    "decode_halvings": CLOSE,
    "reward.workers": "",
    "reward.deadline_s": LIMIT,
    "reward.memory_mb": LIMIT,
    "reward.judge_url": "",
    "reward.judge_key_env": "",
    "reward.judge_concurrency": "",
    "reward.judge_deadline_s": LIMIT,
    "reward.judge_retries": LIMIT,
    "reward.judge_backoff_s": "",
    "steps": "a schedule other than constant is laid out over all steps: the rate may jump",
    "epochs": "a schedule other than constant is laid out over all steps: the rate may jump",
}


@dataclasses.dataclass(frozen=True)
class Saved:
    """A sound checkpoint of this very run.

    Attributes:
      step: steps finished.
      host: its host facts.
      remarks: what is different now and may be, a line each.
    """

    step: int
    host: dict
    remarks: tuple[str, ...]


def facts(config: RunConfig) -> dict:
    """What a checkpoint says of the run that wrote it: configuration, weights it began from, code.

    Random numbers need no more than config.seed: all are functions of the seed and of a prompt's
    place in the stream, or of the step.
    """
    return {
        "config": json.loads(json.dumps(to_plain(config))),
        "weights": weights_stamp(config.model.directory),
        "code": code_version(),
    }


def find(checkpoints: Checkpoints, now: dict, workdir: Path) -> Saved | None:
    """The newest sound checkpoint, or None where there is none yet (the run was killed early).

    Args:
      now: the `facts` of the configuration that is to go on.
      workdir: the run folder, for messages.
    Raises:
      ValueError: all are damaged; or a field differs that must not, or the first weights do.
    """
    step = checkpoints.newest_sound()
    if step is None:
        return None
    host = checkpoints.host(step)
    allowed, forbidden = differences(host["config"], now["config"])
    if forbidden:
        raise ValueError(
            f"{workdir} was begun with another configuration:\n  "
            + "\n  ".join(forbidden)
            + "\nThese decide what is learnt. Set them back to go on; or begin a new run from "
            f"these weights: python launch/export.py --run={workdir} --directory=DIR, then train "
            f"with --config.model.directory=DIR. Free to change are {', '.join(MAY_CHANGE)}"
        )
    if host["weights"] != now["weights"]:
        raise ValueError(
            f"model.directory={now['config']['model']['directory']!r} holds other weights than "
            f"those that {workdir} began from: name the directory that it began from "
            f"(then {host['config']['model']['directory']!r})"
        )
    remarks = [f"changed   {line}" for line in allowed]
    if host["code"] != now["code"]:
        was, here = (
            ", ".join(f"{k} {v}" for k, v in c.items()) for c in (host["code"], now["code"])
        )
        remarks.append(f"changed   code: {was} -> {here} (numbers may differ)")
    return Saved(step, host, tuple(remarks))


def differences(saved: Mapping, now: Mapping) -> tuple[list[str], list[str]]:
    """Fields that differ between two plain configurations, in words: those that may, the others.

    A field that only one of them has counts as having the default there: the code has changed.
    """
    default = _flat(json.loads(json.dumps(to_plain(RunConfig()))))
    before, after = default | _flat(saved), default | _flat(now)
    allowed, forbidden = [], []
    for field in sorted(after):
        if before[field] == after[field]:
            continue
        line = f"{field}: {before[field]!r} -> {after[field]!r}"
        pattern = next((p for p in MAY_CHANGE if fnmatch.fnmatchcase(field, p)), None)
        if pattern is None:
            forbidden.append(line)
        else:
            allowed.append(line + (f" ({MAY_CHANGE[pattern]})" if MAY_CHANGE[pattern] else ""))
    return allowed, forbidden


def restore(trainer, checkpoints: Checkpoints, saved: Saved) -> tuple[dict, float]:
    """Puts a trainer where the checkpoint left it.

    Returns:
      (evaluations by step, seconds that the run took until then).
    """
    trainer.state, host = checkpoints.restore(saved.step, trainer.state)
    trainer.restore_host(host)
    return {int(key): scores for key, scores in host["evaluations"].items()}, host["wall_s"]


def weights_stamp(directory: str) -> str:
    """A short text that differs where a model directory's weights do, wherever it lies."""
    return policy.stamp(sorted(Path(directory).glob("*.safetensors")))


def code_version() -> dict[str, str]:
    """Versions of this package and of JAX; the Git commit where the package is in a checkout."""
    try:
        version = importlib.metadata.version("g2rpo_jax")
    except importlib.metadata.PackageNotFoundError:  # run from the checkout, not installed
        version = "not installed"
    out = {"g2rpo_jax": version, "jax": jax.__version__}
    root = Path(g2rpo_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return out
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        said = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True)
        out["commit"] = said.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        logging.info("no commit of %s: %s", root, error)
    return out


def _flat(section: Mapping, path: str = "") -> dict:
    out = {}
    for name, value in section.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{path}{name}.")
        else:
            out[path + name] = value
    return out
