"""Command line: `python -m worker.standin --host 127.0.0.1 --port 8189`."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from pathlib import Path

from aiohttp import web

from worker.standin.faults import parse_fault
from worker.standin.main import STANDIN, StandinOptions, create_app

log = logging.getLogger("worker.standin")


def _parse_arguments() -> argparse.Namespace:
    """Return what the command line says; defaults of the options are those of `StandinOptions`."""
    defaults = StandinOptions()
    parser = argparse.ArgumentParser(prog="python -m worker.standin", description="A ComfyUI stand-in.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8189)
    parser.add_argument("--directory", type=Path, help="keeps output, input and temp; default: a temporary one")
    parser.add_argument("--speed", type=float, default=defaults.speed, help="divides all durations of the execution")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="added to every HTTP answer")
    parser.add_argument("--step-seconds", type=float, default=defaults.step_seconds, metavar="SECONDS")
    parser.add_argument("--model-load-seconds", type=float, default=defaults.model_load_seconds, metavar="SECONDS")
    parser.add_argument(
        "--comfyui-version", default=defaults.version, metavar="VERSION", help="whose behaviour is shown"
    )
    parser.add_argument("--enable-assets", action="store_true", help="files have ids, from 0.33 on")
    parser.add_argument("--checkpoint", action="append", metavar="NAME", help="may be repeated; replaces the defaults")
    parser.add_argument("--lora", action="append", metavar="NAME", help="may be repeated; replaces the defaults")
    parser.add_argument("--cache", default=defaults.cache, help="classic, none or how many results are kept")
    parser.add_argument("--fault", action="append", default=[], type=json.loads, metavar="JSON", help="may be repeated")
    parser.add_argument("--no-previews", action="store_true")
    parser.add_argument("--disable-metadata", action="store_true")
    return parser.parse_args()


def _options(arguments: argparse.Namespace) -> StandinOptions:
    """Return the options that the command line asks for."""
    defaults = StandinOptions()
    return StandinOptions(
        version=arguments.comfyui_version,
        directory=arguments.directory,
        checkpoints=tuple(arguments.checkpoint or defaults.checkpoints),
        loras=tuple(arguments.lora or defaults.loras),
        model_load_seconds=arguments.model_load_seconds,
        step_seconds=arguments.step_seconds,
        speed=arguments.speed,
        latency_seconds=arguments.latency,
        previews=not arguments.no_previews,
        metadata=not arguments.disable_metadata,
        cache=arguments.cache,
        assets=arguments.enable_assets,
        faults=tuple(parse_fault(fault) for fault in arguments.fault),
    )


async def _serve(options: StandinOptions, host: str, port: int) -> int:
    """Serve until a signal comes or the stand-in crashes; return the exit code."""
    app = create_app(options)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("The stand-in listens on http://%s:%d", host, port)
        ends = [asyncio.create_task(stopping.wait()), asyncio.create_task(app[STANDIN].crashed.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await runner.cleanup()
    return 1 if app[STANDIN].crashed.is_set() else 0


def main() -> int:
    """Run the stand-in."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    arguments = _parse_arguments()
    try:
        options = _options(arguments)
        return asyncio.run(_serve(options, arguments.host, arguments.port))
    except (OSError, ValueError, TypeError) as error:
        log.error("Cannot start: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
