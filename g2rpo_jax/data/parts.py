"""What every reader of one file gives: rows by place, a code for each, and itself to processes."""

import abc
import threading
from collections.abc import Callable
from typing import Protocol

import numpy as np

# What a file's rows can be known not to be without a look at anything else: negative codes.
BAD_CODES = {
    "wrong_json": -1,
    "not_an_object": -2,
    "unknown_problem_type": -3,
    "unknown_task": -4,
}
Classify = Callable[[object], int]


class Part(Protocol):
    """The rows of one file.

    Attributes:
      path: of the file, or the specification of an embedded set.
      folder: what media paths of its rows start from, unless told otherwise.
      codes: int16 [rows], what `classify` gave for each row, or a value of BAD_CODES.
    """

    path: str
    folder: str
    codes: np.ndarray

    def raw(self, row: int) -> object:
        """The row's value; raises BadRow if its text cannot be read."""

    def where(self, row: int) -> str:
        """File and row, for messages."""


class Reopened(abc.ABC):
    """Opens its file where it is used first: in this process, or in the one it was sent to."""

    def __init__(self):
        self._lock, self._opened = threading.Lock(), None

    def __getstate__(self) -> dict:
        return {k: v for k, v in vars(self).items() if k not in ("_lock", "_opened")}

    def __setstate__(self, state: dict) -> None:
        Reopened.__init__(self)
        vars(self).update(state)

    @abc.abstractmethod
    def _open(self):
        """Opens the file, or makes the rows."""

    @property
    def opened(self):
        """What `_open` gives, opened once."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened
