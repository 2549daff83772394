"""What an environment needs around our processes: embedded servers for every URL that is not set."""

from __future__ import annotations

import logging
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError
from pydantic import SecretStr

from app.embedded.errors import EmbeddedError
from app.embedded.ports import free_port, is_free
from app.embedded.services import Wanted, embedded_services
from app.embedded.shared import State
from app.settings import ROOT
from app.storage.database import HEAD, Database, make_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.settings import Settings

log = logging.getLogger(__name__)

REDIS_CONFIG: Final = ROOT / "env" / "redis.conf"


@asynccontextmanager
async def with_servers(
    settings: Settings, *, postgres: bool = True, redis: bool = True, comfyui: bool = False, migrated: bool = True
) -> AsyncIterator[Settings]:
    """Have the servers that are asked for running, and yield the settings with their URLs.

    A URL that is set is taken as it is. Otherwise a server of our own is started, or shared with the other processes
    of this environment; an embedded PostgreSQL is migrated by itself, unless `migrated` is False.

    Raises
    ------
    EmbeddedError
        One cannot be had.
    """
    wanted = Wanted(
        data_dir=settings.data_path,
        postgres=postgres and not settings.database_url.get_secret_value(),
        redis=redis and not settings.redis_url.get_secret_value(),
        standin_port=settings.standin_port if comfyui and not settings.comfyui_urls else None,
        redis_port=None if settings.redis_port == 6379 else settings.redis_port,
        redis_config=REDIS_CONFIG if REDIS_CONFIG.is_file() else None,
    )
    require_ports(wanted)
    async with embedded_services(wanted, say) as running:
        found: dict[str, object] = {}
        if running.database_url:
            found["database_url"] = SecretStr(running.database_url)
        if running.redis_url:
            found["redis_url"] = SecretStr(running.redis_url)
        if running.standin_url:
            found["comfyui_urls"] = f"standin={running.standin_url}"
        completed = settings.model_copy(update=found)
        if running.database_url and migrated:
            await _migrate(completed)
        yield completed


async def _migrate(settings: Settings) -> None:
    engine = make_engine(settings)
    try:
        revision = await Database(engine).schema_revision()
    finally:
        await engine.dispose()
    if revision != HEAD:
        # Only the process that comes first needs alembic.
        from app.storage.migrating import migrate

        await migrate(settings)


def require_ports(wanted: Wanted) -> None:
    """Raise `EmbeddedError`, naming the setting that helps, when a stranger has a port that a server must have."""
    redis_port = wanted.redis_port if wanted.redis else None
    ports = (("standin", wanted.standin_port, "STANDIN_PORT"), ("redis", redis_port, "REDIS_PORT"))
    for kind, port, setting in ports:
        if not port:
            continue
        ours = State.read(wanted.data_dir.resolve() / kind / "state.json").process
        if not (ours and ours.is_alive()) and not is_free(port):
            raise EmbeddedError(
                f"Port {port} is in use by another program: end that, or set {setting} to a free port, "
                f"for example {setting}={free_port()}."
            )


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, one line a record."""
    logging.basicConfig(
        level=settings.log_level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(without_traceback_of_nonsense)
    if settings.log_level != "DEBUG":
        # arq tells of every turn; what happens to jobs is in PostgreSQL.
        logging.getLogger("arq").setLevel(logging.WARNING)
        logging.getLogger("PIL").setLevel(logging.WARNING)


def without_traceback_of_nonsense(record: logging.LogRecord) -> bool:
    """Make one line without alarm of a request that is no HTTP: it is the sender's fault, and anyone can send it."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, HttpProcessingError | RequestPayloadError):
        first = " ".join(str(error).split())[:200]
        record.msg, record.args, record.exc_info = "a request was no HTTP: %s", (first,), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True
