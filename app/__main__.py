"""Command line of the server: `python -m app COMMAND`, usually by `make`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from app.domain.errors import GenonautError
from app.embedded.errors import EmbeddedError
from app.environment import set_up_logging, with_servers
from app.main import create_app, create_monitor_app, run
from app.settings import load_settings

if TYPE_CHECKING:
    from app.settings import Settings


async def serve(settings: Settings) -> int:
    """Run the server."""
    async with with_servers(settings) as complete:
        return await run(create_app(complete), complete, complete.api_port, _migrate_command(complete))


async def monitor(settings: Settings) -> int:
    """Run the page alone."""
    async with with_servers(settings) as complete:
        return await run(create_monitor_app(complete), complete, complete.monitor_port, _migrate_command(complete))


COMMANDS = {"serve": serve, "monitor": monitor}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev")
    chosen = parser.parse_args(arguments)
    try:
        settings = load_settings(chosen.env)
        set_up_logging(settings)
        return asyncio.run(COMMANDS[chosen.command](settings))
    except (GenonautError, EmbeddedError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _migrate_command(settings: Settings) -> str:
    return f"make migrate-{settings.genonaut_env}"


if __name__ == "__main__":
    sys.exit(main())
