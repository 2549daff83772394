"""Locks on files, which the kernel releases when their holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.embedded.errors import EmbeddedError

LOCK_WAIT_S: Final = 120.0
"""How long to wait for another process to finish starting or stopping a server."""
POLL_S: Final = 0.01
"""Seconds between two looks at something that cannot be waited for."""


class FileLock:
    """One holder's open file to lock; two in one process exclude each other like two processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Never inherited: a server that kept it open would be its own user for ever.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock alone.

        Raises
        ------
        EmbeddedError
            Another process holds it longer than any start takes.
        """
        self._wait_for(fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def share(self) -> None:
        """Hold the lock together with others, until `close`."""
        self._wait_for(fcntl.LOCK_SH)

    def take_over(self) -> bool:
        """Try to turn a shared lock into one held alone; either way it is no longer shared by us."""
        return self._try(fcntl.LOCK_EX)

    def is_current(self) -> bool:
        """Whether the path still names the file that is locked; not when the folder was removed."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def close(self) -> None:
        """Release the lock, also when a forked child still has the file open."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._fd, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_for(self, operation: int) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not self._try(operation):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"another process has been holding {self._path} for {LOCK_WAIT_S:.0f} s")
            time.sleep(POLL_S)
