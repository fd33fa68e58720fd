"""Saving and restoring a run: device arrays and host facts of one step together, with Orbax.

A checkpoint is written under a temporary name while training goes on. Once all of it is on disk it
is sealed, with the size and CRC-32 of every file, and only then gets its name: one that has a name
is whole, and what happened to it later shows. Orbax alone would read a flipped bit as a number.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from g2rpo_jax.parallel.rules import path_name

SEAL = "checksums.json"
ASIDE = "damaged"  # the folder for damaged checkpoints that a resumed run left behind
READERS = 8  # threads that compute checksums
LATE = (SEAL, "_CHECKPOINT_METADATA")  # Orbax writes its times when all else is done; not needed
_UNFINISHED = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of one run; asynchronous, atomic, checked before they are used.

    Saving that fails (a full disk) does not raise: it is logged once, counted, and what it left is
    removed; older checkpoints stay, and the next save tries again. Of several processes the first
    looks for room before all of them write; a write that fails all the same ends the run.

    Attributes:
      failures: saves that failed since construction.
      error: why the newest save failed, or None.
    """

    def __init__(self, directory: Path, keep: int | None, keep_best: int = 0):
        """Opens a folder, new or not.

        Args:
          keep: the newest this many are kept; None for readers, who leave the folder as it is.
          keep_best: so many more are kept, of those saved with the highest accuracies.
        """
        self.directory = Path(directory).resolve()
        self._keep, self._keep_best = keep, keep_best
        self.failures, self.error = 0, None
        self._saving: int | None = None
        logging.get_absl_logger().addFilter(_worth_reading)
        self._clean()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        # Writing a share of each replicated array from every device would compile a slice of every
        # shape in the middle of a run; the first replica writes instead.
        arrays = ocp.PyTreeCheckpointHandler(
            type_handler_registry=ocp.type_handlers.create_type_handler_registry(
                (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False))
            )
        )
        kept = [preservation_policy.LatestN(self._keep)]
        if self._keep_best:
            best = preservation_policy.BestN(
                get_metric_fn=_accuracy, n=self._keep_best, keep_checkpoints_without_metrics=False
            )
            kept.append(best)
        return ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(kept),
                best_fn=_accuracy if self._keep_best else None,
                enable_async_checkpointing=True,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_handlers={"arrays": arrays, "host": ocp.JsonCheckpointHandler()},
        )

    def save(self, step: int, arrays, host: dict, accuracy: float | None = None) -> None:
        """Starts writing; a step that is already there is left alone.

        Args:
          step: steps finished.
          arrays: any tree of device arrays.
          host: what JSON can hold: data position, surplus rows, configuration.
          accuracy: of this step's held-out evaluation, if it had one; what `keep_best` goes by.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        self._clean()  # the writes that were under way when one failed may have come after that
        if jax.process_count() > 1 and not self._room(arrays):
            self._report(step, "not enough room on the disk")
            return
        self._saving = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeSave(_named(arrays)), host=ocp.args.JsonSave(host)
                ),
                metrics=None if accuracy is None else {"accuracy": float(accuracy)},
            )
        except Exception as error:
            self._saving = None
            self.failed(step, error)

    def poll(self) -> None:
        """Notes a save that has ended, well or not; waits for none that is under way."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when no save is under way."""
        if self._saving is None:
            return
        step = self._saving
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._saving = None
            self.failed(step, error)
        else:
            self._saving, self.error = None, None

    def failed(self, step: int, error: Exception) -> None:
        """Reports and counts a save that failed, and makes the folder fit for the next one."""
        if isinstance(error, TypeError):  # a host fact that JSON cannot hold
            raise error
        if jax.process_count() > 1:
            raise error  # the other processes would wait for this one's part for ever
        # What failed in one thread of the manager is raised again later by another: it goes.
        for _ in range(3):
            with contextlib.suppress(Exception):
                self._manager.close()
                break
        self._clean()
        self._manager = self._open()
        self._report(step, _reason(error))

    def _report(self, step: int, reason: str) -> None:
        self.failures += 1
        self.error = reason
        newest = self.latest()
        logging.error(
            "the checkpoint of step %d could not be written to %s (%s). Training goes on; %s",
            step,
            self.directory,
            self.error,
            "there is no checkpoint yet" if newest is None else f"the newest is of step {newest}",
        )

    def latest(self) -> int | None:
        """The newest step that has a checkpoint, checked or not; None if there is none."""
        return max(self._manager.all_steps(), default=None)

    def steps(self) -> list[int]:
        """All steps that have a checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def newest_sound(self) -> int | None:
        """The newest step whose checkpoint is as it was written, or None if there is none at all.

        Damaged ones that are newer are named in a warning and put aside (in `damaged/`), so that
        the run can write these steps again. Every process of a run calls this, and gets the same.
        Raises:
          ValueError: there are checkpoints, and all of them are damaged.
        """
        found, bad = None, {}
        if jax.process_index() == 0:
            for step in reversed(self.steps()):
                reason = damage(self.directory / str(step))
                if reason is None:
                    found = step
                    break
                bad[step] = reason
        code = _from_first_process(-1 - bool(bad) if found is None else found)
        if code == -2:
            listed = "".join(f"\n  step {step}: {reason}" for step, reason in bad.items())
            raise ValueError(
                f"every checkpoint in {self.directory} is damaged:{listed}\n"
                "Restore one from a backup, or remove the folder to begin again"
            )
        for step, reason in bad.items():
            logging.warning(
                "the checkpoint of step %d is damaged (%s): using step %d", step, reason, found
            )
            if self._keep is not None:
                aside = self.directory / ASIDE / str(step)
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                os.replace(self.directory / str(step), aside)
        _from_first_process(0)  # nobody looks before all have been put aside
        self._manager.reload()
        return None if code == -1 else code

    def host(self, step: int) -> dict:
        """The host facts of a step alone."""
        return self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore()))[
            "host"
        ]

    def restore_part(self, step: int, like, prefix: str):
        """Reads one branch of a saved tree of arrays, such as a run's `params`.

        Args:
          like: the branch, with the shardings wanted now.
          prefix: where it hangs in the saved tree.
        Returns:
          arrays in the branch's form.
        Raises:
          ValueError: if the checkpoint is damaged or does not hold these arrays under `prefix`.
        """
        reason = damage(self.directory / str(step))
        if reason:
            raise ValueError(f"the checkpoint of step {step} in {self.directory}: {reason}")
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
          step: one that `newest_sound` gave.
          like: the tree of arrays that was saved, with the shardings wanted now (any mesh).
        Returns:
          (arrays in the tree's form, host facts).
        Raises:
          ValueError: if the checkpoint does not hold exactly these arrays.
        """
        wanted = _wanted(like)
        saved = self._manager.item_metadata(step)["arrays"].tree
        differing = _differing(saved, wanted)
        if differing:
            raise ValueError(
                f"{self.directory} step {step} does not fit this configuration (model or optimiser "
                f"differ from the run that wrote it): {'; '.join(differing[:3])}"
                + (f"; {len(differing) - 3} more" if len(differing) > 3 else "")
            )
        out = self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeRestore(
                    wanted, ocp.checkpoint_utils.construct_restore_args(wanted)
                ),
                host=ocp.args.JsonRestore(),
            ),
        )
        leaves = [out["arrays"][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), out["host"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self.wait()
        self._manager.close()

    def _room(self, arrays) -> bool:
        """Whether the first process sees room for all arrays. Several processes look before they
        write: one that failed half way would leave the others waiting."""
        needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))
        free = shutil.disk_usage(self.directory).free if jax.process_index() == 0 else 0
        return bool(_from_first_process(int(free > needed)))

    def _seal(self) -> None:
        """Called by Orbax's thread, in the first process: all is written, nothing has its name."""
        step = self._saving
        unfinished = self.directory / f"{step}{_UNFINISHED}"
        seal(unfinished if unfinished.exists() else self.directory / str(step))

    def _clean(self) -> None:
        """Removes what killed or failed saves have left."""
        if self._keep is not None and jax.process_index() == 0:
            for path in self.directory.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(path, ignore_errors=True)


def seal(folder: Path) -> None:
    """Writes `checksums.json`: size in bytes and CRC-32 of every file of a folder."""
    folder = Path(folder)
    files = [path for path in _files(folder) if path.name not in LATE]
    with ThreadPoolExecutor(READERS) as pool:
        sums = list(pool.map(_checksum, files))
    listed = {path.relative_to(folder).as_posix(): s for path, s in zip(files, sums, strict=True)}
    with (folder / SEAL).open("w") as file:
        json.dump(listed, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in words that name the file; None if nothing is.

    Reads every file. Files that came later do not matter.
    """
    folder = Path(folder)
    try:
        listed = json.loads((folder / SEAL).read_text())
        sealed = {folder / name: (size, crc) for name, (size, crc) in listed.items()}
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{SEAL} cannot be read ({error})"
    for path, (size, _) in sealed.items():  # quick, so first
        name = path.relative_to(folder)
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    with ThreadPoolExecutor(READERS) as pool:
        for path, found in zip(sealed, pool.map(_checksum_or_error, sealed), strict=True):
            if isinstance(found, OSError):
                return f"{path.relative_to(folder)} cannot be read ({found})"
            if tuple(found) != tuple(sealed[path]):
                return f"{path.relative_to(folder)} is not what was written (its checksum differs)"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _checksum(path: Path) -> list[int]:
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


def _checksum_or_error(path: Path) -> list[int] | OSError:
    try:
        return _checksum(path)
    except OSError as error:
        return error


def _differing(saved: dict, wanted: dict) -> list[str]:
    """Where two trees of arrays, by name, have other names, shapes or types."""
    out = [f"{name} is not in the checkpoint" for name in wanted if name not in saved]
    out += [f"{name} is only in the checkpoint" for name in saved if name not in wanted]
    for name in sorted(set(saved) & set(wanted)):
        there = (tuple(saved[name].shape), np.dtype(saved[name].dtype))
        here = (tuple(wanted[name].shape), np.dtype(wanted[name].dtype))
        if there != here:
            out.append(f"{name} is {there[1]}{list(there[0])} there, {here[1]}{list(here[0])} here")
    return out


def _reason(error: Exception) -> str:
    """What the system said, out of the page that TensorStore makes of it."""
    text = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", text)
    if code:
        return os.strerror(int(code[1]))
    return text[:300] or type(error).__name__


def _accuracy(metrics: dict) -> float:
    return metrics["accuracy"]


def _from_first_process(value: int) -> int:
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _worth_reading(record) -> bool:
    """A log filter: failures of Orbax are told in a sentence, not as a dozen tracebacks."""
    if "/orbax/" not in record.pathname:
        return True
    return record.levelname != "ERROR" and "tracked_metric" not in str(record.msg)


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
