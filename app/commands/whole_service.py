"""Everything at once in one terminal: embedded servers, stand-in, server and worker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from app.commands.child_processes import ChildProcesses, Role
from app.commands.serving import require_free
from app.commands.stop_signals import asked_to_end
from app.commands.terminal import Terminal
from app.commands.watching import embedded_servers_live, keep_standin, unless_it_raises
from app.environment import with_servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from app.settings import Settings

T = TypeVar("T")

STOP_S: Final = 20.0
"""How long a process may take to stop, beyond the grace that a worker gives to what runs."""


@dataclass(frozen=True, slots=True)
class WholeService:
    """All that runs, while it runs."""

    settings: Settings
    children: ChildProcesses
    terminal: Terminal
    embedded: list[str]
    """The embedded servers of ours that it uses."""

    async def unless_one_ends(self, work: Coroutine[None, None, T]) -> T:
        """Return what `work` returns; server, worker and stand-in are started again when they die meanwhile.

        Raises
        ------
        ProcessEnded
            An embedded database died, or the server does not start: then there is no use in the rest.
        """
        databases = [kind for kind in self.embedded if kind != "standin"]
        watches = [*self.children.watches(), embedded_servers_live(self.settings.data_path, databases)]
        if "standin" in self.embedded:
            watches.append(keep_standin(self.settings.data_path, self.terminal.line))
        return await unless_it_raises(work, *watches)

    @property
    def url(self) -> str:
        """Where the server is."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.api_host, self.settings.api_host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.api_port}"


@asynccontextmanager
async def whole_service(settings: Settings, terminal: Terminal) -> AsyncIterator[WholeService]:
    """Run everything in the block, and stop it in reverse order: worker, server, embedded servers.

    The server is stopped after the worker, so that its clients still hear what becomes of their jobs.
    """
    require_free(settings.api_port, "API_PORT")
    urls = {
        "postgres": settings.database_url.get_secret_value(),
        "redis": settings.redis_url.get_secret_value(),
        "standin": settings.comfyui_urls,
    }
    embedded = [kind for kind, url in urls.items() if not url]
    # What differs from what the processes find themselves: `demo` has a port of its own.
    own = {"API_PORT": str(settings.api_port)}
    environment = ("--env", settings.genonaut_env)
    async with with_servers(settings, comfyui=True) as complete, ChildProcesses(terminal) as children:
        server = Role("app", "app", ("serve", *environment), own, "Genonaut serves", STOP_S, needed=True)
        await children.start(server)
        patience_s = STOP_S + settings.shutdown_grace_seconds
        await children.start(
            Role("worker", "worker", environment, own, "Genonaut worker", patience_s, needed=False, may_leave=True)
        )
        yield WholeService(complete, children, terminal, embedded)


async def up(settings: Settings) -> int:
    """Run everything until Ctrl-C."""
    terminal = Terminal()
    async with whole_service(settings, terminal) as service:
        asked = asked_to_end()
        terminal.line(f"The page will be at {service.url}/monitor/. Ctrl-C stops everything.")
        await service.unless_one_ends(asked.wait())
    return 0
