"""Our own processes below this one: started, shown under their names, started again, stopped in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Self

from app.commands.restart_policy import Delays, Restarts
from app.commands.stop_signals import on_signal
from app.commands.watching import ProcessEnded
from app.runtime.end_tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from app.commands.terminal import Terminal

KEPT_LINES: Final = 200
"""Number of last lines that are kept of each process."""
LINE_BYTES: Final = 64 * 1024
"""A longer line is shown in pieces."""
OUTPUT_S: Final = 2.0
"""How long the output of an ended process may take to arrive; a grandchild may hold its other end."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is for, and how it is run: `python -m module arguments`."""

    name: str
    module: str
    arguments: Sequence[str]
    settings: Mapping[str, str]
    """Over those of our own environment."""
    greeting: str
    """What it says when it has come up."""
    patience_s: float
    """How long it may take to stop."""
    needed: bool
    """Whether all processes are stopped if this one never starts."""
    may_leave: bool = False
    """Whether it may end by itself, as a worker does that was stopped on the monitor page."""


@dataclass(eq=False)
class Member:
    """One process, and those that took its place."""

    role: Role
    revival: Restarts
    process: asyncio.subprocess.Process | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    reading: asyncio.Task[None] | None = None


class ChildProcesses:
    """Processes that live as long as the block does, each in a session of its own: a Ctrl-C in the terminal is ours.

    One that dies is started again, after a delay that grows. While they are being stopped, another signal kills them.
    """

    def __init__(self, terminal: Terminal, delays: Delays | None = None) -> None:
        self._terminal = terminal
        self._delays = delays or Delays()
        self._members: list[Member] = []
        self._starting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        hurry = asyncio.Event()
        on_signal(hurry.set)
        self._terminal.end_progress()
        self._terminal.line("Stopping everything; Ctrl-C kills what takes too long.")
        # A process whose start was under way at the cancellation is waited for, and then stopped like the others.
        await asyncio.gather(*self._starting, return_exceptions=True)
        for member in reversed(self._members):
            await self._stop(member, hurry)

    async def start(self, role: Role) -> None:
        """Start a process."""
        member = Member(role, Restarts(self._delays))
        self._members.append(member)
        await self._launch(member)

    def watches(self) -> list[Coroutine[None, None, NoReturn]]:
        """Return coroutines, one a process, that start it again when it has died.

        They raise `ProcessEnded` when one that is needed does not start at all.
        """
        return [self._watch(member) for member in self._members]

    def last_lines(self, name: str, most: int = 10) -> list[str]:
        """Return the last lines that a process wrote."""
        return next((list(each.last_lines)[-most:] for each in self._members if each.role.name == name), [])

    async def _launch(self, member: Member) -> None:
        """Start a member's process. A cancelled start leaves no unknown process behind."""
        launching = asyncio.create_task(self._spawn(member), name=f"start of {member.role.name}")
        self._starting.add(launching)
        launching.add_done_callback(self._starting.discard)
        await asyncio.shield(launching)

    async def _spawn(self, member: Member) -> None:
        role = member.role
        member.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.commands.die_with_parent", role.module, *role.arguments),
            env=os.environ | role.settings | {"PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        member.reading = asyncio.create_task(self._show(member, member.process), name=f"output of {role.name}")

    async def _watch(self, member: Member) -> NoReturn:
        while True:
            assert member.process is not None  # noqa: S101  # for the type checker: it was started
            code = await member.process.wait()
            await _finished(member)
            if member.role.may_leave and code == 0:
                self._terminal.line(f"The {member.role.name} has ended, as it was asked to; everything else goes on.")
                await asyncio.Event().wait()
            await self._revive(member, _how(code))

    async def _revive(self, member: Member, how: str) -> None:
        """Start a member again when its time has come, or never, if it does not come up."""
        name, revival = member.role.name, member.revival
        delay_s = revival.died()
        if member.role.needed and (delay_s is None or not revival.ever_up):
            raise ProcessEnded(f"The {name} has ended by itself, {how}; everything is stopped.")
        while delay_s is None:
            self._terminal.line(
                f"The {name} does not start: it has ended {revival.failed_starts} times without coming up, the last "
                f"time {how}. It is not started again; everything else goes on. Mend what it says above, "
                "end this with Ctrl-C, and begin anew."
            )
            await asyncio.Event().wait()
        self._terminal.line(f"The {name} has ended by itself, {how}; it is started again in {delay_s:g} s.")
        await asyncio.sleep(delay_s)
        await self._launch(member)

    async def _show(self, member: Member, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101  # for the type checker: we asked for a pipe
        await _split(process.stdout, lambda line: self._show_line(member, line))

    def _show_line(self, member: Member, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        if text.startswith(member.role.greeting):
            member.revival.came_up()
        member.last_lines.append(text)
        self._terminal.line(f"[{member.role.name}] {text}")

    async def _stop(self, member: Member, hurry: asyncio.Event) -> None:
        process = member.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            ends = [asyncio.create_task(process.wait()), asyncio.create_task(hurry.wait())]
            await asyncio.wait(ends, timeout=member.role.patience_s, return_when=asyncio.FIRST_COMPLETED)
            await end_tasks(ends)
            if process.returncode is None:
                self._terminal.line(f"The {member.role.name} has not ended; it is killed.")
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
