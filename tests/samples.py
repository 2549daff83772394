"""Things that tests of the lower layers are made of: jobs, outputs, and what a stand-in says that it offers."""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import TYPE_CHECKING, Any

from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr
from redis import Redis

from app.domain.catalog import Catalog, read_catalog
from app.domain.job import NewJob, Output
from app.domain.workflow import Graph, build_graph
from app.settings import Settings, load_settings
from worker.standin.main import create_app
from worker.standin.options import StandinOptions

if TYPE_CHECKING:
    from app.embedded.services import Running

_numbers = itertools.count(1)

SAMPLER = {
    "seed": 2**64 - 1,
    "steps": 28,
    "cfg": 5.5,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}


def new_job(**changes: Any) -> NewJob:
    """Return what a client asked for, with these fields changed."""
    usual: dict[str, Any] = {
        "user_id": "someone",
        "job_type": "image",
        "prompt": "a quiet harbour",
        "negative_prompt": "",
        "checkpoint_model": None,
        "lora_models": [],
        "width": 64,
        "height": 64,
        "batch_size": 1,
        "sampler_params": dict(SAMPLER),
        "workflow": None,
        "backend": None,
        "priority": 0,
        "not_before": None,
        "max_attempts": 4,
        "timeout_seconds": 900,
        "metadata": {},
        "params": {},
        "warnings": [],
    }
    return NewJob(**usual | changes)


def output(index: int = 0, **changes: Any) -> Output:
    """Return a stored output, with these fields changed."""
    usual: dict[str, Any] = {
        "index": index,
        "node_id": "save",
        "kind": "image",
        "content_type": "image/png",
        "size_bytes": 2**40,
        "width": 64,
        "height": 48,
        "sha256": "0" * 64,
        "path": f"2026/11/23/1/1_{index}.png",
        "thumbnail_path": f"2026/11/23/1/1_{index}.thumb.webp",
    }
    return Output(**usual | changes)


def text_to_image(**changes: Any) -> Graph:
    """Return the graph of the simple fields for what the stand-in offers, with these fields changed."""
    usual: dict[str, Any] = {
        "checkpoint": "sd_xl_base_1.0.safetensors",
        "loras": [],
        "prompt": "a quiet harbour",
        "negative_prompt": "people",
        "width": 832,
        "height": 1216,
        "batch_size": 1,
        "sampler": dict(SAMPLER),
    }
    return build_graph(**usual | changes)


def slow_graph(seconds: float = 30, steps: int = 300) -> dict[str, Any]:
    """Return a graph that runs for so many seconds, in steps between which it can be interrupted."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368601}},
        "3": {
            "class_type": "SlowProgress",
            "inputs": {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds / steps},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "mine"}},
    }


def running_for(seconds: float) -> dict[str, Any]:
    """Return the fields of a job whose prompt runs for so many seconds."""
    return {"job_type": "workflow", "workflow": slow_graph(seconds)}


def settings_of_redis(servers: Running) -> Settings:
    """Return settings with an emptied Redis and a namespace of the test's own, and no database."""
    assert servers.redis_url is not None
    with Redis.from_url(servers.redis_url, db=3) as redis:
        redis.flushdb()
    return load_settings("test", redis_url=SecretStr(servers.redis_url), redis_namespace=f"test_redis_{next(_numbers)}")


@functools.cache
def standin_catalog() -> Catalog:
    """Return what a stand-in offers, by its own `GET /object_info`; for tests that are no coroutines."""

    async def ask() -> dict[str, Any]:
        async with TestClient(TestServer(create_app(StandinOptions()))) as client:
            return dict(await (await client.get("/object_info")).json())

    return read_catalog(asyncio.run(ask()))
