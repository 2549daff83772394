"""The embedded PostgreSQL."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Final

import asyncpg

from app.embedded.accounts import can_enter, can_run, make_outside_folder, outside_folder, unprivileged
from app.embedded.binaries import Program, find_postgres
from app.embedded.errors import EmbeddedError
from app.embedded.locks import POLL_S
from app.embedded.ports import HOST
from app.embedded.processes import Account, Command, Process, run_as, server_environment
from app.embedded.shared import Say, Server

USER: Final = "postgres"
DATABASE: Final = "genonaut"
PASSWORD_FILE: Final = "genonaut.password"  # noqa: S105  # a name
"""In the cluster itself, so that both come to be at one moment and neither is without the other."""
MAX_CONNECTIONS: Final = 200
INITDB_S: Final = 120
"""How long the making of a cluster may take."""
LEFTOVER_S: Final = 5.0
"""How long the removal of a half-made one may take; what is left then stays."""
UNSAFE_AND_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Settings for data that may be lost when the machine stops."""


class PostgresServer(Server):
    """A PostgreSQL server with a cluster of its own; by `durable` it survives the machine's stop."""

    name: ClassVar = "PostgreSQL"
    # Fast shutdown, then immediate shutdown, from which it recovers.
    stop_signals: ClassVar = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)

    def __init__(self, folder: Path, *, durable: bool, prefer_wheels: bool) -> None:
        super().__init__(folder)
        self._durable = durable
        self._prefer_wheels = prefer_wheels

    @property
    def _home(self) -> Path:
        """Where the cluster is, or will be unless its user cannot get there."""
        outside = outside_folder(self.folder)
        if os.geteuid() == 0 and (outside / "cluster").exists() and not (self.folder / "cluster").exists():
            return outside
        return self.folder

    @property
    def _cluster(self) -> Path:
        return self._home / "cluster"

    @property
    def _major(self) -> int | None:
        """The major version that made the cluster; None when there is no cluster yet."""
        try:
            return int((self._cluster / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def commands(self, say: Say) -> Iterator[Callable[[int], Command]]:
        """Yield the ways to run it, best first; each has made the cluster, if there was none."""
        prepared, others, faults = False, [], []
        for program in find_postgres(prefer_wheels=self._prefer_wheels):
            if self._major not in (None, program.version[0]):
                others.append(program.title)
                continue
            try:
                command = self._prepare(program, say)
            except _UnfitError as fault:
                faults.append(str(fault))
            else:
                prepared = True
                yield command
        if prepared:
            return  # so one ran, and its log tells why it ended
        if faults:
            raise EmbeddedError(f"no PostgreSQL of this machine will do: {'; '.join(faults)}")
        if others:
            raise EmbeddedError(
                f"{self._cluster} was made by PostgreSQL {self._major}, and this machine has {' and '.join(others)}: "
                f"install PostgreSQL {self._major}, or remove that folder if its data are not needed"
            )
        raise EmbeddedError(
            "no PostgreSQL on this machine: pip install 'genonaut[embedded]', or install the Debian package "
            "postgresql, or set DATABASE_URL"
        )

    def _prepare(self, program: Program, say: Say) -> Callable[[int], Command]:
        home = self._home
        account = self._account(home)
        if account and home == self.folder:
            home.chmod(0o711)  # this one is ours, whatever the umask
        if not (home / "cluster").exists() and not can_enter(account, home):
            home = outside_folder(self.folder)
            say(f"{self.folder} is closed to the user {_name(account)}, so PostgreSQL's data are put into {home}")
            make_outside_folder(home)
        program = _reachable(program, home, account)
        cluster = home / "cluster"
        if cluster.exists():
            _forget_dead_server(cluster / "postmaster.pid")
        else:
            self._make_cluster(program, home, account)
        say(f"starting {program.title} ({program.path}), data in {cluster}")
        return lambda port: self._command(program, cluster, account, port)

    def _account(self, home: Path) -> Account | None:
        """Return the account that runs it: the owner of the cluster, else one that may.

        Raises
        ------
        EmbeddedError
            The cluster belongs to another user, or its owner cannot reach it.
        """
        cluster = home / "cluster"
        if not cluster.exists():
            return unprivileged()
        owner = cluster.lstat().st_uid
        if home != self.folder:
            make_outside_folder(home)  # it exists: whether it is ours
        account = unprivileged(owner)
        if owner != (account.uid if account else os.geteuid()):
            raise EmbeddedError(f"{cluster} belongs to another user (number {owner}): set DATA_DIR or DATABASE_URL")
        if not can_enter(account, cluster):
            raise EmbeddedError(f"{cluster} is out of reach of its user {_name(account)}: a folder above it is closed")
        return account

    def _make_cluster(self, program: Program, home: Path, account: Account | None) -> None:
        """Make the cluster elsewhere and give it its name when it is complete, so that a half one never has it."""
        for leftover in home.glob("making-*"):
            _remove(leftover)
        with TemporaryDirectory(prefix="making-", dir=home) as name:
            cluster, password_file = Path(name) / "cluster", Path(name) / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(secrets.token_urlsafe(24))
            if account:
                os.chown(password_file, account.uid, account.gid)
                os.chown(name, account.uid, account.gid)
            self._initdb(program, cluster, password_file, account)
            cluster.rename(home / "cluster")

    def _initdb(self, program: Program, cluster: Path, password_file: Path, account: Account | None) -> None:
        command = [str(program.path.with_name("initdb")), "-D", str(cluster), "-U", USER, "--encoding", "UTF8"]
        command += ["-A", "scram-sha-256", "--pwfile", str(password_file), "--no-instructions"]
        if not self._durable:
            command.append("--no-sync")
        # The folder is the account's by now: what root moved in it, that account could direct elsewhere.
        script = 'from=$1 to=$2 && shift 2 && "$@" && mv "$from" "$to"'
        shell = ["/bin/sh", "-c", script, "sh", str(password_file), str(cluster / PASSWORD_FILE)]
        told = ""
        for locale in ("C.UTF-8", "C"):  # macOS has no C.UTF-8
            try:
                subprocess.run(  # noqa: S603  # our own words
                    [*shell, *command, "--locale", locale],
                    cwd="/",
                    env=server_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=True,
                    timeout=INITDB_S,
                    umask=0o077,
                    start_new_session=True,
                    **run_as(account),
                )
            except subprocess.CalledProcessError as error:
                told = error.output.strip()
            except (OSError, subprocess.TimeoutExpired) as error:
                told = str(error)
            else:
                return
        raise _UnfitError(f"initdb of {program.title} failed: {told}")

    def _command(self, program: Program, cluster: Path, account: Account | None, port: int) -> Command:
        options = {
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "logging_collector": "off",
            **({} if self._durable else UNSAFE_AND_FAST),
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return Command([str(program.path), "-D", str(cluster), *settings], account=account)

    def is_ready(self, process: Process, port: int) -> bool:
        """Read what pg_ctl reads: the server writes its number and status into the cluster."""
        del port  # it cannot become ready on another one
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready"

    def complete(self, port: int) -> None:
        """Make the database when it is missing."""
        with ThreadPoolExecutor(1) as executor:  # this thread may run an event loop already
            executor.submit(lambda: asyncio.run(self._make_database(port))).result()

    async def _make_database(self, port: int) -> None:
        try:
            connection = await asyncpg.connect(
                host=HOST, port=port, user=USER, password=self._password(), database=USER, ssl=False, timeout=30
            )
            try:
                if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()
        except (asyncpg.PostgresError, OSError) as error:
            raise EmbeddedError(f"PostgreSQL on port {port} cannot be used: {error}") from error

    def _password(self) -> str:
        path = self._cluster / PASSWORD_FILE
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:  # noqa: PTH123  # a link is refused
            return file.read()

    def url(self, port: int) -> str:
        """Return its URL without a driver's name."""
        return f"postgresql://{USER}:{self._password()}@{HOST}:{port}/{DATABASE}"


class _UnfitError(EmbeddedError):
    """One PostgreSQL of the machine will not do; another may."""


def _remove(leftover: Path) -> None:
    """Remove what a killed process left of a cluster.

    Its initdb outlives it and goes on making files, so that a folder can fill again while it is emptied.
    """
    deadline = time.monotonic() + LEFTOVER_S
    while leftover.exists() and time.monotonic() < deadline:
        shutil.rmtree(leftover, ignore_errors=True)
        time.sleep(POLL_S)


def _name(account: Account | None) -> str:
    return account.name if account else f"number {os.geteuid()}"


def _reachable(program: Program, home: Path, account: Account | None) -> Program:
    """Return a program that `account` can run: this one, or a copy in `home` of the wheel's server.

    Raises
    ------
    _UnfitError
        It is the machine's own, and not for that user.
    """
    if can_run(account, program.path.with_name("initdb")):
        return program
    if not program.from_wheel:
        raise _UnfitError(f"{program.path} cannot be run by the user {_name(account)}")
    install = program.path.parents[1]
    packages = install.parents[1]
    copy = home / f"server-{program.version[0]}.{program.version[1]}"
    if not copy.exists():
        with TemporaryDirectory(prefix="making-", dir=home) as name:
            fresh = Path(name) / "server"
            # Linux wheels have their libraries beside the package, those of macOS in it; programs know the way there.
            for folder in (install, install.with_name(".dylibs"), install.parent.with_suffix(".libs")):
                if folder.exists():
                    unneeded = shutil.ignore_patterns("include", "*.a", "pkgconfig")
                    shutil.copytree(folder, fresh / folder.relative_to(packages), symlinks=True, ignore=unneeded)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():  # readable by all, where the wheel was unpacked for one user only
                    path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
            fresh.rename(copy)
    return Program(copy / program.path.relative_to(packages), program.version, program.title, from_wheel=True)


def _forget_dead_server(pid_file: Path) -> None:
    """Remove `postmaster.pid` if its number is by now that of a process which has nothing to do with the cluster.

    PostgreSQL itself would take any process of its user with that number for its server and refuse to start; after the
    restart of a container numbers do come back. A server has the cluster as its working directory.
    """
    try:
        folder = Path(f"/proc/{int(pid_file.read_text().splitlines()[0])}/cwd").readlink()
    except (OSError, ValueError, IndexError):
        return  # there is no such file, process or /proc, or it is not for us to look at: PostgreSQL decides
    if folder != pid_file.parent.resolve():
        pid_file.unlink()
