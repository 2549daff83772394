"""How long do the routes of what there is take, with three large backends? `python -m tests.bench.inventory`.

Each backend has 3,000 node classes and 5,000 checkpoints, and is a little different from the others. Server, client,
PostgreSQL and Redis are this machine's own. The time is from a handler's start to its answer, without the network; that
of the processor is what the event loop's thread worked in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final

import uvloop
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from alembic import command
from pydantic import SecretStr

from app import keys
from app.domain.offers import read_offer
from app.embedded.services import Wanted, start
from app.embedded.temporary import temporary_data_dir
from app.main import create_app
from app.settings import load_settings
from app.storage.migrating import alembic_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from app.settings import Settings

CLASSES: Final = 3_000
CHECKPOINTS: Final = 5_000
BACKENDS: Final = ("a", "b", "c")
TIMES: Final = 200
ROUTES: Final = (
    "/api/v1/models",
    "/api/v1/models?kind=samplers",
    "/api/v1/nodes",
    "/api/v1/nodes?limit=1000",
    "/api/v1/nodes?search=node%201",
    "/api/v1/nodes/KSampler",
    "/api/v1/nodes/CheckpointLoaderSimple",
    "/api/v1/nodes/CheckpointLoaderSimpl",
    "/api/v1/backends",
    "/api/v1/workers",
)


def object_info(backend: str) -> bytes:
    """Return what a backend says of its node classes, some 30 MB."""
    number = BACKENDS.index(backend)
    checkpoints = [f"folder/checkpoint-{each:05}.safetensors" for each in range(number * 100, CHECKPOINTS)]
    checkpoints += [f"{backend}-{each:05}.safetensors" for each in range(number * 100)]
    files = [f"file-{each:03}.png" for each in range(200)]
    usual = {"output": ["IMAGE", "MASK"], "output_name": ["IMAGE", "MASK"], "output_node": False}
    nodes: dict[str, Any] = {}
    for each in range(CLASSES - 2):
        inputs: dict[str, Any] = {
            f"number_{at}": ["FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "t" * 60}]
            for at in range(20)
        }
        inputs |= {f"list_{at}": [files, {"default": files[0]}] for at in range(2)}
        nodes[f"Node {each} (pack)"] = usual | {
            "input": {"required": inputs},
            "display_name": f"The node {each}",
            "category": f"pack/{each % 40}",
            "python_module": "custom_nodes.pack",
        }
    samplers = [f"sampler_{each}" for each in range(40)]
    nodes["CheckpointLoaderSimple"] = usual | {"input": {"required": {"ckpt_name": [checkpoints]}}}
    nodes["KSampler"] = usual | {"input": {"required": {"sampler_name": [samplers], "scheduler": [["normal"]]}}}
    return json.dumps(nodes).encode()


async def measure(settings: Settings) -> None:
    """Print a table of the routes."""
    took: list[tuple[float, float]] = []

    @web.middleware
    async def timed(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        began, worked = time.perf_counter(), time.thread_time()
        answer = await handler(request)
        took.append((time.perf_counter() - began, time.thread_time() - worked))
        return answer

    app = create_app(settings)
    app.middlewares.insert(0, timed)
    registry = app[keys.REGISTRY]
    async with TestClient(TestServer(app)) as client:
        beats = {}
        for name in BACKENDS:
            raw = object_info(name)
            digest = await registry.put_catalog(read_offer(raw).described)
            model = "folder/checkpoint-00777.safetensors"
            more = {
                "driver": "w",
                "slots": 1,
                "used": 0,
                "drained": False,
                "warm": [f"checkpoints/{model}"],
                "current": [],
            }
            beats[name] = {"catalog": digest, "healthy": True} | more
            print(f"{name}: {len(raw) / 1e6:.1f} MB of object_info", file=sys.stderr)
        worker = {"state": "working", "backends": list(BACKENDS), "slots": 3, "used": 0, "running": []}
        await registry.beat("w", worker, beats)
        print("| route | bytes | first, ms | median, ms | 99 of 100, ms | processor, ms | 99 of 100, ms |")
        print("|---|---|---|---|---|---|---|")
        for path in ROUTES:
            took.clear()
            size = 0
            for turn in range(TIMES):
                if turn % 50 == 0:
                    await registry.beat("w", worker, beats)
                size = len(await (await client.get(path)).read())
            waited, worked = ([each[at] for each in took[1:]] for at in (0, 1))
            figures = [took[0][0], median(waited), quantiles(waited, n=100)[98]]
            figures += [median(worked), quantiles(worked, n=100)[98]]
            print(f"| `{path}` | {size} | {' | '.join(f'{1000 * each:.2f}' for each in figures)} |")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"Most memory of this process: {memory:.0f} MiB.")


def main() -> int:
    """Start PostgreSQL and Redis, and measure."""
    with temporary_data_dir(in_memory=True) as folder:
        services = start(Wanted(data_dir=folder, postgres=True, redis=True, redis_port=0, durable=False))
        try:
            _measure(services.running.database_url, services.running.redis_url, folder)
        finally:
            services.stop()
    return 0


def _measure(database_url: str | None, redis_url: str | None, folder: Path) -> None:
    assert database_url is not None
    assert redis_url is not None
    command.upgrade(alembic_config(database_url.replace("postgresql:", "postgresql+asyncpg:")), "head")
    settings = load_settings(
        "test", database_url=SecretStr(database_url), redis_url=SecretStr(redis_url), data_dir=folder / "data"
    )
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(settings))


if __name__ == "__main__":
    raise SystemExit(main())
