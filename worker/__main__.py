"""Command line of the worker: `python -m worker`, usually by `make worker-dev`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from app.commands.entry import run_command
from app.environment import with_servers
from app.runtime.gc_tuning import spare_what_lives_long
from worker.main import WorkerProcess, wait_for_schema

if TYPE_CHECKING:
    from app.settings import Settings


async def work(settings: Settings) -> int:
    """Run one worker until it is told to stop."""
    async with with_servers(settings, comfyui=True) as complete:
        await wait_for_schema(complete, f"make migrate-{complete.genonaut_env}")
        process = WorkerProcess(complete)
        spare_what_lives_long()
        return await process.run()


def main(arguments: list[str] | None = None) -> int:
    """Run a worker and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev")
    chosen = parser.parse_args(arguments)
    return run_command(chosen.env, work)


if __name__ == "__main__":
    sys.exit(main())
