"""A data folder for servers that are to leave nothing behind: for tests."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from app.embedded.accounts import outside_folder

_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a folder of its own is made in it
_ROOM_BYTES: Final = 2 * 2**30
_TRIES: Final = 50
_AGAIN_S: Final = 0.1


@contextmanager
def temporary_data_dir(*, in_memory: bool = False) -> Iterator[Path]:
    """Have a data folder that is removed in the end, when the servers in it have to be stopped.

    Unlike pytest's `tmp_path` it can be entered by the user that PostgreSQL runs as instead of root. `in_memory`: not
    on a disk, if the system has a folder that is not, with room for some databases: ext4 takes the longer to make a
    file the more were deleted a moment ago, and a database is 300 of them.
    """
    folder = Path(mkdtemp(prefix="genonaut-", dir=_in_memory() if in_memory else None)).resolve()
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        # Where the data went if the folder for temporary files is itself closed.
        shutil.rmtree(outside_folder(folder / "postgres"), ignore_errors=True)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, into which a server that has just been ended may still write: a child of Redis that saves."""
    for _ in range(_TRIES):
        try:
            shutil.rmtree(folder)
        except OSError:
            time.sleep(_AGAIN_S)
        else:
            return
    shutil.rmtree(folder)


def _in_memory() -> Path | None:
    """Return the folder, or None for the usual one."""
    try:
        return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES else None
    except OSError:
        return None
