"""Heartbeats by Redis' own clock, and the lease by which each backend has one driver."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from samples import settings_of_redis

from app.domain.errors import QueueUnavailable
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import KEPT_S, Registry
from harness import eventually

if TYPE_CHECKING:
    from arq.connections import ArqRedis

    from app.embedded.services import Running
    from app.messaging.channels import Names
    from app.settings import Settings

INFO = json.dumps({"SaveImage": {"input": {}, "output": [], "output_node": True}}).encode()


@pytest.fixture
def settings(servers: Running) -> Settings:
    """Settings of Redis alone: what is tested here needs no database."""
    return settings_of_redis(servers)


@pytest.fixture
def registry(redis: ArqRedis, names: Names) -> Registry:
    return Registry(redis, names, stale_s=30)


async def test_a_beat_tells_of_worker_and_backends(registry: Registry) -> None:
    await registry.beat("w2", {"pid": 2}, {})
    await registry.beat("w1", {"pid": 1}, {"gpu-1": {"healthy": True}, "gpu-0": {"healthy": False}})
    workers, backends = await registry.workers(), await registry.backends()
    assert [(beat.name, beat.pid, beat.live) for beat in workers] == [
        ("w1", 1, True),
        ("w2", 2, True),
    ]
    assert [(beat.name, beat.healthy) for beat in backends] == [("gpu-0", False), ("gpu-1", True)]
    assert all(0 <= beat.age_s < 10 for beat in workers + backends)


async def test_a_beat_ages_by_redis_clock_and_is_no_longer_live(
    registry: Registry, redis: ArqRedis, names: Names
) -> None:
    await registry.beat("w1", {}, {"gpu": {}})
    await redis.pexpire(names.worker("w1"), KEPT_S * 1000 - 29_000)
    assert [(round(beat.age_s), beat.live) for beat in await registry.workers()] == [(29, True)]
    await redis.pexpire(names.worker("w1"), KEPT_S * 1000 - 31_000)
    assert [(round(beat.age_s), beat.live) for beat in await registry.workers()] == [(31, False)]
    assert [beat.live for beat in await registry.backends()] == [True]
    await registry.beat("w1", {}, {})
    assert [beat.live for beat in await registry.workers()] == [True]


async def test_who_leaves_is_gone_at_once_and_only_he(registry: Registry) -> None:
    await registry.beat("w1", {}, {})
    await registry.beat("w2", {}, {})
    await registry.leave("w1")
    assert [beat.name for beat in await registry.workers()] == ["w2"]


async def test_who_has_not_been_seen_for_a_day_is_forgotten(registry: Registry, redis: ArqRedis, names: Names) -> None:
    await registry.beat("old", {}, {"gone": {}})
    for key in (names.worker("old"), names.backend("gone")):
        await redis.delete(key)
    assert await registry.workers() == await registry.backends() == []
    for index, name in ((names.workers, "old"), (names.backends, "gone")):
        await redis.zadd(index, {name: 0})
    await registry.beat("new", {}, {})
    assert await redis.zrange(names.workers, 0, -1) == [b"new"]
    assert await redis.zrange(names.backends, 0, -1) == []


# Driving.


async def test_of_many_workers_one_drives_a_backend(registry: Registry) -> None:
    held = await asyncio.gather(*(registry.drive("gpu", f"w{number}", 60) for number in range(10)))
    assert held.count(True) == 1
    driver = f"w{held.index(True)}"
    assert await registry.drive("gpu", driver, 60)
    assert await registry.drive("other", "w99", 60)


async def test_a_lease_that_ran_out_goes_to_the_next_and_the_old_driver_notices(registry: Registry) -> None:
    assert await registry.drive("gpu", "w1", 0.2)
    assert not await registry.drive("gpu", "w2", 60)
    await eventually(lambda: registry.drive("gpu", "w2", 60))
    assert not await registry.drive("gpu", "w1", 60)


async def test_renewing_makes_the_lease_longer(registry: Registry, redis: ArqRedis, names: Names) -> None:
    await registry.drive("gpu", "w1", 5)
    await registry.drive("gpu", "w1", 60)
    assert await redis.pttl(names.driver("gpu")) > 30_000


async def test_a_lease_that_is_given_back_is_free_at_once_and_nobody_gives_back_another_ones(
    registry: Registry,
) -> None:
    await registry.drive("gpu", "w1", 60)
    await registry.beat("w1", {}, {"gpu": {"healthy": True}})
    await registry.stop_driving("gpu", "w2", {"healthy": False})
    assert not await registry.drive("gpu", "w2", 60)
    assert [beat.healthy for beat in await registry.backends()] == [True]
    await registry.stop_driving("gpu", "w1", {"healthy": False})
    assert await registry.drive("gpu", "w2", 60)
    assert [beat.healthy for beat in await registry.backends()] == [False]


# What backends offer, outages.


async def test_a_catalog_is_kept_by_its_digest_and_lives_as_long_as_its_backend_beats(
    registry: Registry, redis: ArqRedis, names: Names
) -> None:
    digest = await registry.put_catalog(INFO)
    assert digest == await registry.put_catalog(INFO)
    assert digest != await registry.put_catalog(b"{}")
    fresh = Registry(redis, names, stale_s=30)
    catalog = await fresh.catalog(digest)
    assert catalog is not None
    assert catalog.nodes["SaveImage"].is_output
    assert await fresh.catalog("unknown") is None
    await redis.expire(names.catalog(digest), 5)
    await registry.beat("w1", {}, {"gpu": {"catalog": digest}})
    assert await redis.ttl(names.catalog(digest)) > 3600


async def test_catalogs_in_memory_are_bounded(registry: Registry) -> None:
    digests = [await registry.put_catalog(json.dumps({f"Node{number}": {}}).encode()) for number in range(20)]
    for digest in digests:
        assert await registry.catalog(digest) is not None
    assert len(registry.catalog_weights) <= 16


async def test_what_a_backend_offered_before_is_soon_forgotten(
    registry: Registry, redis: ArqRedis, names: Names
) -> None:
    shared, changed = await registry.put_catalog(INFO), await registry.put_catalog(b'{"A": {}}')
    await registry.put_catalog(b'{"B": {}}', instead_of=shared)
    await registry.put_catalog(b'{"B": {}}', instead_of=changed)
    # Another backend offers one of the two as before.
    await registry.beat("w", {}, {"gpu": {"catalog": shared}})
    assert await redis.ttl(names.catalog(shared)) > 3600
    assert 0 < await redis.ttl(names.catalog(changed)) < 600
    assert await registry.put_catalog(INFO, instead_of=shared) == shared
    assert await redis.ttl(names.catalog(shared)) > 3600


@pytest.mark.slow
async def test_catalogs_in_memory_weigh_no_more_than_they_may(registry: Registry) -> None:
    wide = {str(number): {"input": {"required": {"a": [["x" * 1900] * 8000]}}} for number in range(2)}
    digests = [await registry.put_catalog(json.dumps(wide | {f"N{number}": {}}).encode()) for number in range(6)]
    for digest in digests:
        assert await registry.catalog(digest) is not None
    assert 0 < sum(registry.catalog_weights.values()) <= 128 * 2**20
    assert len(registry.catalog_weights) < 6


async def test_a_catalog_that_cannot_be_read_is_not_known(registry: Registry, redis: ArqRedis, names: Names) -> None:
    for packed in (b"", b"x", zlib.compress(b"[]"), zlib.compress(b" " * 70 * 2**20 + b"{}", 1)):
        await redis.set(names.catalog("d"), packed)
        assert await registry.catalog("d") is None


async def test_a_heartbeat_that_cannot_be_written_costs_the_others_nothing(registry: Registry) -> None:
    await registry.beat(
        "w", {"pid": 1}, {"bad": {"vram_free": float("nan")}, "odd": {"a": object()}, "good": {"slots": 1}}
    )
    assert [(beat.name, beat.slots) for beat in await registry.backends()] == [("good", 1)]
    assert [beat.name for beat in await registry.workers()] == ["w"]
    await registry.beat("w", {"pid": float("inf")}, {"good": {"slots": 2}})
    assert [beat.slots for beat in await registry.backends()] == [2]


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[1]", b"[" * 100_000, b"1" * 5000, b'"' + b"x" * 2**20 + b'"'])
async def test_a_heartbeat_that_cannot_be_read_costs_the_others_nothing_and_is_logged_once(
    registry: Registry, redis: ArqRedis, names: Names, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.beat("w", {}, {"bad": {"healthy": True}, "good": {"healthy": True}})
    await redis.set(names.backend("bad"), raw, ex=KEPT_S)
    for _ in range(2):
        assert [(beat.name, beat.healthy) for beat in await registry.backends()] == [("bad", None), ("good", True)]
    assert caplog.text.count("the heartbeat of 'bad' cannot be read") == 1


async def test_while_redis_is_away_everything_says_so(settings: Settings, names: Names) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1"), "redis_timeout_seconds": 1})
    client = make_redis(away, patient=False)
    registry = Registry(client, names, stale_s=30)
    calls = (
        registry.beat("w", {}, {}),
        registry.leave("w"),
        registry.workers(),
        registry.drive("gpu", "w", 60),
        registry.stop_driving("gpu", "w", {}),
        registry.put_catalog(INFO),
        registry.catalog("x"),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in results} == {QueueUnavailable}
    await close(client)


async def test_an_offer_of_two_readings_is_put_together_once(registry: Registry) -> None:
    whole, more, other = [
        await registry.put_catalog(json.dumps({name: {"input": {}, "output": []}}).encode()) for name in "abc"
    ]
    catalog = await registry.catalog(f"{whole}+{more}")
    assert catalog is not None
    assert set(catalog.nodes) == {"a", "b"}
    assert await registry.catalog(f"{whole}+{more}") is catalog
    changed = await registry.catalog(f"{whole}+{other}")
    assert changed is not None
    assert set(changed.nodes) == {"a", "c"}
