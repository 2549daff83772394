"""Limits of keys: requests a second, sockets, jobs, uploads; and that nothing is limited or counted without keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import FormData, WSServerHandshakeError
from aiohttp.test_utils import TestServer
from integration.monitor_fixtures import Document
from PIL import Image
from pydantic import SecretStr
from samples import new_job

from app import keys
from app.domain.access import Role
from app.domain.job import Job
from app.domain.limits import limits_of
from app.main import create_app
from app.messaging.redis_connection import close, make_redis
from app.messaging.request_rates import RequestRates
from app.services.submit import FLIGHTS
from app.storage.job_views import JobViews
from app.storage.jobs import JobStore
from app.web.rates import HELD
from app.web.requests_at_once import AT_ONCE, REQUESTS_AT_ONCE, RequestsAtOnce
from harness import eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.settings import Settings

JOBS = "/api/v1/generation-jobs"
ME = "/api/v1/me"
UPLOADS = "/api/v1/uploads"
JOB = {"job_type": "image", "prompt": "a house"}
SLOW = "requests_per_second=0.01 burst=3"
"""Three requests, and nothing more while a test lasts."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.access.OPEN_S", -1.0)
    monkeypatch.setattr("app.web.rates.HELD_S", 0.0)


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


def noise(side: int) -> bytes:
    """Return a picture; no two are the same."""
    data = io.BytesIO()
    Image.effect_noise((side, side), 90).save(data, "PNG")
    return data.getvalue()


async def upload(client: TestClient[Any, Any], holder: Holder, data: bytes) -> tuple[int, Any]:
    """Send a file as the body, and return status and answer."""
    headers = holder.headers | {"Content-Type": "image/png"}
    async with client.post(UPLOADS, data=data, headers=headers) as answer:
        return answer.status, await answer.json()


async def _is_locked(room: asyncio.Semaphore) -> bool:
    return room.locked()


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


async def test_a_key_with_much_under_way_waits_for_itself_and_no_other_key_for_it(client):
    ann, ben = await holder(client, ""), await holder(client, "", name="ben", owner="ben")
    key_id = (await client.app[keys.KEYS].named("ann")).id
    at_once = client.app[REQUESTS_AT_ONCE]
    at_once.patience_s = 3600.0
    for _ in range(AT_ONCE):
        await at_once.begin(key_id)
    waits = asyncio.create_task(ann.get(ME))
    # It comes before these, which are answered.
    await eventually(partial(_waits, at_once, key_id))
    assert (await ben.get(ME))[0] == 200
    # What may take long waits for nothing.
    assert (await upload(client, ann, noise(8)))[0] == 201
    async with client.ws_connect("/ws/events", headers=ann.headers):
        pass
    assert not waits.done()
    at_once.end(key_id)
    assert (await waits)[0] == 200
    for _ in range(AT_ONCE - 1):
        at_once.end(key_id)
    assert at_once.begun(key_id) == 0


