"""Processes that die: started again ever later, and given up when they do not start at all."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest

from app.commands.child_processes import ChildProcesses, Role
from app.commands.restart_policy import STEADY_S, Delays, Restarts
from app.commands.terminal import Terminal
from app.commands.watching import ProcessEnded, unless_it_raises
from harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

QUICK = Delays(first_s=0.01, most_s=0.04, tries=4)


def role(folder: Path, program: str, **changes: Any) -> Role:
    """Return what runs this program, which says "up" when it has come up."""
    path = folder / "a_process_of_a_test.py"
    path.write_text(program)
    usual: dict[str, Any] = {"settings": {"PYTHONPATH": str(folder)}, "greeting": "up", "patience_s": 20}
    return Role("worker", "a_process_of_a_test", (), **usual | {"needed": False} | changes)


def said(stream: io.StringIO, text: str) -> Any:
    async def found() -> bool:
        return text in stream.getvalue()

    return eventually(found, 60)


async def test_what_does_not_start_is_given_up_after_some_tries_and_the_rest_goes_on(tmp_path: Path) -> None:
    stream = io.StringIO()
    async with ChildProcesses(Terminal(stream), QUICK) as children:
        await children.start(role(tmp_path, "raise SystemExit('no such setting')"))
        await unless_it_raises(said(stream, "It is not started again; everything else goes on."), *children.watches())
    assert stream.getvalue().count("[worker] no such setting") == QUICK.tries
    assert [line for line in stream.getvalue().splitlines() if "again in" in line] == [
        f"The worker has ended by itself, with exit code 1; it is started again in {delay} s."
        for delay in ("0.01", "0.02", "0.04")
    ]


async def test_what_comes_up_and_dies_is_started_again_for_ever(tmp_path: Path) -> None:
    stream = io.StringIO()

    async def many() -> bool:
        return stream.getvalue().count("[worker] up") > QUICK.tries + 1

    async with ChildProcesses(Terminal(stream), QUICK) as children:
        await children.start(role(tmp_path, "print('up'); raise SystemExit(3)"))
        await unless_it_raises(eventually(many, 60), *children.watches())
    assert "not started again" not in stream.getvalue()


async def test_without_what_is_needed_everything_ends(tmp_path: Path) -> None:
    async with ChildProcesses(Terminal(io.StringIO()), QUICK) as children:
        await children.start(role(tmp_path, "raise SystemExit(1)", needed=True))
        with pytest.raises(ProcessEnded, match="with exit code 1; everything is stopped"):
            await unless_it_raises(asyncio.Event().wait(), *children.watches())


def test_delays_grow_to_a_limit_and_begin_anew_after_a_steady_run() -> None:
    now = 0.0
    revival = Restarts(Delays(first_s=1, most_s=60, tries=5), clock=lambda: now)
    waited = []
    for _ in range(9):
        revival.came_up()
        waited.append(revival.died())
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    revival.came_up()
    now += STEADY_S + 1
    assert revival.died() == 1
    assert [revival.died() for _ in range(5)] == [2, 4, 8, 16, None]
    assert all(Restarts(Delays(tries=10**6)).died() == 1 for _ in range(2))


def test_a_thousand_deaths_are_no_overflow() -> None:
    revival = Restarts(Delays())
    for _ in range(5000):
        revival.came_up()
        assert (revival.died() or 0) <= 60
