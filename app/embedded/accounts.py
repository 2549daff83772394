"""Which user a server runs as that refuses to run as root, and what that user can reach."""

import os
import pwd
import stat
import subprocess
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from app.embedded.errors import EmbeddedError
from app.embedded.processes import Account, run_as, server_environment

CANDIDATES: Final = ("postgres", "nobody")
"""Existing users a server of root's may run as, best first: we never add one."""
OUTSIDE: Final = Path("/var/tmp")  # noqa: S108  # what stands there is checked, and it outlives a reboot
"""Where a server's folder is put when its user cannot reach the right one."""


def unprivileged(owner: int | None = None) -> Account | None:
    """Return who is to run a server instead of root; None when we are not root.

    Parameters
    ----------
    owner
        Id of the user who owns the server's data, if there are any.

    Raises
    ------
    EmbeddedError
        This machine has none of the users in question.
    """
    if os.geteuid() != 0:
        return None
    try:
        if owner:
            return _account(pwd.getpwuid(owner))
    except KeyError as error:
        raise EmbeddedError(f"the data belongs to user {owner}, who is unknown on this machine") from error
    for name in CANDIDATES:
        try:
            return _account(pwd.getpwnam(name))
        except KeyError:
            continue
    raise EmbeddedError(
        f"PostgreSQL does not run as root, and this machine has no user {' or '.join(CANDIDATES)}: "
        "run as another user, or set DATABASE_URL"
    )


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def give(account: Account | None, folder: Path) -> None:
    """Make a folder of root's, with all that is in it, the account's; one that is the account's already stays."""
    if account is None or folder.lstat().st_uid != os.geteuid():
        return
    # Everything in it before the folder itself: once that is the account's, links in it could lead elsewhere.
    for path in sorted(folder.rglob("*"), reverse=True):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid, follow_symlinks=False)


def can_enter(account: Account | None, folder: Path) -> bool:
    """Whether `account` gets into `folder`, past everything above it; the system is asked, so that ACLs count too."""
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    return _succeeds(command, account)


def can_run(account: Account | None, program: Path) -> bool:
    """Whether `account` can run `program`."""
    return _succeeds([str(program), "--version"], account)


def _succeeds(command: list[str], account: Account | None) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  # our own words
            command,
            cwd="/",
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=10,
            **run_as(account),
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def outside_folder(folder: Path) -> Path:
    """Return the name of the folder that stands in for `folder` where everybody can reach it."""
    return OUTSIDE / f"genonaut-{os.geteuid()}-{sha256(os.fsencode(folder)).hexdigest()[:16]}"


def make_outside_folder(path: Path) -> None:
    """Make a folder that others can pass through, but neither list nor change.

    It belongs to us and not to the server's user, so that what we do in it cannot be led elsewhere by that user.

    Raises
    ------
    EmbeddedError
        Another user made it, which is possible in a folder that everyone may write to.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EmbeddedError(f"{path} was not made by us, and is not used: remove it, or set DATA_DIR or DATABASE_URL")
    path.chmod(0o711)  # whatever the umask
