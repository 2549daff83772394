"""Our own processes below this one: started, shown under their names, watched, and stopped in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Self

from app.cancellation import end_tasks
from app.commands.interruption import on_signal
from app.commands.watching import ProcessEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from app.commands.terminal import Terminal

KEPT_LINES: Final = 200
"""So many last lines of each process are remembered."""
LINE_BYTES: Final = 64 * 1024
"""A longer line is shown in pieces."""
OUTPUT_S: Final = 2.0
"""How long the output of an ended process may take to arrive; a grandchild may hold its other end."""


@dataclass(eq=False)
class Member:
    """One process."""

    name: str
    process: asyncio.subprocess.Process
    patience_s: float
    """How long it may take to stop."""
    may_leave: bool = False
    """It may end in its own good order, as a worker does that was asked to on the page."""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    reading: asyncio.Task[None] | None = None


class Crew:
    """Processes that live as long as the block does, each in a session of its own: a Ctrl-C in the terminal is ours.

    While they are being stopped, another signal kills them.
    """

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._members: list[Member] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        hurry = asyncio.Event()
        on_signal(hurry.set)
        self._terminal.end_progress()
        self._terminal.line("Stopping everything; Ctrl-C kills what takes too long.")
        for member in reversed(self._members):
            await self._stop(member, hurry)

    async def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        settings: Mapping[str, str],
        patience_s: float,
        may_leave: bool = False,
    ) -> None:
        """Start `python -m module arguments` with these settings over those of our own environment."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.commands.leash", module, *arguments),
            env=os.environ | settings | {"PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        member = Member(name, process, patience_s, may_leave)
        member.reading = asyncio.create_task(self._show(member), name=f"output of {name}")
        self._members.append(member)

    def watches(self) -> list[Coroutine[None, None, NoReturn]]:
        """Return coroutines, one a process, that raise `ProcessEnded` when it ends by itself."""
        return [self._watch(member) for member in self._members]

    def last_lines(self, name: str, most: int = 10) -> list[str]:
        """Return the last lines that a process wrote."""
        return next((list(each.last_lines)[-most:] for each in self._members if each.name == name), [])

    async def _watch(self, member: Member) -> NoReturn:
        code = await member.process.wait()
        await _finished(member)
        if member.may_leave and code == 0:
            self._terminal.line(f"The {member.name} has ended, as it was asked to; everything else goes on.")
            await asyncio.Event().wait()
        raise ProcessEnded(f"The {member.name} has ended by itself, {_how(code)}; everything is stopped.")

    async def _show(self, member: Member) -> None:
        assert member.process.stdout is not None  # noqa: S101  # for the type checker: we asked for a pipe
        await _split(member.process.stdout, lambda line: self._show_line(member, line))

    def _show_line(self, member: Member, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        member.last_lines.append(text)
        self._terminal.line(f"[{member.name}] {text}")

    async def _stop(self, member: Member, hurry: asyncio.Event) -> None:
        process = member.process
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            ends = [asyncio.create_task(process.wait()), asyncio.create_task(hurry.wait())]
            await asyncio.wait(ends, timeout=member.patience_s, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks(ends)
            if process.returncode is None:
                self._terminal.line(f"The {member.name} has not ended; it is killed.")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await _finished(member)


async def _finished(member: Member) -> None:
    """Wait for the output that is still on its way."""
    if member.reading is not None:
        await asyncio.wait({member.reading}, timeout=OUTPUT_S)
        await end_tasks([member.reading])


async def _split(stream: asyncio.StreamReader, show: Callable[[bytes], None]) -> None:
    rest = b""
    while chunk := await stream.read(LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            show(line)
        if len(rest) > LINE_BYTES:
            show(rest)
            rest = b""
    if rest:
        show(rest)


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"
