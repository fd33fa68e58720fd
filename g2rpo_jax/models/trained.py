"""Which parameters of a model are trained: all, all but frozen ones, or adapters alone."""

import fnmatch

from flax import nnx

from g2rpo_jax.models.qwen3_vl import lora


def split(
    model: nnx.Module,
    *,
    freeze: tuple[str, ...] = (),
    lora_rank: int = 0,
    lora_alpha: float = 0.0,
    lora_targets: tuple[str, ...] = (),
):
    """Divides a model into what is trained and what stays as it is.

    Args:
      model: gets its adapters here, in place, if lora_rank is above 0; then they alone are trained.
      freeze: parameters that are not trained, by dotted path: a path, the part before one of its
        dots ("vision"), or a pattern of file names ("layers.*_norm").
      lora_rank, lora_alpha, lora_targets: as `lora.add` takes them.
    Returns:
      (graphdef, trained parameters, the other parameters): `nnx.merge` joins them again.
    Raises:
      ValueError: an entry of model.freeze matches no parameter, or nothing is left to train.
    """
    if lora_rank:
        lora.add(model, lora_rank, lora_alpha, tuple(lora_targets))
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))]
    frozen = set()
    for entry in freeze:
        found = {path for path in paths if _matches(path, entry)}
        if not found:
            parts = sorted({path.split(".")[0] for path in paths})
            raise ValueError(
                f"model.freeze={entry!r} matches no parameter: give the path of one, a part such "
                f"as {', '.join(parts)}, or a pattern such as 'layers.*_norm'"
            )
        frozen |= found
    if lora_rank:
        frozen |= {path for path in paths if "_lora_" not in path}
    if len(frozen) == len(paths):
        raise ValueError(f"model.freeze={tuple(freeze)} leaves no parameter to train")
    return nnx.split(model, lambda path, _: ".".join(map(str, path)) not in frozen, ...)


def _matches(path: str, entry: str) -> bool:
    return path.startswith(f"{entry}.") or fnmatch.fnmatchcase(path, entry)
