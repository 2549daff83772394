"""From the command line into the event loop and out again, the same for server and worker."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import uvloop

from app.commands.stop_signals import Interrupted, until_signalled
from app.domain.errors import GenonautError
from app.embedded.errors import EmbeddedError
from app.environment import set_up_logging
from app.runtime.malloc_trim import giving_memory_back
from app.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from app.settings import Settings


def run_command(environment: str | None, command: Callable[[Settings], Coroutine[None, None, int]]) -> int:
    """Run a command with the settings of an environment and return its exit code; what goes wrong is one sentence."""
    try:
        settings = load_settings(environment)
        set_up_logging(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(until_signalled(giving_memory_back(command(settings))))
    except (GenonautError, EmbeddedError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except Interrupted as interrupted:
        return interrupted.exit_code
    except KeyboardInterrupt:
        return 130
