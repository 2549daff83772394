"""The whole service on arq: woken over Redis, and tidy in what it leaves there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.asyncio import Redis
from turn_workers import NEVER_S, idle

if TYPE_CHECKING:
    from app.settings import Settings
    from harness import Service


async def test_the_real_worker_is_woken_over_redis_and_leaves_no_name_but_ours_and_arqs(
    service: Service, settings: Settings
) -> None:
    turns = service.worker.turns
    turns.idle_poll_s = NEVER_S
    await idle(turns)
    turns.wake()
    await idle(turns)
    for _ in range(2):
        assert (await service.run())["status"] == "completed"
    async with Redis.from_url(settings.redis_url_with_db) as redis:
        ours = ("arq:", f"{settings.redis_namespace}:")
        assert {key async for key in redis.scan_iter() if not key.decode().startswith(ours)} == set()