async def _waits(at_once: RequestsAtOnce, key_id: int) -> bool:
    return at_once.waiting(key_id) > 0


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
    ann = await holder(client, "requests_per_second=0.01 burst=9 waiting=5 jobs_per_day=7", name="bot", owner="ann")
    await ann.send()
    status, told, _ = await ann.get(ME)
    assert status == 200
    assert (told["name"], told["role"], told["owner"]) == ("bot", "user", "ann")
    assert told["limits"] == {
        "requests_per_second": 0.01,
        "burst": 9,
        "sockets": None,
        "waiting": 5,
        "running": None,
        "jobs_per_day": 7,
        "upload_bytes": None,
        "priority": None,
    }
    assert told["use"] == {
        "requests_left": 7,
        "sockets": 0,
        "waiting": 1,
        "running": 0,
        "jobs_today": 1,
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


async def test_no_more_jobs_of_an_owner_wait_than_may(client):
    ann = await holder(client, "waiting=2")
    other = await holder(client, "waiting=3", name="anns bot")
    assert [(await ann.send())[0] for _ in range(2)] == [201, 201]
    status, told, headers = await ann.send()
    assert (status, told["code"]) == (429, "too_many_waiting")
    assert int(headers["Retry-After"]) > 0
    assert [(await other.send())[0] for _ in range(2)] == [201, 429]
    ben = await holder(client, "waiting=2", name="ben", owner="ben")
    assert (await ben.send())[0] == 201


async def test_a_job_that_no_longer_waits_makes_room(client):
    ann = await holder(client, "waiting=1")
    _, job, _ = await ann.send()
    assert (await ann.send())[0] == 429
    assert (await ann.send(f"{JOBS}/{job['job_id']}/cancel", {}))[0] == 200
    assert (await ann.send())[0] == 201


async def test_of_many_at_once_not_many_more_are_accepted_than_may_wait(client):
    ann = await holder(client, "waiting=5")
    became = [status for status, _, _ in await asyncio.gather(*(ann.send() for _ in range(60)))]
    # Each of the statements under way at once may accept as many.
    assert 5 <= became.count(201) <= 5 * FLIGHTS
    assert became.count(429) == 60 - became.count(201)


async def test_of_jobs_accepted_together_the_first_ones_are_let_in(database):
    asked = [new_job(user_id=user_id) for user_id in ("ann", "ben", "ann", "ann", "cay")]
    limits = [limits_of(text) for text in ("waiting=2", "waiting=0", "waiting=2", "waiting=2", "")]
    became = await JobStore(database).create_limited(list(zip(asked, limits, strict=True)))
    full = "too_many_waiting"
    assert [getattr(each, "code", None) for each in became] == [None, full, None, full, None]
    accepted = [each for each in became if isinstance(each, Job)]
    views = JobViews(database)
    assert [(await views.view(job.job_id)).job.user_id for job in accepted] == ["ann", "ann", "cay"]
    assert [job.job_id for job in accepted] == sorted(job.job_id for job in accepted)


async def test_jobs_of_a_day_are_counted_even_when_they_are_deleted(client):
    ann = await holder(client, "jobs_per_day=2")
    for _ in range(2):
        status, job, _ = await ann.send()
        assert status == 201
        await ann.send(f"{JOBS}/{job['job_id']}/cancel", {})
        async with client.delete(f"{JOBS}/{job['job_id']}", headers=ann.headers) as deleted:
            assert deleted.status == 204
    status, told, headers = await ann.send()
    assert (status, told["code"]) == (429, "too_many_today")
    assert 0 < int(headers["Retry-After"]) <= 86400
    assert await _uses(ann, jobs_today=2, waiting=0)


async def test_a_new_day_begins_with_none(client, plain):
    ann = await holder(client, "jobs_per_day=1")
    assert [(await ann.send())[0] for _ in range(2)] == [201, 429]
    await plain.execute("UPDATE owner_days SET day = day - 1")
    assert [(await ann.send())[0] for _ in range(2)] == [201, 429]


async def test_counts_of_days_long_past_are_forgotten(database, plain):
    await plain.execute("INSERT INTO owner_days VALUES ('ann', current_date - 9, 5), ('ann', current_date, 6)")
    await JobStore(database).prune_keys()
    assert await plain.fetchval("SELECT array_agg(jobs) FROM owner_days") == [6]


async def test_a_request_that_comes_again_gets_its_answer_whatever_the_limits(client):
    ann = await holder(client, "waiting=1")
    first = await ann.send(**{"Idempotency-Key": "k"})
    assert first[0] == 201
    status, told, _ = await ann.send(**{"Idempotency-Key": "k"})
    assert (status, told["job_id"]) == (201, first[1]["job_id"])
    status, told, _ = await ann.send(**{"Idempotency-Key": "another"})
    assert (status, told["code"]) == (429, "too_many_waiting")
    # What was refused was not answered for good.
    await ann.send(f"{JOBS}/{first[1]['job_id']}/cancel", {})
    assert (await ann.send(**{"Idempotency-Key": "another"}))[0] == 201


@pytest.mark.parametrize(("limits", "code"), [("waiting=1", "too_many_waiting"), ("jobs_per_day=2", "too_many_today")])
async def test_a_retry_counts_as_a_job_more(client, limits, code):
    ann = await holder(client, limits)
    _, first, _ = await ann.send()
    await ann.send(f"{JOBS}/{first['job_id']}/cancel", {})
    assert (await ann.send())[0] == 201
    status, told, _ = await ann.send(f"{JOBS}/{first['job_id']}/retry", {})
    assert (status, told["code"]) == (429, code)
    _, bulk, _ = await ann.send(f"{JOBS}/retry", {"job_ids": [first["job_id"]]})
    assert [each["code"] for each in bulk["results"]] == [code]
    assert (await ann.get(f"{JOBS}/{first['job_id']}"))[1]["status"] == "cancelled"


async def test_a_retry_that_is_let_in_is_counted(client):
    ann = await holder(client, "jobs_per_day=5")
    _, job, _ = await ann.send()
    await ann.send(f"{JOBS}/{job['job_id']}/cancel", {})
    assert (await ann.send(f"{JOBS}/{job['job_id']}/retry", {}))[0] == 200
    assert await _uses(ann, jobs_today=2)


async def test_a_job_for_another_user_is_not_counted_as_the_senders(client):
    boss = await holder(client, "waiting=0", name="boss", role=Role.OPERATOR, owner="boss")
    assert (await boss.send())[0] == 429
    assert (await boss.send(body=JOB | {"user_id": "ann"}))[0] == 201


async def test_what_an_operator_hands_over_for_another_is_not_counted_however_that_one_is_named(client):
    otto = await holder(client, "upload_bytes=10", name="otto", role=Role.OPERATOR, owner="otto")
    for number, user_id in enumerate(("ann", "otto", None)):
        form = FormData({"user_id": user_id} if user_id is not None else {})
        form.add_field("file", noise(300 + number), filename="x.png")
        async with client.post(UPLOADS, data=form, headers=otto.headers) as answer:
            assert answer.status == (201 if user_id == "ann" else 429), await answer.text()


async def test_uploads_of_an_owner_have_no_more_bytes_than_they_may(client):
    first, second = noise(24), noise(24)
    ann = await holder(client, f"upload_bytes={len(first) + len(second) - 1}")
    assert (await upload(client, ann, first))[0] == 201
    status, told = await upload(client, ann, second)
    assert (status, told["code"]) == (429, "upload_limit")
    # The same file again takes no room.
    assert (await upload(client, ann, first))[0] == 200
    assert await _uses(ann, upload_bytes=len(first))
    form = FormData()
    form.add_field("file", second, filename="b.png")
    async with client.post(UPLOADS, data=form, headers=ann.headers) as answer:
        assert answer.status == 429
    assert await _uses(ann, upload_bytes=len(first))


async def test_a_file_for_which_there_is_no_room_is_not_received(client):
    ann = await holder(client, "upload_bytes=1000")
    # Once received it would be refused for what it is.
    status, told = await upload(client, ann, b"x" * 200_000)
    assert (status, told["code"]) == (429, "upload_limit")


async def test_a_file_within_a_job_takes_room_too(client):
    ann = await holder(client, "upload_bytes=10")
    image = {"data": "data:image/png;base64," + base64.b64encode(noise(64)).decode()}
    status, told, _ = await ann.send(body=JOB | {"image": image})
    assert (status, told["code"]) == (429, "upload_limit")


async def test_what_was_refused_is_counted_by_its_limit(client):
    ann = await holder(client, "waiting=0 requests_per_second=0.01 burst=4")
    assert [(await ann.send())[1]["code"] for _ in range(5)] == ["too_many_waiting"] * 4 + ["too_many_requests"]
    with contextlib.suppress(WSServerHandshakeError):
        await client.ws_connect("/ws/events", headers={"Authorization": "Bearer wrong"})
    boss = await holder(client, name="boss", role=Role.ADMIN, owner="boss")
    async with client.get("/metrics", headers=boss.headers) as answer:
        told = await answer.text()
    assert 'genonaut_requests_limited_total{limit="too_many_waiting"} 4.0' in told
    assert 'genonaut_requests_limited_total{limit="too_many_requests"} 1.0' in told
    assert "genonaut_wrong_keys_total 1.0" in told


async def test_a_refusal_is_held_but_not_more_than_there_is_room_for(client, monkeypatch):
    monkeypatch.setattr("app.web.rates.HELD_S", 3600.0)
    ann = await holder(client, SLOW)
    for _ in range(3):
        await ann.get(ME)
    room = client.app[HELD]
    while not room.locked():
        await room.acquire()
    # There is no room: it is answered, and this test ends.
    assert (await ann.get(ME))[0] == 429
    room.release()
    held = asyncio.create_task(ann.get(ME))
    await eventually(lambda: _is_locked(room))
    # Others go on.
    boss = await holder(client, name="boss", role=Role.ADMIN, owner="boss")
    assert (await boss.get(ME))[0] == 200
    assert not held.done()
    held.cancel()


async def test_the_page_shows_who_is_at_a_limit(client):
    boss = await holder(client, name="boss", role=Role.ADMIN, owner="boss")
    ann = await holder(client, "waiting=1 jobs_per_day=5")
    ben = await holder(client, "waiting=9", name="ben", owner="ben")
    for each in (ann, ben, ben):
        assert (await each.send())[0] == 201
    async with client.get("/monitor/stats", headers=boss.headers) as answer:
        assert answer.status == 200
        told = "".join(Document(await answer.text()).text.partition("At limit")[2].split())
    assert told.startswith("ann1of101of50MiBwaiting" + "ben2of9000MiB–" + "Since")
    standings = await client.app[keys.OWNERS_AT_LIMITS].use_of_all()
    assert [(each.owner, each.at_limit) for each in standings] == [("ann", ("waiting",)), ("ben", ())]


async def test_without_keys_the_page_lists_no_users(client, life):
    await life.submit()
    async with client.get("/monitor/stats") as answer:
        assert "Users now" not in await answer.text()
