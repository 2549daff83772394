"""Command line of the worker: `python -m worker`, usually by `make worker-dev`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from app.commands.interruption import Interrupted, until_signalled
from app.domain.errors import GenonautError
from app.embedded.errors import EmbeddedError
from app.environment import set_up_logging, with_servers
from app.settings import load_settings
from worker.main import WorkerProcess, wait_for_schema

if TYPE_CHECKING:
    from app.settings import Settings


async def work(settings: Settings) -> int:
    """Run one worker until it is told to stop."""
    async with with_servers(settings, comfyui=True) as complete:
        await wait_for_schema(complete, f"make migrate-{complete.genonaut_env}")
        return await WorkerProcess(complete).run()


def main(arguments: list[str] | None = None) -> int:
    """Run a worker and return its exit code; what goes wrong is one clear sentence."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--env", choices=("dev", "demo", "test"), help="the environment; default GENONAUT_ENV or dev")
    chosen = parser.parse_args(arguments)
    try:
        settings = load_settings(chosen.env)
        set_up_logging(settings)
        return asyncio.run(until_signalled(work(settings)))
    except (GenonautError, EmbeddedError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except Interrupted as interrupted:
        return interrupted.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
