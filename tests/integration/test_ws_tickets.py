"""Tickets of WebSockets: one socket each, once and soon, for the jobs that they name, as long as their key lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSServerHandshakeError
from integration.closed_ports import closed
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app import keys
from app.domain.access import Role
from app.main import create_app
from app.messaging.tickets import TTL_S

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

TICKETS = "/api/v1/ws-tickets"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)


class Holder:
    """Who holds a key."""

    def __init__(self, client: TestClient[Any, Any], key: str) -> None:
        self._client = client
        self.key = key

    async def ask(self, **body: Any) -> tuple[int, dict[str, Any]]:
        """Ask for a ticket."""
        answer = await self._client.post(TICKETS, json=body, headers={"X-API-Key": self.key})
        return answer.status, await answer.json()

    async def ticket(self, **body: Any) -> dict[str, Any]:
        status, told = await self.ask(**body)
        assert status == 201, told
        return told


@pytest.fixture
async def ann(client) -> Holder:
    return Holder(client, await client.app[keys.KEYS].add("ann", Role.USER))


@pytest.fixture
async def boss(client) -> Holder:
    return Holder(client, await client.app[keys.KEYS].add("boss", Role.ADMIN))


async def refused(client: TestClient[Any, Any], path: str, **headers: str) -> tuple[int, str]:
    """Return status and code with which no socket is opened."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = await client.get(path, headers=upgrade | key | headers)
    return answer.status, (await answer.json())["code"]


async def test_a_ticket_opens_one_socket_without_a_key_and_no_other(client, ann, life):
    job_ids = [await life.submit(user_id="ann") for _ in range(2)]
    told = await ann.ticket(job_ids=job_ids)
    assert told["url"] == f"/ws/jobs?job_ids={job_ids[0]},{job_ids[1]}&ticket={told['ticket']}"
    async with client.ws_connect(told["url"]) as ws:
        frames = [await ws.receive_json() for _ in job_ids]
        assert {frame["job_id"] for frame in frames} == set(job_ids)
        # Also while the first one is open.
        assert await refused(client, told["url"]) == (401, "wrong_ticket")
    assert (await client.get(f"/ws/jobs?job_ids={job_ids[0]}")).status == 401


async def test_of_two_who_come_at_once_with_a_ticket_one_is_let_in(client, ann, life):
    told = await ann.ticket(job_ids=[await life.submit(user_id="ann")])
    came = await asyncio.gather(*(client.ws_connect(told["url"]) for _ in range(8)), return_exceptions=True)
    statuses = [each.status for each in came if isinstance(each, WSServerHandshakeError)]
    assert statuses == [401] * 7
    for each in came:
        if not isinstance(each, BaseException):
            await each.close()


async def test_a_ticket_is_for_its_jobs_alone(client, boss, life):
    mine, other = await life.submit(user_id="ann"), await life.submit(user_id="ann")
    for path in (f"/ws/jobs/{other}", f"/ws/jobs?job_ids={mine},{other}", "/ws/events"):
        ticket = (await boss.ticket(job_ids=[mine]))["ticket"]
        together = "&" if "?" in path else "?"
        assert await refused(client, f"{path}{together}ticket={ticket}") == (401, "wrong_ticket"), path
        # And it is used up.
        assert await refused(client, f"/ws/jobs/{mine}?ticket={ticket}") == (401, "wrong_ticket")
    ticket = (await boss.ticket(job_ids=[mine, other]))["ticket"]
    async with client.ws_connect(f"/ws/jobs/{mine}?ticket={ticket}") as ws:
        assert (await ws.receive_json())["job_id"] == mine


async def test_a_ticket_opens_no_other_address(client, ann, life):
    job_id = await life.submit(user_id="ann")
    for path in (f"/api/v1/generation-jobs/{job_id}", "/api/v1/generation-jobs/", "/health/ready"):
        ticket = (await ann.ticket(job_ids=[job_id]))["ticket"]
        assert (await client.get(f"{path}?ticket={ticket}")).status == 401, path


async def test_a_ticket_for_events_is_for_them_alone(client, boss, life):
    told = await boss.ticket(events=True)
    assert told["url"] == f"/ws/events?ticket={told['ticket']}"
    async with client.ws_connect(told["url"]) as ws:
        assert (await ws.receive_json())["type"] == "hello"
    job_id, ticket = await life.submit(), (await boss.ticket(events=True))["ticket"]
    assert await refused(client, f"/ws/jobs/{job_id}?ticket={ticket}") == (401, "wrong_ticket")


async def test_jobs_of_others_are_not_there_when_the_ticket_is_made(ann, boss, life):
    own, others = await life.submit(user_id="ann"), await life.submit(user_id="ben")
    assert (await ann.ask(job_ids=[own, others]))[0] == 404
    status, told = await ann.ask(job_ids=[own, 10**9])
    assert (status, told["code"]) == (404, "job_not_found")
    assert (await boss.ask(job_ids=[own, others]))[0] == 201


async def test_a_ticket_of_a_deleted_job_is_404_at_the_upgrade(client, ann, life):
    claim = await life.execute(user_id="ann")
    await life.complete(claim)
    told = await ann.ticket(job_ids=[claim.job_id])
    gone = await client.delete(f"/api/v1/generation-jobs/{claim.job_id}", headers={"X-API-Key": ann.key})
    assert gone.status == 204
    assert await refused(client, told["url"]) == (404, "job_not_found")


