"""Folders of the store: closed to others, and made durable."""

# Paths are plain text where files are written: pathlib took longer than the system calls that it made.
# ruff: noqa: PTH101, PTH102, PTH112, PTH116, PTH120

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

FOLDER_MODE: Final = 0o750
"""Access for our user and group only, whatever the umask."""


def make_folder(folder: str) -> None:
    """Make a folder, unless it is there; raises `FileNotFoundError` when the one above it is not."""
    try:
        os.mkdir(folder, FOLDER_MODE)
    except FileExistsError:
        return
    # The umask may have removed more permissions. The setgid bit, inherited from the parent folder, is kept.
    with contextlib.suppress(FileNotFoundError):
        given = stat.S_IMODE(os.stat(folder).st_mode)
        if given & 0o777 != FOLDER_MODE:
            os.chmod(folder, FOLDER_MODE | (given & stat.S_ISGID))


def make_folders(folder: str) -> None:
    """Make a folder, and those above it that are missing: of these `os.makedirs` would not mind the mode."""
    if not os.path.isdir(folder):
        with contextlib.suppress(FileNotFoundError):
            make_folder(folder)
            return
        make_folders(os.path.dirname(folder))
        make_folder(folder)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
