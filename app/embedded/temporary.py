"""A data folder for servers that are to leave nothing behind: for tests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from app.embedded.accounts import outside_folder


@contextmanager
def temporary_data_dir() -> Iterator[Path]:
    """Have a data folder that is removed in the end, when the servers in it have to be stopped.

    Unlike pytest's `tmp_path` it can be entered by the user that PostgreSQL runs as instead of root.
    """
    with TemporaryDirectory(prefix="genonaut-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        try:
            yield folder
        finally:
            # Where the data went if the folder for temporary files is itself closed.
            shutil.rmtree(outside_folder(folder / "postgres"), ignore_errors=True)
