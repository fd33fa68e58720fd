"""Where each row of a .json or .jsonl file stands, found in one pass that keeps nothing else.

A file is read in windows decoded as Latin-1, so that a character's offset is its byte's; the C
scanner of `json` then finds where each value ends. Structure is ASCII in any UTF-8 text, so offsets
are right whatever stands inside strings.
"""

import json
import os
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WINDOW = 4 << 20  # bytes read at a time
MOST = 64 << 20  # bytes of one row: more is a file cut off inside a string, or no rows at all
SPACE = re.compile(r"[ \t\n\r]*")
BOM = b"\xef\xbb\xbf"
# Integers as floats: thousands of digits are JSON, but Python refuses to make an int of them.
DECODE = json.JSONDecoder(parse_int=float)


@dataclass(frozen=True)
class Index:
    """The rows of a file, in their order.

    Fields:
      start, stop: int64 [rows], bytes of the row's JSON text: start <= i < stop.
      code: int16 [rows], what `classify` gave for the row.
      line: int32 [rows], numbers from 1 of the lines of a .jsonl file; None for a list.
    """

    start: np.ndarray
    stop: np.ndarray
    code: np.ndarray
    line: np.ndarray | None


class _Found:
    """An Index under construction."""

    def __init__(self, classify: Callable[[object], int]):
        self._classify = classify
        self._start, self._stop = array("q"), array("q")
        self._code, self._line = array("h"), array("i")

    def __len__(self) -> int:
        return len(self._start)

    def add(self, start: int, stop: int, code: int | None, value: object, line: int = 0) -> None:
        self._start.append(start)
        self._stop.append(stop)
        self._code.append(self._classify(value) if code is None else code)
        if line:
            self._line.append(line)

    def done(self) -> Index:
        return Index(
            np.array(self._start, np.int64),
            np.array(self._stop, np.int64),
            np.array(self._code, np.int16),
            np.array(self._line, np.int32) if len(self._line) else None,
        )


def index(path: str, classify: Callable[[object], int], wrong: int) -> Index:
    """Finds the rows of a file: lines of JSON, a list, or an object that holds one list.

    Args:
      path: lines are expected of a name that ends in .jsonl, and found by themselves in others.
      classify: a row's value -> its code. Values are as `json` reads them, except that integers are
        floats and text beyond ASCII is read as Latin-1.
      wrong: the code of a line that is not JSON.
    Raises:
      ValueError: the file is cut off or wrong in the middle of a list, naming byte and row, or it
        holds neither lines nor a list.
    """
    found = _Found(classify)
    with open(path, "rb") as file:
        head = file.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is UTF-16 text: save it as UTF-8")
        start = len(BOM) if head.startswith(BOM) else 0
        if path.endswith(".jsonl") or _holds_lines(file, start):
            _index_lines(file, start, found, wrong)
        else:
            _Scanner(file, start, path, found).scan()
    return found.done()


def _holds_lines(file, start: int) -> bool:
    """Whether a file that is not called .jsonl holds an object a line all the same."""
    file.seek(start)
    first = b""
    while line := file.readline(MOST):
        if not line.strip():
            continue
        if not line.lstrip().startswith(b"{"):
            return False
        if first:
            return True
        try:
            DECODE.decode(str(line, "latin-1"))
        except (ValueError, RecursionError):
            return False
        first = line
    return False


def _index_lines(file, start: int, found: _Found, wrong: int) -> None:
    file.seek(start)
    at, number = start, 0
    while line := file.readline(MOST):
        size, whole = len(line), True
        while not line.endswith(b"\n") and (more := file.readline(MOST)):
            size, whole, line = size + len(more), False, more
        number += 1
        if not whole:
            found.add(at, at + min(size, MOST), wrong, None, number)
        elif text := line.strip(b" \t\r\n"):
            try:
                value, code = DECODE.decode(str(text, "latin-1")), None
            except (ValueError, RecursionError):
                value, code = None, wrong
            found.add(at, at + size, code, value, number)
        at += size


