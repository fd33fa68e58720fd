"""What the launchers share: where a run goes, and errors as one sentence instead of a traceback."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging


def run_name(config_flag: str) -> str:
    """'configs/onethinker.py:tiny' -> 'onethinker_tiny'."""
    path, _, variant = config_flag.partition(":")
    return Path(path).stem + (f"_{variant}" if variant else "")


def workdir_of(flag: str | None, name: str, resume: bool, requeue: bool = False) -> Path:
    """The folder of a run.

    Without a flag: runs/<name>, or runs/<name>-2, -3, ... where those hold runs already; the
    newest of them when resuming. With `requeue` a named folder may hold a run or not.
    Raises:
      ValueError: if a named folder already holds a run and `resume` is off, or the other way round;
        `requeue` without a flag.
    """
    if requeue and not flag:
        raise ValueError("--requeue needs --workdir: the job must find its run again")
    if requeue:
        folder = Path(flag)
    elif flag:
        folder = Path(flag)
        holds = (folder / "config.json").exists()
        if holds and not resume:
            raise ValueError(
                f"{folder} already holds a run: add --resume to go on, or name another --workdir"
            )
        if resume and not holds:
            raise ValueError(f"{folder} holds no run to resume")
    else:
        taken = [Path("runs") / name]
        while (taken[-1] / "config.json").exists():
            taken.append(Path("runs") / f"{name}-{len(taken) + 1}")
        if resume and len(taken) == 1:
            raise ValueError(f"{taken[0]} holds no run to resume: name it with --workdir")
        folder = taken[-2] if resume else taken[-1]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse(argv: list[str]) -> list[str]:
    """Parses flags; an error in flags or config file is one line that names the field."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # A config file's own error comes wrapped in a traceback: its last line is what matters.
        text = str(error).strip()
        known = [line.strip() for line in text.splitlines() if "Error: " in line]
        sys.exit(f"error: {known[-1] if known else text}")
    except (AttributeError, KeyError, TypeError) as error:
        reason = error
        while isinstance(reason, Exception) and reason.args:
            reason = reason.args[0]
        message = " ".join(str(reason).split())
        sys.exit(f"error: no such config field: {_misspelt(argv, message)}")


def _misspelt(argv: list[str], message: str) -> str:
    """`message`, which names a field between quotes, with the whole flag that holds the field."""
    for argument in argv[1:]:
        path = argument.lstrip("-").partition("=")[0].split(".")
        for depth, name in enumerate(path):
            if path[0] == "config" and f"'{name}'" in message:
                return f"--{'.'.join(path[: depth + 1])}: {message}"
    return message


def main(job: Callable[[], None], argument: str | None = None) -> None:
    """Runs `job` under absl; a ValueError (bad input, already worded for the user) exits with 1.

    Args:
      argument: the flag that one bare argument sets (`report.py runs/x`); None takes none.
    """

    def guarded(argv: list[str]) -> None:
        if argument and len(argv) > 1 and flags.FLAGS[argument].value is None:
            flags.FLAGS[argument].value = argv.pop(1)
        if len(argv) > 1:
            sys.exit(f"unexpected argument {argv[1]!r}: flags are written --name=value")
        try:
            job()
        except ValueError as error:
            if os.environ.get("G2RPO_TRACEBACK"):
                raise
            sys.exit(f"error: {error}")

    logging.set_verbosity(logging.WARNING)
    flags.FLAGS.set_default("logtostderr", True)
    app.run(guarded, flags_parser=parse)
