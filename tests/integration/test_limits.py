"""Limits of keys: requests a second, sockets, jobs, uploads; and that nothing is limited or counted without keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from app import keys
from app.domain.access import Role
from app.domain.limits import limits_of
from app.main import create_app
from app.messaging.redis_connection import close, make_redis
from app.messaging.request_rates import RequestRates
from harness import eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.settings import Settings

JOBS = "/api/v1/generation-jobs"
ME = "/api/v1/me"
JOB = {"job_type": "image", "prompt": "a house"}
SLOW = "requests_per_second=0.01 burst=3"
"""Three requests, and nothing more while a test lasts."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)


class Holder:
    """Who holds a key."""

    def __init__(self, client: TestClient[Any, Any], secret: str) -> None:
        self._client = client
        self.headers = {"Authorization": f"Bearer {secret}"}

    async def get(self, path: str) -> tuple[int, Any, Any]:
        """Return status, answer and headers."""
        async with self._client.get(path, headers=self.headers) as answer:
            return answer.status, await answer.json(), answer.headers

    async def send(self, path: str = JOBS, body: Any = JOB, **more: Any) -> tuple[int, Any, Any]:
        """Post JSON, and return status, answer and headers."""
        async with self._client.post(path, json=body, headers=self.headers | more) as answer:
            return answer.status, await answer.json(), answer.headers


async def holder(
    client: TestClient[Any, Any], limits: str = "", *, name: str = "ann", role: Role = Role.USER, owner: str = "ann"
) -> Holder:
    """Make a key with these limits, and return who holds it."""
    own = limits_of(limits).told()
    return Holder(client, await client.app[keys.KEYS].add(name, role, owner=owner, limits=own))


async def _uses(holder: Holder, **expected: int) -> bool:
    return (await holder.get(ME))[1]["use"].items() >= expected.items()


async def test_without_keys_nothing_is_counted(client, redis, names):
    async with client.get(ME) as answer:
        assert answer.status == 200
        assert "RateLimit" not in answer.headers
        told = await answer.json()
    assert told == {"name": None, "role": "admin", "owner": None, "limits": None, "use": None}
    assert not await redis.keys(f"{names.namespace}:rate:*")


async def test_requests_beyond_the_burst_are_refused_and_say_when_to_come_again(client):
    ann = await holder(client, SLOW)
    left = []
    for _ in range(3):
        status, _, headers = await ann.get(ME)
        assert status == 200
        assert headers["RateLimit-Policy"] == '"requests";q=3;w=300'
        left.append(headers["RateLimit"].partition(";t=")[0])
    assert left == [f'"requests";r={count}' for count in (2, 1, 0)]
    status, told, headers = await ann.get(ME)
    assert (status, told["code"]) == (429, "too_many_requests")
    assert 0 < int(headers["Retry-After"]) <= 100
    assert headers["RateLimit"] == f'"requests";r=0;t={headers["Retry-After"]}'
    assert headers["RateLimit-Policy"] == '"requests";q=3;w=300'


async def test_what_one_key_uses_is_not_anothers(client):
    ann, ben = await holder(client, SLOW), await holder(client, SLOW, name="ben", owner="ben")
    assert [(await ann.get(ME))[0] for _ in range(4)] == [200, 200, 200, 429]
    assert (await ben.get(ME))[0] == 200


async def test_what_is_refused_costs_nothing(client):
    ann = await holder(client, "requests_per_second=0.02 burst=1")
    await ann.get(ME)
    first = int((await ann.get(ME))[2]["Retry-After"])
    for _ in range(5):
        status, _, headers = await ann.get(ME)
        assert status == 429
        assert int(headers["Retry-After"]) <= first


async def test_requests_that_are_not_allowed_count_too(client):
    ann = await holder(client, SLOW)
    assert [(await ann.get("/api/v1/workers"))[0] for _ in range(4)] == [403, 403, 403, 429]


async def test_a_key_without_that_limit_is_not_counted(client, redis, names):
    ann = await holder(client)
    status, _, headers = await ann.get(ME)
    assert status == 200
    assert "RateLimit" not in headers
    await client.app[keys.RATES].settle()
    assert not await redis.keys(f"{names.namespace}:rate:*")


