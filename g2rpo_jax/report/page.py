"""report.html: a whole run in one file that needs no network."""

from pathlib import Path


def write_page(workdir: Path, defaults: dict | None = None) -> Path:
    """Stub."""
    raise NotImplementedError
