"""`make bench`: how fast is the service on this machine, beside the limit that the same run found?

`python -m tests.bench [--only NAME,NAME] [--quick]`. The table goes to standard output, what happens to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Final

import uvloop

from app.commands.stop_signals import Interrupted, until_signalled
from tests.bench import report
from tests.bench.client import Unexpected
from tests.bench.idle_rows import idle, tired
from tests.bench.input_rows import inputs
from tests.bench.job_rows import busy, busy_heavy, roundtrip, saving, throughput
from tests.bench.key_rows import keys
from tests.bench.rest_rows import create, read
from tests.bench.scheduling_rows import fleet, flood, mix, zipf
from tests.bench.service import running_service
from tests.bench.single_rows import single
from tests.bench.sizes import QUICK, Sizes
from tests.bench.socket_rows import sockets
from tests.bench.told_rows import told

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.bench.service import Service

    Row = Callable[[Service, Sizes], Awaitable[list[report.Figure]]]

ROWS: Final[dict[str, Row]] = {
    "create": create,
    "read": read,
    "single": single,
    "roundtrip": roundtrip,
    "busy": busy,
    "busy-20mb": busy_heavy,
    "saving": saving,
    "inputs": inputs,
    "throughput": throughput,
    "told": told,
    "sockets": sockets,
    "idle": idle,
    "tired": tired,
    "mix": mix,
    "zipf": zipf,
    "flood": flood,
    "fleet": fleet,
    "keys": keys,
}
"""In the order of the table."""
RUN_ORDER: Final = (
    "idle",
    "single",
    "sockets",
    "roundtrip",
    "busy",
    "busy-20mb",
    "saving",
    "inputs",
    "throughput",
    "told",
    "read",
    "tired",
    "create",
    "mix",
    "zipf",
    "flood",
    "fleet",
    "keys",
)
"""What is at rest first, on processes that have just started; creating late, as it leaves many jobs; then what starts
them anew; and last what makes keys: without one nothing is served from then on."""
ROW_S: Final = 90.0
"""A row that takes longer hangs."""
COMPARING_S: Final = 300.0
"""The same of a row that runs the same jobs several times."""
COMPARING: Final = frozenset({"mix", "zipf", "flood", "fleet"})


def parse_arguments() -> argparse.Namespace:
    """Return what the command line asks for; BENCH_ONLY of the environment comes next."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default=os.environ.get("BENCH_ONLY", ""), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see that it works")
    arguments = parser.parse_args()
    arguments.names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(ROWS)
    if unknown := set(arguments.names) - ROWS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return arguments


async def run(names: list[str], sizes: Sizes) -> int:
    """Run these rows, print the table, and return the exit code."""
    found: dict[str, list[report.Figure]] = {}
    began = time.monotonic()
    try:
        async with running_service() as service:
            say(f"everything is up after {time.monotonic() - began:.1f} s")
            try:
                for name in (name for name in RUN_ORDER if name in names):
                    row_began = time.monotonic()
                    async with asyncio.timeout(COMPARING_S if name in COMPARING else ROW_S):
                        if name not in COMPARING:
                            await service.as_usual()
                        found[name] = await ROWS[name](service, sizes)
                    say(f"{name}: {time.monotonic() - row_began:.1f} s")
                versions = await service.versions()
            except (Unexpected, TimeoutError, OSError):
                # The folder goes with the service.
                say(service.last_words())
                raise
    except (Unexpected, TimeoutError, OSError) as error:
        say(f"The benchmark is worth nothing: {error!r}")
        return 1
    say(f"all was stopped after {time.monotonic() - began:.0f} s")
    figures = [figure for name in ROWS for figure in found.get(name, ())]
    print(report.table(figures), "", report.machine(versions), sep="\n")
    return 0


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run, and return the exit code; a signal stops everything that was started."""
    arguments = parse_arguments()
    # Each socket is a file, here and in the processes that inherit this limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sizes = QUICK if arguments.quick else Sizes()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(until_signalled(run(arguments.names, sizes)))
    except Interrupted as interrupted:
        return interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
