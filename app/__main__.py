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
    "keys-restore": "keys:restore",
    "links-renew": "links:renew",
    "weights": "weights:weights",
    "simulate": "simulating:simulate",
}
"""Module and function below `app.commands`, imported when chosen: a server needs no memory for what others do."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=", ".join(COMMANDS))
    for name in COMMANDS:
        command = commands.add_parser(name)
        command.add_argument(
            "--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev"
        )
        if name == "demo":
            command.add_argument("--once", action="store_true", help="end when the image is there")
        if name in ("keys-add", "keys-revoke", "keys-restore"):
            command.add_argument("--name", required=True, help="whose key it is")
        if name == "keys-add":
            # Empty is absent: make passes all of them on.
            command.add_argument("--role", default="", help="user (the default), viewer, operator or admin")
            command.add_argument("--owner", default="", help="the user_id of its jobs; its name unless given")
            command.add_argument("--expires", default="", help="in how many days, or when: 30, 2027-01-31")
            command.add_argument("--limits", default="", help="such as 'running=2 upload_bytes=10GiB'")
        if name == "weights":
            command.add_argument("--name", default="", help="the user_id whose weight is to be set")
            command.add_argument("--weight", default="", help="from 0.01 to 100; 1 is what all others have")
        if name == "simulate":
            command.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="the usual ones unless given")
            command.add_argument("--modes", default="", help="such as fifo,both; all unless given")
            command.add_argument("--seed", type=int, default=1, help="the same seed, the same result; 1 unless given")
    given = vars(parser.parse_args(arguments))
    name, env = given.pop("command"), given.pop("env")
    function = "demo:demo_once" if given.pop("once", False) else COMMANDS[name]
    run = partial(pkgutil.resolve_name(f"app.commands.{function}"), **given)
    return run_command(env or ("demo" if name == "demo" else None), run)


if __name__ == "__main__":
    sys.exit(main())
