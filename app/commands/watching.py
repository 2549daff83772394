"""Doing something for as long as what it depends on lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from app.cancellation import end_tasks
from app.domain.errors import GenonautError
from app.embedded.shared import State

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
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


async def embedded_servers_live(data_dir: Path, kinds: Sequence[str]) -> NoReturn:
    """Watch embedded servers, and raise `ProcessEnded` when one is dead: nobody would start it again.

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
    process = State.read(data_dir.resolve() / kind / "state.json").process
    return process if process is not None and process.is_alive() else None
