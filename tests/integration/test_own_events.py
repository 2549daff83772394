"""`/ws/events` of a user: what happens to its own jobs, and no word of others or of the fleet."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from app import keys
from app.domain.access import Role
from app.keys import EVENTS, HUB, PREVIEWS, VIEWS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    # Each message of progress for itself.
    monkeypatch.setattr("app.messaging.hub.PROGRESS_S", 0.0)


@asynccontextmanager
async def events_of(
    client: TestClient[Any, Any], name: str, role: Role = Role.USER
) -> AsyncIterator[ClientWebSocketResponse]:
    """Open `/ws/events` with a key of its own, and read the greeting."""
    key = await client.app[keys.KEYS].add(name, role)
    async with client.ws_connect("/ws/events", headers={"X-API-Key": key}) as ws:
        assert (await ws.receive_json())["type"] == "hello"
        yield ws


async def heard_until(ws: ClientWebSocketResponse, job_id: int, phase: str) -> list[dict[str, Any]]:
    """Return all events up to the one that the job is in this phase, but for greetings."""
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(30):
        while not heard or (heard[-1].get("job_id"), heard[-1].get("phase")) != (job_id, phase):
            event = await ws.receive_json()
            heard += [event] if event["type"] != "hello" else []
    return heard


async def test_a_user_hears_of_its_own_jobs_in_order_and_of_nothing_else(client, life):
    async with events_of(client, "ann") as ann, events_of(client, "boss", Role.VIEWER) as boss:
        other = await life.execute(user_id="ben")
        await client.app[EVENTS].publish_event({"type": "worker", "name": "w"})
        await client.app[EVENTS].publish_event({"type": "keys_changed", "key": 0})
        await client.app[PREVIEWS].put(other.job_id, 1, 1, b"picture")
        mine = await life.execute(user_id="ann")
        await life.progress(mine, 40)
        await client.app[PREVIEWS].put(mine.job_id, 1, 1, b"picture")
        await life.complete(other)
        await life.complete(mine)
        heard = await heard_until(ann, mine.job_id, "completed")
        assert {event["job_id"] for event in heard} == {mine.job_id}
        assert "preview" in {event["type"] for event in heard}
        assert 40 in {event.get("progress") for event in heard}
        phases = [event["phase"] for event in heard if event["type"] == "job"]
        assert list(dict.fromkeys(phases)) == ["queued", "assigned", "executing", "saving", "completed"]
        everything = await heard_until(boss, mine.job_id, "completed")
        assert {event.get("job_id") for event in everything} >= {mine.job_id, other.job_id, None}


async def test_a_user_hears_that_its_job_was_deleted_though_it_never_heard_of_it(client, life):
    mine, other = await life.execute(user_id="ann"), await life.execute(user_id="ben")
    await life.complete(mine)
    await life.complete(other)
    async with events_of(client, "ann") as ann:
        await client.app[keys.CONTROL].delete(other.job_id)
        await client.app[keys.CONTROL].delete(mine.job_id)
        async with asyncio.timeout(30):
            while (event := await ann.receive_json())["type"] == "hello":
                pass
        assert (event["type"], event["job_id"]) == ("deleted", mine.job_id)


async def test_progress_that_is_held_back_comes_to_a_user_too(client, life, monkeypatch):
    monkeypatch.setattr("app.messaging.hub.PROGRESS_S", 0.5)
    async with events_of(client, "ann") as ann:
        mine = await life.execute(user_id="ann")
        await heard_until(ann, mine.job_id, "executing")
        for percent in (10, 20, 30):
            await life.progress(mine, percent)
        async with asyncio.timeout(30):
            while (await ann.receive_json()).get("progress") != 30:
                pass


async def test_owners_are_asked_for_only_while_a_user_listens(client, life, monkeypatch):
    asked: list[list[int]] = []
    read = client.app[VIEWS].owners

    async def counted(job_ids: list[int]) -> dict[int, str]:
        asked.append(job_ids)
        return await read(job_ids)

    monkeypatch.setattr(client.app[HUB]._own, "_owners", counted)  # noqa: SLF001
    async with events_of(client, "boss", Role.VIEWER) as boss:
        first = await life.execute(user_id="ann")
        await heard_until(boss, first.job_id, "executing")
        assert asked == []
        async with events_of(client, "ann") as ann:
            second = await life.execute(user_id="ann")
            await heard_until(ann, second.job_id, "executing")
        assert asked == [[second.job_id]]


async def test_a_user_is_greeted_again_when_events_may_have_been_lost(client):
    async with events_of(client, "ann") as ann:
        await client.app[HUB].resync()
        async with asyncio.timeout(30):
            assert (await ann.receive_json())["type"] == "hello"


async def test_a_user_may_have_a_ticket_for_events_of_its_own_jobs(client, life):
    key = {"X-API-Key": await client.app[keys.KEYS].add("ann", Role.USER)}
    told = await (await client.post("/api/v1/ws-tickets", json={"events": True}, headers=key)).json()
    async with client.ws_connect(told["url"]) as ws:
        assert (await ws.receive_json())["type"] == "hello"
        await life.submit(user_id="ben")
        mine = await life.submit(user_id="ann")
        assert {event["job_id"] for event in await heard_until(ws, mine, "queued")} == {mine}