async def test_a_ticket_lives_for_a_minute_and_is_kept_as_a_hash(client, ann, life, redis, names):
    told = await ann.ticket(job_ids=[await life.submit(user_id="ann")])
    (name,) = [key async for key in redis.scan_iter(names.ticket("*"))]
    assert told["ticket"].encode() not in name + await redis.get(name)
    assert 0 < await redis.ttl(name) <= TTL_S
    # Its time is over.
    await redis.pexpire(name, 0)
    assert await refused(client, told["url"]) == (401, "wrong_ticket")


@pytest.mark.parametrize("ticket", ["", "x", "%C3%BC", "%ff%fe", "A" * 6000, "a&ticket=b"])
async def test_what_is_no_ticket_is_refused_also_where_no_key_is_needed(client, life, ticket):
    job_id = await life.submit()
    assert await refused(client, f"/ws/jobs/{job_id}?ticket={ticket}") == (401, "wrong_ticket")


async def test_a_key_and_a_ticket_are_not_taken_together_and_the_ticket_stays_good(client, ann, life):
    told = await ann.ticket(job_ids=[await life.submit(user_id="ann")])
    assert await refused(client, told["url"], **{"X-API-Key": ann.key}) == (400, "bad_parameter")
    assert await refused(client, told["url"], Origin="https://elsewhere.example") == (403, "foreign_origin")
    async with client.ws_connect(told["url"], headers={"Cookie": "genonaut_session=nonsense"}):
        pass


async def test_tickets_of_a_revoked_key_open_nothing_and_their_sockets_end(client, ann, life):
    first, second = [await ann.ticket(job_ids=[await life.submit(user_id="ann")]) for _ in range(2)]
    ben = await client.app[keys.KEYS].add("ben", Role.VIEWER)
    # A browser brings its cookies along: it is the ticket that lets it in.
    cookie = {"Cookie": "genonaut_session=another"}
    async with (
        client.ws_connect(first["url"], headers=cookie) as ws,
        client.ws_connect("/ws/events", headers={"X-API-Key": ben}) as of_ben,
    ):
        await ws.receive_json()
        await client.app[keys.ACCESS].tell_of_change(await client.app[keys.KEYS].revoke("ben"))
        async with asyncio.timeout(30):
            while of_ben.close_code is None:
                await of_ben.receive()
        # All sockets were looked at, and this one's ticket is of a key that lives.
        await ws.send_json({"type": "ping"})
        assert (await ws.receive_json())["type"] == "pong"
        await client.app[keys.ACCESS].tell_of_change(await client.app[keys.KEYS].revoke("ann"))
        async with asyncio.timeout(30):
            await ws.receive()
        assert ws.close_code == 4401
    assert await refused(client, second["url"]) == (401, "wrong_ticket")


async def test_a_ticket_from_before_the_first_key_opens_nothing_afterwards(client, life):
    job_id = await life.submit()
    answers = [await client.post(TICKETS, json={"job_ids": [job_id]}) for _ in range(3)]
    first, second, third = [(await answer.json())["url"] for answer in answers]
    async with client.ws_connect(first) as ws:
        assert (await ws.receive_json())["job_id"] == job_id
    assert await refused(client, second, **{"X-Forwarded-For": "192.0.2.1"}) == (401, "sign_in_needed")
    await client.app[keys.KEYS].add("ann", Role.ADMIN)
    assert await refused(client, third) == (401, "sign_in_needed")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"job_ids": []}, 422),
        ({"job_ids": [1], "events": True}, 422),
        ({"job_ids": list(range(501))}, 422),
        ({"job_ids": ["1"]}, 422),
        ({"job_ids": [-1]}, 422),
        ({"events": False}, 422),
        ({"events": True, "more": 1}, 422),
    ],
)
async def test_a_wrong_wish_for_a_ticket_is_refused(client, body, status):
    assert (await client.post(TICKETS, json=body)).status == status


async def test_while_redis_is_away_there_are_no_tickets(settings, aiohttp_client):
    client = await aiohttp_client(create_app(closed(settings, "redis_url")))
    answer = await client.post(TICKETS, json={"events": True})
    assert (answer.status, (await answer.json())["code"]) == (503, "redis_unavailable")
    assert await refused(client, "/ws/events?ticket=x") == (503, "redis_unavailable")


@pytest.mark.parametrize("chosen", ["genonaut", None])
async def test_a_key_comes_as_a_subprotocol_from_the_websockets_client(client, ann, life, chosen):
    job_id, of_key = await life.submit(user_id="ann"), f"genonaut.key.{ann.key}"
    url = str(client.make_url(f"/ws/jobs/{job_id}")).replace("http", "ws", 1)
    async with connect(url, subprotocols=[*([chosen] if chosen else []), of_key]) as ws:
        assert ws.subprotocol == (chosen or of_key)
        assert f'"job_id":{job_id}' in str(await ws.recv()).replace(" ", "")
    with pytest.raises(InvalidStatus) as wrong:
        await connect(url, subprotocols=["genonaut", f"{of_key[:-1]}{'a' if of_key[-1] != 'a' else 'b'}"])
    assert wrong.value.response.status_code == 401


async def test_under_a_prefix_the_address_of_a_ticket_has_it(settings, aiohttp_client):
    client = await aiohttp_client(create_app(settings.model_copy(update={"root_path": "/images"})))
    told = await (await client.post(TICKETS, json={"events": True})).json()
    assert told["url"].startswith("/images/ws/events?ticket=")
    async with client.ws_connect(told["url"]) as ws:
        assert (await ws.receive_json())["type"] == "hello"
