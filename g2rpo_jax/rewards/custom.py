"""Rewards by dotted path, `my_module:my_reward`. Imported and called in child processes alone.

my_reward(response, answer, problem_type, data_type) -> accuracy in [0, 1],
    or {"accuracy": .., "format": .., "structure": ..}, or None: the built-in reward decides
"""

import importlib
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from g2rpo_jax import tables

PARTS = ("accuracy", "format", "structure")


class NoReward(Exception):
    """A dotted path that leads to no function; its text says what to do."""


class BadValue(Exception):
    """What a custom reward returned is no score."""


def resolve(path: str) -> Callable[..., Any]:
    """The function at "module:function"; the current directory is searched first.

    Raises:
      NoReward: the module is not found or fails to import, or has no such function.
    """
    try:
        return _resolve(path)
    except NoReward as problem:
        raise NoReward(f"custom reward {path!r}: {problem}") from None


def _resolve(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    here = os.getcwd()
    # In front while the module is imported, as for a script there; behind everything afterwards, so
    # that a stray math.py is not taken for the standard library's by what is imported later.
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise NoReward(
                f"there is no module {error.name!r} in {here} or on sys.path: start from the "
                "folder that holds it, or set PYTHONPATH"
            ) from None
        raise NoReward(f"module {module_name!r} imports {error.name!r}, which is missing") from None
    except MemoryError:
        raise NoReward(
            f"module {module_name!r} takes too much memory to import: raise reward.memory_mb"
        ) from None
    except BaseException as error:
        raise NoReward(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    finally:
        sys.path.remove(here)
        sys.path.append(here)
    function = getattr(module, name, None)
    if callable(function):
        return function
    functions = [key for key, value in vars(module).items() if callable(value)]
    hint = tables.nearest(name, functions) or ": define it there"
    raise NoReward(f"module {module_name!r} ({module.__file__}) has no function {name!r}{hint}")


def checked(value: Any) -> dict[str, float] | None:
    """The parts that a custom reward returned; accuracy is among them; None: "not mine".

    Raises:
      BadValue: something else than one number, or a dict of numbers under PARTS with accuracy, all
        finite and in [0, 1].
    """
    if value is None:
        return None
    parts = value if isinstance(value, dict) else {"accuracy": value}
    if "accuracy" not in parts:
        raise BadValue("the dict has no 'accuracy'")
    unknown = [key for key in parts if key not in PARTS]
    if unknown:
        raise BadValue(f"unknown part {str(unknown[0])[:40]!r}; known: {', '.join(PARTS)}")
    return {name: _number(name, part) for name, part in parts.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        raise BadValue(f"{name} is a {type(value).__name__}, not a number")
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise BadValue(f"{name} is a {type(value).__name__} that is no float") from None
    if not math.isfinite(number) or not 0.0 <= number <= 1.0:
        raise BadValue(f"{name} is {number}, not in [0, 1]")
    return number
