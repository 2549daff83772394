"""Command line of the server: `python -m app COMMAND`, usually by `make`."""

from __future__ import annotations

import argparse
import pkgutil
import sys
from functools import partial
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
    "workers": "status_tables:workers",
    "cron-status": "status_tables:cron_status",
    "keys-add": "keys:add",
    "keys-list": "keys:list_all",
    "keys-revoke": "keys:revoke",
}
"""Module and function below `app.commands`, imported when chosen: a server needs no memory for what others do."""
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {"keys-add": ("name", "role"), "keys-revoke": ("name",)}


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev")
    parser.add_argument("--once", action="store_true", help="of demo: end when the image is there")
    parser.add_argument("--name", help="of keys-add and keys-revoke: whose key it is")
    parser.add_argument("--role", help="of keys-add: viewer, operator or admin")
    chosen = parser.parse_args(arguments)
    name = COMMANDS[chosen.command]
    if chosen.once:
        if chosen.command != "demo":
            parser.error("--once belongs to demo")
        name = "demo:demo_once"
    given = {option: getattr(chosen, option) for option in ("name", "role") if getattr(chosen, option) is not None}
    wanted = _OPTIONS.get(chosen.command, ())
    if set(given) != set(wanted):
        needed = " and ".join(f"--{option}" for option in wanted) or "neither --name nor --role"
        parser.error(f"{chosen.command} takes {needed}")
    command = partial(pkgutil.resolve_name(f"app.commands.{name}"), **given)
    return run_command(chosen.env or ("demo" if chosen.command == "demo" else None), command)


if __name__ == "__main__":
    sys.exit(main())
