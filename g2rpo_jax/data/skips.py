"""Which rows could not be used: each counted once, by reason and by file, the first ones quoted."""

import collections
from collections.abc import Iterable, Mapping

MESSAGES_KEPT = 10


class Skips:
    """A run's unusable rows.

    Attributes:
      messages: the first ten complaints, each with file, row and remedy.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, set[int]]] = {}
        self.messages: list[str] = []

    def add(self, file: str, row: int, reason: str, message: str = "") -> bool:
        """Counts a row, unless it was counted before (in an earlier epoch); whether it did."""
        reasons = self._rows.setdefault(file, {})
        if any(row in rows for rows in reasons.values()):
            return False
        reasons.setdefault(reason, set()).add(row)
        if message and len(self.messages) < MESSAGES_KEPT:
            self.messages.append(message)
        return True

    def add_all(self, file: str, rows: Iterable[int], reason: str) -> None:
        """Counts rows that are known to be bad from the file's index."""
        self._rows.setdefault(file, {}).setdefault(reason, set()).update(map(int, rows))

    @property
    def by_reason(self) -> dict[str, int]:
        """Number of rows by reason, in name order."""
        counts: collections.Counter[str] = collections.Counter()
        for reasons in self._rows.values():
            counts.update({reason: len(rows) for reason, rows in reasons.items()})
        return dict(sorted(counts.items()))

    @property
    def by_file(self) -> dict[str, dict[str, int]]:
        """Number of rows by file and reason, in name order; files without bad rows are left out."""
        return {
            file: {reason: len(rows) for reason, rows in sorted(reasons.items())}
            for file, reasons in sorted(self._rows.items())
            if reasons
        }

    def total(self, files: Iterable[str] | None = None) -> int:
        """Number of rows, of some files or of all."""
        chosen = self._rows if files is None else files
        return sum(len(rows) for file in chosen for rows in self._rows.get(file, {}).values())

    def to_json(self) -> dict:
        """What a resumed run needs."""
        rows = {
            file: {reason: sorted(found) for reason, found in reasons.items()}
            for file, reasons in self._rows.items()
        }
        return {"rows": rows, "messages": self.messages}

    def restore(self, saved: Mapping) -> None:
        """Goes on from what `to_json` gave."""
        self._rows = {
            file: {reason: set(rows) for reason, rows in reasons.items()}
            for file, reasons in saved["rows"].items()
        }
        self.messages = list(saved["messages"])
