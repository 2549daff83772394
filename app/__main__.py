"""Command line of the server: `python -m app COMMAND`, usually by `make`."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from typing import TYPE_CHECKING, Final

from app.commands.entry import run_command

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS: Final[Mapping[str, str]] = {
    "serve": "serving:serve",
    "monitor": "serving:monitor",
    "up": "whole_service:up",
    "demo": "demo:demo",
    "migrate": "migration:migrate_schema",
    "redis-start": "serving:redis_start",
    "redis-keys": "redis_database:redis_keys",
    "redis-info": "redis_database:redis_info",
    "redis-flush": "redis_database:redis_flush",
    "workers": "presence:workers",
    "cron-status": "presence:cron_status",
}
"""Module and function below `app.commands`, imported when chosen: a server needs no memory for what others do."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev")
    parser.add_argument("--once", action="store_true", help="of demo: end when the image is there")
    chosen = parser.parse_args(arguments)
    name = COMMANDS[chosen.command]
    if chosen.once:
        if chosen.command != "demo":
            parser.error("--once belongs to demo")
        name = "demo:demo_once"
    command = pkgutil.resolve_name(f"app.commands.{name}")
    return run_command(chosen.env or ("demo" if chosen.command == "demo" else None), command)


if __name__ == "__main__":
    sys.exit(main())
