"""A disk that is full for as long as a test says: no file may grow beyond a limit."""

import contextlib
import resource


@contextlib.contextmanager
def full(limit_bytes: int):
    """Writes beyond `limit_bytes` of any file fail with OSError, as on a full disk (Python ignores
    the signal that comes with it)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