class _Scanner:
    """Walks over a list of rows with a window of text; `_pos` is the cursor in it."""

    def __init__(self, file, start: int, path: str, found: _Found):
        self._file, self._path, self._found = file, path, found
        self._size = os.fstat(file.fileno()).st_size
        self._base, self._pos, self._text = start, 0, ""

    def scan(self) -> None:
        opening = self._peek()
        if opening == "[":
            self._list()
        elif opening == "{":
            self._object()
        elif not opening:
            raise ValueError(f"{self._path} is not JSON: it is empty; fetch it again")
        else:
            kind = type(self._value()[0]).__name__
            raise ValueError(f"{self._path} holds a {kind}, but a list of rows is expected")
        if self._peek():
            self._fail("text follows the end of the list")

    def _object(self) -> None:
        """An object with one list among its values: the rows."""
        lists, key = 0, None
        self._pos += 1
        while (sign := self._peek()) != "}":
            if key is not None:
                self._expect(sign, ",")
                sign = self._peek()
            self._expect(sign, '"')
            key = self._value()[0]
            self._expect(self._peek(), ":")
            if self._peek() != "[":
                self._value()
                continue
            lists += 1
            if lists > 1:
                raise ValueError(
                    f"{self._path} holds an object with more than one list (the second is "
                    f"{key!r}): keep the list of rows alone"
                )
            self._list()
        self._pos += 1
        if not lists:
            raise ValueError(
                f"{self._path} holds a dict, but a list of rows, or an object with one, is expected"
            )

    def _list(self) -> None:
        self._pos += 1
        first = True
        while (sign := self._peek()) != "]":
            if not first:
                self._expect(sign, ",")
                self._peek()
            value, start, stop = self._value()
            self._found.add(start, stop, None, value)
            first = False
        self._pos += 1

    def _expect(self, found: str, wanted: str) -> None:
        if found != wanted:
            self._fail(f"{wanted!r} is expected, found {found!r}" if found else "it ends there")
        if wanted != '"':  # which is the value's own
            self._pos += 1

    def _peek(self) -> str:
        """The next character that is no space, now under the cursor; "" at the end of the file."""
        while True:
            self._pos = SPACE.match(self._text, self._pos).end()
            if self._pos < len(self._text):
                return self._text[self._pos]
            if self._at_end():
                return ""
            self._widen()

    def _value(self) -> tuple[object, int, int]:
        """(value, first byte, byte after the last) of the value under the cursor, then past it."""
        while True:
            try:
                value, stop = DECODE.raw_decode(self._text, self._pos)
                # A number near the window's end may go on behind it: of `1e+5` cut before the 5,
                # the decoder takes the 1.
                if stop + 2 < len(self._text) or self._at_end():
                    break
            except (ValueError, RecursionError) as error:
                if self._at_end() or len(self._text) - self._pos >= MOST:
                    at = error.pos if isinstance(error, json.JSONDecodeError) else self._pos
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                    self._pos = max(at, self._pos)
                    self._fail("it ends there" if at >= len(self._text) else reason)
            self._widen()
        start, self._pos = self._pos, stop
        return value, self._base + start, self._base + stop

    def _at_end(self) -> bool:
        return self._base + len(self._text) >= self._size

    def _widen(self) -> None:
        """Begins the window at the cursor and doubles what lies behind it."""
        size = max(WINDOW, 2 * (len(self._text) - self._pos))
        self._base += self._pos
        self._pos = 0
        self._file.seek(self._base)
        self._text = str(self._file.read(size), "latin-1")

    def _fail(self, reason: str) -> None:
        raise ValueError(
            f"{self._path} is not JSON at byte {self._base + self._pos}, in row "
            f"{len(self._found)} ({reason}): it may be cut off; fetch it again"
        )
