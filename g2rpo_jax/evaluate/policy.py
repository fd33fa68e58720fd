"""A model to evaluate or to export: a Hugging Face directory, or a checkpoint of a training run."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx

from g2rpo_jax import models
from g2rpo_jax.checkpoint import Checkpoints
from g2rpo_jax.models import trained
from g2rpo_jax.models.qwen3_vl import lora

TRAINED = ("freeze", "lora_rank", "lora_alpha", "lora_targets")  # what `trained.split` is told
SAMPLE_BYTES = 2**16


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (Path(folder) / "checkpoints").is_dir() and (Path(folder) / "config.json").is_file()


def load(
    source: str | Path,
    step: int = 0,
    dtype: str = "float32",
    shardings: Callable | None = None,
    param_dtype: str = "float32",
) -> tuple[nnx.Module, dict]:
    """The model of a directory, or of a run's checkpoint.

    Args:
      source: a Hugging Face directory or a run folder.
      step: which checkpoint of a run; 0 is the newest.
      dtype, param_dtype, shardings: as in models.load.
    Returns:
      the model, adapters merged, and what it is: {"model", "step", "weights"}; `weights` tells
      other weights apart.
    Raises:
      ValueError: there is neither, or no such checkpoint.
    """
    source = Path(source)
    options = {} if shardings is None else {"shardings": shardings}
    if not is_run(source):
        if step:
            raise ValueError(f"step={step} is for a run's checkpoints, but {source} is no run")
        model = models.load(source, dtype, param_dtype=param_dtype, **options)
        files = sorted(source.glob("*.safetensors"))
        return model, {"model": str(source), "step": None, "weights": stamp(files)}
    asked = model_section(source)
    model = models.load(asked["directory"], dtype, param_dtype=param_dtype, **options)
    # Only what was trained is in a checkpoint; the rest is as it was.
    options = {name: asked[name] for name in TRAINED if name in asked}
    graphdef, params, frozen = trained.split(model, **options)
    checkpoints = Checkpoints(source / "checkpoints", keep=None)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise ValueError(f"{source}/checkpoints holds no checkpoint")
        if step and step not in steps:
            raise ValueError(
                f"{source} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}"
            )
        step = step or steps[-1]
        params = checkpoints.restore_part(step, params, "params")
    finally:
        checkpoints.close()
    model = nnx.merge(graphdef, params, frozen)
    if options.get("lora_rank"):
        lora.merge(model)
    return model, {"model": str(source), "step": step, "weights": f"checkpoint {step}"}


def directory_of(run: str | Path) -> str:
    """The model directory that a run started from; its tokenizer and processor are the run's.

    Raises:
      ValueError: the run's config.json cannot be read or names none.
    """
    return model_section(run)["directory"]


def model_section(run: str | Path) -> dict:
    """The `model` section of a run's config.json; errors as those of `directory_of`."""
    path = Path(run) / "config.json"
    try:
        section = json.loads(path.read_text())["model"]
        section["directory"]  # there must be one
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not tell the run's model.directory ({error!r})") from None
    return section


def export(run: str | Path, directory: str | Path, step: int = 0, dtype: str = "bfloat16") -> int:
    """Writes a run's checkpoint as a Hugging Face directory.

    Args:
      run: a run folder.
      directory: made if missing; must hold no other model.
      step: which checkpoint; 0 is the newest.
      dtype: of the weights on disk.
    Returns:
      the step that was written.
    Raises:
      ValueError: not a run, no such checkpoint, or the directory holds a model.
    """
    if not is_run(run):
        raise ValueError(f"{run} is no run folder: it needs config.json and checkpoints/")
    if any(Path(directory).glob("*.safetensors")):
        raise ValueError(f"{directory} holds a model already: name another folder")
    model, origin = load(run, step)
    models.save(model, directory, dtype=dtype)
    return origin["step"]


def stamp(files: list[Path]) -> str:
    """A short text that differs where names, sizes or the ends of files do."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def parameter_count(model: nnx.Module) -> int:
    """How many numbers a model has learnt."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model)))