async def test_what_is_used_at_one_server_is_used_at_the_other(client, settings: Settings, aiohttp_client):
    ann = await holder(client, SLOW)
    other = await aiohttp_client(TestServer(create_app(settings)))
    assert [(await ann.get(ME))[0] for _ in range(3)] == [200, 200, 200]
    await client.app[keys.RATES].settle()
    async with other.get(ME, headers=ann.headers) as answer:
        assert answer.status == 429


async def test_many_at_once_get_no_more_than_the_burst(redis: ArqRedis, names: Names):
    rates, limits = RequestRates(redis, names), limits_of("requests_per_second=0.01 burst=10")
    let_in = [rate.retry_after_s == 0 for rate in await asyncio.gather(*(rates.use(1, limits) for _ in range(50)))]
    assert sum(let_in) == 10
    await rates.settle()


async def test_two_servers_learn_of_each_other_while_both_are_busy(redis: ArqRedis, names: Names):
    one, two = RequestRates(redis, names), RequestRates(redis, names)
    limits = limits_of("requests_per_second=0.01 burst=100")
    used = 0
    for _ in range(100):
        used += (await one.use(1, limits)).retry_after_s == 0
        used += (await two.use(1, limits)).retry_after_s == 0
        await one.settle()
        await two.settle()
    assert 100 <= used <= 102


async def test_while_redis_is_away_each_server_counts_for_itself(names: Names, settings: Settings, monkeypatch):
    monkeypatch.setattr("app.messaging.request_rates.PATIENCE_S", 0.05)
    away = make_redis(settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")}), patient=False)
    rates, limits = RequestRates(away, names), limits_of(SLOW)
    assert [(await rates.use(1, limits)).retry_after_s == 0 for _ in range(4)] == [True, True, True, False]
    await rates.settle()
    await close(away)


async def test_a_key_is_told_who_it_is_and_what_it_uses(client):
    ann = await holder(client, "requests_per_second=1 burst=9 waiting=5 jobs_per_day=7", name="bot", owner="ann")
    await ann.send()
    status, told, _ = await ann.get(ME)
    assert status == 200
    assert (told["name"], told["role"], told["owner"]) == ("bot", "user", "ann")
    assert told["limits"] == {
        "requests_per_second": 1,
        "burst": 9,
        "sockets": None,
        "waiting": 5,
        "running": None,
        "jobs_per_day": 7,
        "upload_bytes": None,
    }
    assert told["use"] == {
        "requests_left": 7,
        "sockets": 0,
        "waiting": 1,
        "running": 0,
        "jobs_today": 0,
        "upload_bytes": 0,
    }


async def test_a_keys_limits_are_its_roles_where_it_has_none_of_its_own(client, settings: Settings):
    secret = await client.app[keys.KEYS].add("ann", Role.USER, limits={"waiting": 3, "sockets": None})
    _, told, _ = await Holder(client, secret).get(ME)
    assert told["limits"] == settings.limits[Role.USER].told() | {"waiting": 3, "sockets": None}


async def test_a_changed_limit_holds_at_once(client):
    ann = await holder(client, SLOW)
    assert [(await ann.get(ME))[0] for _ in range(4)] == [200, 200, 200, 429]
    store = client.app[keys.KEYS]
    await client.app[keys.ACCESS].tell_of_change(await store.limit("ann", {"requests_per_second": None}))
    assert (await ann.get(ME))[0] == 200


async def test_a_key_opens_no_more_sockets_than_it_may(client):
    ann = await holder(client, "sockets=2")
    _, job, _ = await ann.send()
    where = f"/ws/jobs/{job['job_id']}"
    first = await client.ws_connect(where, headers=ann.headers)
    second = await client.ws_connect(where, headers=ann.headers)
    assert (await ann.get(ME))[1]["use"]["sockets"] == 2
    with pytest.raises(WSServerHandshakeError) as refused:
        await client.ws_connect(where, headers=ann.headers)
    assert refused.value.status == 429
    assert refused.value.headers is not None
    assert int(refused.value.headers["Retry-After"]) >= 1
    await first.close()
    await eventually(lambda: _uses(ann, sockets=1))
    third = await client.ws_connect(where, headers=ann.headers)
    for each in (second, third):
        await each.close()
