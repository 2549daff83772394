"""Doing something for as long as what it depends on lives."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from app.commands.restart_policy import Delays, Restarts
from app.domain.errors import GenonautError
from app.embedded.errors import EmbeddedError
from app.embedded.services import Wanted, embedded_services
from app.embedded.shared import State
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from app.embedded.processes import Process

T = TypeVar("T")

LOOK_S: Final = 1.0
"""How often embedded servers are looked at."""
NAMES: Final = {"postgres": "PostgreSQL", "redis": "Redis", "standin": "ComfyUI stand-in"}
"""What the embedded servers are called, by their folders below the data folder."""


class ProcessEnded(GenonautError):
    """A process that should run until it is stopped has ended by itself."""

    code = "process_ended"


async def unless_it_raises(work: Coroutine[None, None, T], *watches: Coroutine[None, None, NoReturn]) -> T:
    """Return what `work` returns; when a watch raises before that, cancel the work and raise it too."""
    working = asyncio.create_task(work)
    watching = [asyncio.create_task(watch) for watch in watches]
    try:
        await asyncio.wait([working, *watching], return_when=asyncio.FIRST_COMPLETED)
        for watch in watching:
            if watch.done():
                watch.result()
        return await working
    finally:
        await end_tasks([working, *watching])


async def keep_standin(data_dir: Path, say: Callable[[str], None], delays: Delays | None = None) -> NoReturn:
    """Watch the embedded stand-in, and start it again on its port when it is dead, after a delay that grows.

    What cannot be mended from here, such as a port in another program's hands, is said, and given up after some tries.
    """
    name, revival = NAMES["standin"], Restarts(delays or Delays())
    # Where its clients look for it.
    port = (await asyncio.to_thread(_state, data_dir, "standin")).port
    revival.came_up()
    async with AsyncExitStack() as last:
        while True:
            await _until_dead(data_dir, "standin")
            if (delay_s := revival.died()) is None:
                say(f"The {name} does not start, and is not started again; everything else goes on.")
                await asyncio.Event().wait()
            else:
                say(f"The {name} has ended by itself; it is started again in {delay_s:g} s.")
                await asyncio.sleep(delay_s)
            async with AsyncExitStack() as fresh:
                try:
                    # A database of its own in the shared server, which its last user stops.
                    await fresh.enter_async_context(embedded_services(Wanted(data_dir, standin_port=port), say))
                except EmbeddedError as error:
                    say(f"The {name}: {error}")
                    continue
                revival.came_up()
                await last.aclose()
                last.push_async_exit(fresh.pop_all())


async def _until_dead(data_dir: Path, kind: str) -> None:
    """Return when an embedded server is dead, at two looks in a row: another process may be starting it anew."""
    dead = 0
    while dead < 2:
        await asyncio.sleep(LOOK_S)
        dead = 0 if await asyncio.to_thread(running_server, data_dir, kind) else dead + 1


async def embedded_servers_live(data_dir: Path, kinds: Sequence[str]) -> NoReturn:
    """Watch embedded servers, and raise `ProcessEnded` when one is dead: nothing would start it again.

    At two looks in a row, because another process may just be starting it anew.
    """
    dead = [False] * len(kinds)
    while True:
        await asyncio.sleep(LOOK_S)
        for place, kind in enumerate(kinds):
            process = await asyncio.to_thread(running_server, data_dir, kind)
            if process is None and dead[place]:
                log = data_dir / kind / "log"
                raise ProcessEnded(f"{NAMES[kind]} has ended by itself; everything is stopped. Its log: {log}")
            dead[place] = process is None


def running_server(data_dir: Path, kind: str) -> Process | None:
    """Return the process of an embedded server of this data folder; None when it does not run."""
    process = _state(data_dir, kind).process
    return process if process is not None and process.is_alive() else None


def _state(data_dir: Path, kind: str) -> State:
    return State.read(data_dir.resolve() / kind / "state.json")
