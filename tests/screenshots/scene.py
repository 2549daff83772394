"""What the pictures of the page show: a day of a small service in a minute, on two stand-ins that take their time."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientSession

from app.embedded.services import Wanted, embedded_services
from app.embedded.temporary import temporary_data_dir
from app.settings import Settings, load_settings
from app.storage.migrating import migrate
from tests.bench.service import answers, connected
from tests.chaos.processes import Member
from tests.chaos.servers import pick_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.embedded.services import Running

BACKENDS: Final = ("gpu-a", "gpu-b")
PATIENCE_S: Final = 180.0
_PROMPTS: Final = (
    "a lighthouse at dusk, storm clouds, long exposure",
    "red fox in fresh snow, golden hour",
    "old stone bridge over a quiet river, autumn",
    "portrait of a clockmaker in her workshop",
    "isometric tiny island with a windmill",
    "macro photo of a dew drop on moss",
    "night market in the rain, neon reflections",
    "paper boat on a puddle, city lights",
)
_USERS: Final = ("ann", "bob", "carla", "dmitri")
_MODELS: Final = ("sd_xl_base_1.0.safetensors", "dreamshaper_8.safetensors", "flux1-schnell.safetensors")


@dataclass(frozen=True)
class Scene:
    """A running service, as its users reach it."""

    session: ClientSession
    url: str

    async def submit(self, body: dict[str, Any]) -> int:
        """Send a job and return its number."""
        async with self.session.post(f"{self.url}/api/v1/generation-jobs/", json=body) as answer:
            found = await answer.json()
            assert answer.status == 201, found
            return int(found["job_id"])

    async def picture(self, index: int) -> int:
        """Send one of the everyday jobs."""
        body = {
            "user_id": _USERS[index % len(_USERS)],
            "job_type": "image",
            "prompt": _PROMPTS[index % len(_PROMPTS)],
            "checkpoint_model": _MODELS[index // 3 % len(_MODELS)],
            "width": 768,
            "height": (768, 1024, 512)[index % 3],
            "batch_size": (1, 1, 3, 2)[index % 4],
            "sampler_params": {"steps": (20, 28, 12)[index % 3], "seed": 1000 + index},
        }
        return await self.submit(body)

    async def broken(self, kind: str, message: str) -> int:
        """Send a job that fails in its second node."""
        graph = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 0}},
            "2": {"class_type": "RaiseError", "inputs": {"image": ["1", 0], "message": message, "kind": kind}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "broken"}},
        }
        body = {"user_id": "bob", "job_type": "workflow", "prompt": "upscale the harbour", "workflow": graph}
        return await self.submit(body | {"max_attempts": 2})

    async def job(self, job_id: int) -> dict[str, Any]:
        """Return a job."""
        async with self.session.get(f"{self.url}/api/v1/generation-jobs/{job_id}") as answer:
            return dict(await answer.json())

    async def until(self, job_id: int, *statuses: str, progress: int = 0) -> dict[str, Any]:
        """Wait until the job has one of these statuses, and has come so far in per cent."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                job = await self.job(job_id)
                if job["status"] in statuses and job["progress"] >= progress:
                    return job
                await asyncio.sleep(0.1)

    async def cancel(self, job_id: int) -> None:
        """Cancel a job."""
        async with self.session.post(f"{self.url}/api/v1/generation-jobs/{job_id}/cancel") as answer:
            await answer.read()


@asynccontextmanager
async def running_scene() -> AsyncIterator[Scene]:
    """Have app, worker and two stand-ins running in the block, in a temporary folder."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_data_dir())
        wanted = Wanted(data_dir=folder, postgres=True, redis=True, redis_port=0)
        running = await stack.enter_async_context(embedded_services(wanted))
        session = await stack.enter_async_context(ClientSession())
        api, *standins = pick_ports(1 + len(BACKENDS))
        own = _settings(running, folder, standins)
        values = {name.lower(): value for name, value in own.items() if name != "GENONAUT_ENV"}
        await migrate(load_settings("demo", **values))
        known = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
        environment = known | own | {"PYTHONUNBUFFERED": "1", "API_PORT": str(api)}
        url = f"http://127.0.0.1:{api}"
        members = []
        for name, port in zip(BACKENDS, standins, strict=True):
            arguments = ["--port", str(port), "--directory", str(folder / name), "--step-seconds", "0.15"]
            ready = answers(session, f"http://127.0.0.1:{port}/system_stats")
            members.append(Member(name, "worker.standin", arguments, environment, folder, ready))
        members.append(Member("app", "app", ["serve"], environment, folder, answers(session, f"{url}/health/live")))
        worker = Member("worker", "worker", [], environment, folder, answers(session, ""))
        worker.ready = connected(worker, BACKENDS[-1])
        members.append(worker)
        stack.push_async_callback(_end, members)
        for member in members:
            await member.start()
            await member.until_ready()
        yield Scene(session, url)


def _settings(running: Running, folder: Path, standins: list[int]) -> dict[str, str]:
    assert running.database_url is not None
    assert running.redis_url is not None
    backends = zip(BACKENDS, standins, strict=True)
    return {
        "GENONAUT_ENV": "demo",
        "DATABASE_URL": running.database_url,
        "REDIS_URL": running.redis_url,
        "REDIS_NAMESPACE": "screenshots",
        "DATA_DIR": str(folder / "data"),
        "STORAGE_DIR": str(folder / "store"),
        "COMFYUI_URLS": ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in backends),
        "DEFAULT_CHECKPOINT": "",
        "HEARTBEAT_SECONDS": "2",
    }


async def _end(members: list[Member]) -> None:
    for member in reversed(members):
        await member.end(signal.SIGTERM)
        member.close()
