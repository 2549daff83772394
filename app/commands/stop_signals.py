"""Ctrl-C and the other ways to be asked to end, the same for every command."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a request by another program, and a closed terminal."""


class Interrupted(Exception):
    """A signal asked the command to end, and it has."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.exit_code = 128 + number
        """What shells use for it."""


async def until_signalled(command: Coroutine[None, None, int]) -> int:
    """Run a command; the first signal cancels it, so that all that it holds is given back.

    A command may put its own handlers in place of these: `asked_to_end` does, and so does a server.

    Raises
    ------
    Interrupted
        It was cancelled by a signal.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(command)
    received: list[signal.Signals] = []

    def cancel(number: signal.Signals) -> None:
        # Once only: a second one would cancel the tidying up.
        if not received:
            received.append(number)
            task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, cancel, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def asked_to_end() -> asyncio.Event:
    """Return an event that is set by the signals to stop. It replaces their handlers from now on."""
    asked = asyncio.Event()
    on_signal(asked.set)
    return asked


def on_signal(act: Callable[[], object]) -> None:
    """Call `act` at each signal from now on, in place of what was called before."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, act)
