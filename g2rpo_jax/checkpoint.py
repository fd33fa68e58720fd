"""Saving and restoring a run: device arrays and host facts of one step together, with Orbax."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from g2rpo_jax.parallel.rules import path_name


class Checkpoints:
    """The checkpoints of one run, in `directory`; asynchronous, atomic, the last `keep` kept (None:
    all, for readers)."""

    def __init__(self, directory: Path, keep: int | None):
        self.directory = Path(directory).resolve()
        # Writing a share of each replicated array from every device would compile a slice of every
        # shape in the middle of a run; the first replica writes instead.
        arrays = ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(
                (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False))
            )
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
            item_handlers={"arrays": arrays, "host": ocp.JsonCheckpointHandler()},
        )

    def save(self, step: int, arrays, host: dict) -> None:
        """Starts writing; a step that is already there is left alone.

        Args:
          step: steps finished.
          arrays: any tree of device arrays.
          host: what JSON can hold: data position, surplus rows, configuration.
        """
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(_named(arrays)), host=ocp.args.JsonSave(host)
            ),
        )

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete steps, rising."""
        return sorted(self._manager.all_steps())

    def restore_part(self, step: int, like, prefix: str):
        """Reads one branch of a saved tree of arrays, such as a run's `params`.

        Args:
          like: the branch, with the shardings wanted now.
          prefix: where it hangs in the saved tree.
        Returns:
          arrays in the branch's form.
        Raises:
          ValueError: if the checkpoint does not hold these arrays under `prefix`.
        """
        wanted = {f"{prefix}.{name}": x for name, x in _wanted(like).items()}
        saved = self._manager.item_metadata(step)["arrays"].tree
        missing = [name for name in wanted if name not in saved]
        if missing:
            # A partial restore would leave these as they are, without a word.
            raise ValueError(
                f"{self.directory} step {step} does not hold this model's {prefix}: "
                f"{len(missing)} of {len(wanted)} arrays are missing ({', '.join(missing[:3])})"
            )
        try:
            out = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeRestore(
                        wanted,
                        ocp.checkpoint_utils.construct_restore_args(wanted),
                        partial_restore=True,
                    )
                ),
            )
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self.directory} step {step} does not hold this model's {prefix}: {error}"
            ) from error
        leaves = [out["arrays"][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def restore(self, step: int, like) -> tuple[object, dict]:
        """Reads a step back.

        Args:
          step: one that `latest` gave.
          like: the tree of arrays that was saved, with the shardings wanted now (any mesh).
        Returns:
          (arrays in the tree's form, host facts).
        Raises:
          ValueError: if the checkpoint does not hold exactly these arrays.
        """
        wanted = _wanted(like)
        try:
            out = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeRestore(
                        wanted, ocp.checkpoint_utils.construct_restore_args(wanted)
                    ),
                    host=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{self.directory} step {step} does not fit this configuration (model, "
                f"optimiser or estimator differ from the run that wrote it): {error}"
            ) from error
        leaves = [out["arrays"][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), out["host"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _wanted(like) -> dict:
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        for name, x in _named(like).items()
    }


def _named(tree) -> dict:
    """Leaves by path: what is on disk does not depend on classes of ours or of Flax."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {path_name(path): leaf for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves share a path"
    return named
