"""The commands that are one process: the server, the page alone, and a Redis of our own in the foreground."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Final

from app.commands.redis_database import without_password
from app.commands.stop_signals import asked_to_end
from app.commands.watching import embedded_servers_live, unless_it_raises
from app.embedded import Wanted, embedded_services
from app.embedded.ports import free_port, is_free
from app.embedded.redis_server import PASSWORD_FILE, read_config
from app.environment import REDIS_CONFIG, require_ports, say, with_servers
from app.main import PortBusy, create_app, create_monitor_app, run
from app.runtime.gc_tuning import spare_what_lives_long

if TYPE_CHECKING:
    from app.settings import Settings

TEMPLATE_PASSWORD: Final = "change-me"  # noqa: S105  # that it is none is the point
"""What env/redis.conf.example has."""


async def serve(settings: Settings) -> int:
    """Run the server: REST, WebSocket, and the page below /monitor/."""
    require_free(settings.api_port, "API_PORT")
    async with with_servers(settings) as complete:
        app = create_app(complete)
        prepare_for_many_sockets()
        return await run(app, complete, complete.api_port, _migrate_command(complete))


async def monitor(settings: Settings) -> int:
    """Run the page alone."""
    require_free(settings.monitor_port, "MONITOR_PORT")
    async with with_servers(settings) as complete:
        app = create_monitor_app(complete)
        prepare_for_many_sockets()
        return await run(app, complete, complete.monitor_port, _migrate_command(complete))


async def redis_start(settings: Settings) -> int:
    """Run the embedded Redis, with env/redis.conf if there is one, until Ctrl-C; `REDIS_URL` does not matter."""
    config = REDIS_CONFIG if REDIS_CONFIG.is_file() else None
    if config is None:
        say(
            f"There is no env/redis.conf, so this Redis has a random password, which is in "
            f"{settings.data_path / 'redis' / PASSWORD_FILE}: copy env/redis.conf.example to it to choose your own."
        )
    elif read_config(config).get("requirepass") == TEMPLATE_PASSWORD:
        say("The password in env/redis.conf is still the template's: put a real one in.")
    wanted = Wanted(
        data_dir=settings.data_path,
        redis=True,
        redis_port=None if settings.redis_port == 6379 else settings.redis_port,
        redis_config=config,
    )
    require_ports(wanted)
    async with embedded_services(wanted, say) as running:
        url = without_password(running.redis_url or "")
        asked = asked_to_end()
        say(
            f"Redis runs at {url}, its log is {settings.data_path / 'redis' / 'log'}. "
            f"REDIS_URL={url} in env/.env.local, with the password, makes every environment use it. Ctrl-C stops it."
        )
        await unless_it_raises(asked.wait(), embedded_servers_live(settings.data_path, ["redis"]))
    return 0


def require_free(port: int, variable: str) -> None:
    """Raise `PortBusy`, naming the setting that helps, when something listens on the port."""
    if not is_free(port):
        raise PortBusy(
            f"Port {port} is in use by another program: end that, or set {variable} to a free port, "
            f"for example {variable}={free_port()}."
        )


def prepare_for_many_sockets() -> None:
    """Raise the limit of open files to the system's maximum, and reduce garbage collection.

    With ten thousand sockets a full collection stops the server for half a second, and while they are opened one would
    run for every thousand. So long-lived objects are excluded from collection, and the rest is collected less often.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # A hard limit of "none" may be more than the kernel gives.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    spare_what_lives_long()


def _migrate_command(settings: Settings) -> str:
    return f"make migrate-{settings.genonaut_env}"
