"""Several stand-ins in one process: `python -m tests.bench.standins --load-seconds 2 PORT PORT …`.

All do the same, and each has models in memory and a log of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import AsyncExitStack

import uvloop
from aiohttp import web

from worker.standin.main import StandinOptions, create_app


async def serve(ports: list[int], options: StandinOptions) -> None:
    """Serve until a signal."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        for port in ports:
            runner = web.AppRunner(create_app(options), access_log=None, shutdown_timeout=0.2)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", port).start()
        await stopping.wait()


def main() -> None:
    """Read the command line, and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.standins", description=__doc__)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("ports", type=int, nargs="+")
    arguments = parser.parse_args()
    options = StandinOptions(model_load_seconds=arguments.load_seconds, step_seconds=0.0, previews=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.ports, options))


if __name__ == "__main__":
    main()
