"""Finding jobs: each filter is what plain SQL finds, paging loses and repeats nothing, and watching costs no link."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from aiohttp import ClientSession, TCPConnector
from integration.monitor_fixtures import Life, read
from redis.asyncio import Redis

from app.keys import HUB
from app.monitor.listing import NARROWING, NEWEST, ORDERS, TABS
from harness import eventually

if TYPE_CHECKING:
    import asyncpg
    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from app.storage.database import Database
    from app.storage.job_lists import Sort

# Each goes through a grid of filters, orders and places, and asks plain SQL for the same.
pytestmark = pytest.mark.slow

VIEWERS = 30
ENDED = "COALESCE(completed_at, now())"
OF_AN_ATTEMPT = "EXISTS (SELECT FROM job_attempts AS a WHERE a.job_id = j.id AND {})"
SQL = {
    "q": "prompt ILIKE '%' || $1 || '%'",
    "user": "user_id = $1",
    "model": "checkpoint_model = $1",
    "backend": "backend_name = $1",
    "worker": OF_AN_ATTEMPT.format("a.worker_id = $1"),
    "error": "error_code = $1",
    "node": OF_AN_ATTEMPT.format("a.node_type = $1 AND a.error_code = j.error_code"),
    "job_type": "job_type = $1",
    "from": "created_at >= $1::text::timestamptz",
    "to": "created_at < $1::text::timestamptz",
    "ended_from": "completed_at >= $1::text::timestamptz",
    "ended_to": "completed_at < $1::text::timestamptz",
    "waited_over": f"extract(epoch FROM COALESCE(started_at, {ENDED}) - queued_at) > $1::text::float",
    "ran_over": f"extract(epoch FROM {ENDED} - started_at) > $1::text::float",
}
"""What each filter of the address means, in plain SQL."""


@pytest.fixture
async def values(full: Database, plain: asyncpg.Connection) -> dict[str, str]:
    """A value for each filter, which some of the jobs have and others have not."""
    middle = await plain.fetchval("SELECT created_at FROM generation_jobs ORDER BY created_at OFFSET 900 LIMIT 1")
    ended = await plain.fetchval(
        "SELECT percentile_disc(0.4) WITHIN GROUP (ORDER BY completed_at) FROM generation_jobs"
    )
    return {
        "q": "LANTERN copper",
        "user": await plain.fetchval("SELECT mode() WITHIN GROUP (ORDER BY user_id) FROM generation_jobs"),
        "model": "model3.safetensors",
        "backend": "gpu5",
        "worker": "w2",
        "error": "out_of_memory",
        "node": "KSampler",
        "job_type": "video",
        **dict.fromkeys(("from", "to"), middle.isoformat()),
        **dict.fromkeys(("ended_from", "ended_to"), ended.isoformat()),
        "waited_over": "2.5",
        "ran_over": "14.7",
    }


async def whole_list(client: TestClient[Any, Any], address: dict[str, str]) -> list[int]:
    """Return the jobs of all pages of a list, in their order."""
    path, found = f"/monitor/?{urlencode(address | {'size': '200'})}", []
    for _ in range(100):
        page = await read(client, path)
        found += page.jobs
        # A search may leave a page empty, and then leads on in words.
        ahead = [
            link["href"]
            for link in page.all("a")
            if link["href"].startswith("/monitor/?") and "after=" in link["href"] and "view=" not in link["href"]
        ]
        if not ahead or ahead[-1] == path:
            return found
        path = ahead[-1]
    raise AssertionError("the pages have no end")


async def test_each_filter_is_what_plain_sql_finds(
    client: TestClient[Any, Any],
    plain: asyncpg.Connection,
    values: dict[str, str],
) -> None:
    assert set(SQL) == set(values) == set(NARROWING)
    whole = await plain.fetchval("SELECT count(*) FROM generation_jobs")
    select = "SELECT id FROM generation_jobs AS j WHERE {} ORDER BY created_at DESC, id DESC"
    for name, value in values.items():
        wanted = [row["id"] for row in await plain.fetch(select.format(SQL[name]), value)]
        assert 0 < len(wanted) < whole, name
        assert await whole_list(client, {name: value}) == wanted, name


@pytest.mark.parametrize("sort", ORDERS)
async def test_each_order_is_that_of_plain_sql_and_leads_on_and_back(
    client: TestClient[Any, Any],
    full: Database,
    plain: asyncpg.Connection,
    sort: Sort,
) -> None:
    # Changed in another order than sent.
    await plain.execute("UPDATE generation_jobs SET updated_at = created_at + id * 7919 % 1000 * interval '1 hour'")
    column, direction = sort.lstrip("-"), "DESC" if sort.startswith("-") else "ASC"
    statement = f"SELECT id FROM generation_jobs ORDER BY {column} {direction}, id {direction}"  # noqa: S608
    wanted = [row["id"] for row in await plain.fetch(statement)]
    page = await read(client, f"/monitor/?{urlencode({'sort': sort, 'size': '25'})}")
    current = [link["href"] for link in page.all("a") if link.get("aria-current") == "true"]
    assert "/monitor/?size=25" + (f"&sort={sort}" if sort != NEWEST else "") in current
    # A search goes on in this order.
    assert [field["value"] for field in page.all("input", type="hidden", name="sort")] == [sort]
    whole, places = list(page.jobs), [page]
    while ahead := places[-1].all("a", rel="next"):
        assert f"sort={sort}" in ahead[0]["href"]
        places.append(await read(client, ahead[0]["href"]))
        whole += places[-1].jobs
    assert whole == wanted
    assert f"26–50 of {len(wanted):,} jobs, {ORDERS[sort].word}" in places[1].text
    back = await read(client, places[2].all("a", rel="prev")[0]["href"])
    assert (back.jobs, back.all("a", rel="next")[0]["href"]) == (
        places[1].jobs,
        places[1].all("a", rel="next")[0]["href"],
    )
    # New jobs appear where the newest are shown first.
    assert page.all("main")[0]["data-first"] == ("yes" if sort.startswith("-") else "no")


async def test_each_tab_with_two_filters_is_what_plain_sql_finds(
    client: TestClient[Any, Any],
    plain: asyncpg.Connection,
    values: dict[str, str],
) -> None:
    clause = SQL["backend"] + " AND " + SQL["from"].replace("$1", "$2")
    select = (
        f"SELECT id FROM generation_jobs AS j WHERE {clause} AND status = ANY($3) ORDER BY created_at DESC, id DESC"  # noqa: S608
    )
    for tab, statuses in TABS.items():
        wanted = await plain.fetch(select, values["backend"], values["from"], [str(each) for each in statuses])
        assert wanted, tab
        address = {"status": tab, "backend": values["backend"], "from": values["from"]}
        assert await whole_list(client, address) == [row["id"] for row in wanted], tab


async def test_paging_through_a_thousand_while_a_hundred_arrive_shows_each_old_job_once(
    client: TestClient[Any, Any],
    database: Database,
    full: Database,
    plain: asyncpg.Connection,
) -> None:
    life = Life(client, database)
    await plain.execute("DELETE FROM generation_jobs WHERE id > 1000")
    old = [row["id"] for row in await plain.fetch("SELECT id FROM generation_jobs ORDER BY created_at DESC, id DESC")]
    assert len(old) == 1000
    seen: list[int] = []
    path, arrived = "/monitor/?size=50", 0
    while path:
        page = await read(client, path)
        seen += page.jobs
        for _ in range(5):
            await life.submit()
            arrived += 1
        path = next((link["href"] for link in page.all("a", rel="next")), "")
    assert arrived == 100
    assert seen == old


async def test_thirty_viewers_share_one_connection_to_redis(client: TestClient[Any, Any], settings: Settings) -> None:
    hub = client.app[HUB]

    async def watching() -> bool:
        return bool(hub.connected) and hub.viewers == VIEWERS

    async def connected() -> bool:
        return bool(hub.connected)

    await eventually(connected)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(settings.redis_url_with_db))
        session = await stack.enter_async_context(ClientSession(connector=TCPConnector(limit=0)))
        before = {one["id"] for one in await redis.client_list(_type="pubsub")}
        sockets = [await session.ws_connect(client.make_url("/ws/events")) for _ in range(VIEWERS)]
        for socket in sockets:
            assert (await socket.receive_json())["type"] == "hello"
        await eventually(watching)
        assert {one["id"] for one in await redis.client_list(_type="pubsub")} == before
        for socket in sockets:
            await socket.close()
