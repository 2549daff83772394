"""The list of jobs: tabs with counts, every filter of its address, its pages, and the summaries of backends."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from aiohttp.test_utils import TestServer
from integration.monitor_fixtures import WORKER, Life, read
from plans import recorded
from sqlalchemy import text

from app import keys
from app.domain.message import snapshot_of
from app.main import create_app
from app.monitor.listing import NARROWING
from app.storage.statistics_recorder import StatisticsRecorder
from harness import LIVES

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.database import Database

SOON = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
PAST = (datetime.now(UTC) - timedelta(hours=1)).isoformat()


async def words(client: Any, path: str) -> str:
    return " ".join((await read(client, path)).text.split())


async def mixed(life: Life) -> dict[str, int]:
    """One job of each status."""
    completed = await life.complete(await life.execute(prompt="done", user_id="ann"))
    failed = await life.fail(await life.execute(prompt="broken", user_id="ann"))
    cancelled = await life.submit(user_id="bob")
    await life.client.app[keys.CONTROL].cancel(cancelled, None, "test")
    running = await life.execute(user_id="bob")
    pending = await life.submit(user_id="ann")
    return {
        "completed": completed.job_id,
        "failed": failed.job_id,
        "cancelled": cancelled,
        "running": running.job_id,
        "pending": pending,
    }


async def test_tabs_show_their_jobs_and_count_them(client, life):
    jobs = await mixed(life)
    assert "Active 2 Completed 1 Failed 1 Cancelled 1 All 5" in await words(client, "/monitor/")
    assert "Active 1 Completed 1 Failed 1 Cancelled 0 All 3" in await words(client, "/monitor/?user=ann")
    for tab, wanted in (
        ("active", {jobs["pending"], jobs["running"]}),
        ("completed", {jobs["completed"]}),
        ("failed", {jobs["failed"]}),
        ("cancelled", {jobs["cancelled"]}),
        ("pending", {jobs["pending"]}),
        ("running", {jobs["running"]}),
        ("", set(jobs.values())),
    ):
        page = await read(client, f"/monitor/?status={tab}")
        assert set(page.jobs) == wanted
        current = [link for link in page.all("a") if link.get("aria-current") == "true" and "size" not in link["href"]]
        # The order of the list is one too.
        assert len(current) == (tab not in ("pending", "running")) + 1


async def test_each_filter_of_the_address_narrows_and_can_be_taken_away(client, life, database):
    failed = await life.fail(
        await life.execute(prompt="a fox", user_id="ann", checkpoint_model="m.x", job_type="image")
    )
    life.backend = "gpu-b"
    other = await life.complete(await life.execute(prompt="a ship", user_id="bob", checkpoint_model="n.x"))
    async with database.transaction() as session:
        await session.execute(
            text(
                "UPDATE generation_jobs SET created_at = now() - interval '3 h', queued_at = now() - interval '3 h', "
                "started_at = now() - interval '2 h', completed_at = now() - interval '90 min' WHERE id = :id"
            ),
            {"id": failed.job_id},
        )
        await session.execute(
            text("UPDATE job_attempts SET worker_id = 'other:1:x' WHERE job_id = :id"), {"id": other.job_id}
        )
    only = {
        "q": "FOX",
        "user": "ann",
        "model": "m.x",
        "backend": "gpu-a",
        "worker": WORKER,
        "error": "node_failed",
        "node": "VAEDecode",
        "to": PAST,
        "ended_to": PAST,
        "waited_over": "1800",
        "ran_over": "600.5",
    }
    for name, value in only.items():
        page = await read(client, f"/monitor/?{urlencode({name: value})}")
        assert page.jobs == [failed.job_id], name
        (chip,) = [found for found in page.all("a") if found.get("class") == "chip"]
        assert chip["href"] == "/monitor/"
        fields = [found for found in page.all("input", name=name) if found.get("type") != "hidden"]
        assert [found["value"] for found in fields] == [value if name not in ("to", "ended_to") else value[:19]], name
    for name, value in {"from": PAST, "ended_from": PAST}.items():
        assert (await read(client, f"/monitor/?{urlencode({name: value})}")).jobs == [other.job_id], name
    for name, value in {"job_type": "image", "from": "2020-01-01T00:00:00", "to": SOON}.items():
        assert len((await read(client, f"/monitor/?{urlencode({name: value})}")).jobs) == 2, name
    assert set(only) | {"from", "ended_from", "job_type"} == set(NARROWING)
    together = await read(client, f"/monitor/?{urlencode(only)}&status=failed")
    assert together.jobs == [failed.job_id]
    chips = [found["href"] for found in together.all("a") if found.get("class") == "chip"]
    assert len(chips) == len(only)
    assert all(len(parse_qs(urlsplit(chip).query)) == len(only) for chip in chips)


@LIVES
async def test_filters_offer_the_names_that_jobs_had(client, life, database):
    def offered(page) -> dict[str, list[str]]:
        lists: dict[str, list[str]] = {}
        for kind, found in page.elements:
            if kind == "datalist":
                last = lists.setdefault(found["id"], [])
            elif kind == "option" and "value" in found and lists:
                last.append(found["value"])
        return lists

    assert offered(await read(client, "/monitor/")) == {}
    client.app[keys.KNOWN_NAMES].forget()
    hostile = '"><script>alert(1)</script>'
    for model in ("b.x", "a.x", "b.x", hostile):
        await life.complete(await life.execute(checkpoint_model=model))
    await life.fail(await life.execute(checkpoint_model="c.x"))
    await StatisticsRecorder(database, margin_s=0).record()
    await client.app[keys.REGISTRY].beat("box:1:aa", {"slots": 1}, {})
    page = await read(client, "/monitor/")
    assert offered(page) == {
        "known-model": ["b.x", hostile, "a.x", "c.x"],
        "known-backend": ["gpu-a"],
        "known-error": ["node_failed"],
        "known-node": ["VAEDecode"],
        "known-worker": ["box:1:aa"],
    }
    assert page.all("input", name="model")[0]["list"] == "known-model"
    assert "list" not in page.all("input", name="user")[0]


@pytest.mark.parametrize(
    "query",
    [
        "from=yesterday",
        "ended_to=2026-13-01",
        "waited_over=-1",
        "ran_over=nan",
        "ran_over=1e99",
        "size=51",
        "size=x",
        "status=x",
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(client, query):
    assert "That did not work" in (await read(client, f"/monitor/?{query}", status=422)).text


async def test_the_page_size_is_in_the_address_and_the_position_is_told(client, life):
    jobs = [await life.submit() for _ in range(60)]
    page = await read(client, "/monitor/?size=25")
    assert page.jobs == jobs[:-26:-1]
    assert "1–25 of 60 jobs, newest first" in page.text
    (older,) = page.all("a", rel="next")
    assert "size=25" in older["href"]
    page = await read(client, older["href"])
    assert page.jobs == jobs[-26:-51:-1]
    assert "26–50 of 60 jobs, newest first" in page.text
    assert "1–60 of 60 jobs" in (await read(client, "/monitor/?size=100")).text


async def test_a_failure_says_how_many_failed_alike_and_leads_to_them(client, life):
    jobs = [(await life.fail(await life.execute(), "CUDA out of memory")).job_id for _ in range(3)]
    await life.complete(await life.execute())
    page = await read(client, "/monitor/?status=failed")
    assert "VAEDecode: CUDA out of memory" in page.text
    assert page.text.count("3 alike") == 3
    link = page.all("a", href="/monitor/?status=failed&error=node_failed&node=VAEDecode")[0]
    assert (await read(client, link["href"])).jobs == jobs[::-1]


async def test_an_empty_tab_says_why_and_leads_on(client, life):
    await life.submit(user_id="ann")
    assert "Nothing has failed." in await words(client, "/monitor/?status=failed")
    told = await words(client, "/monitor/?status=failed&user=ann&q=fox")
    assert "No failed job has text “fox” and user “ann”. Look among all statuses or Show all jobs" in told


@LIVES
async def test_a_backend_is_a_line_with_its_work_and_its_memory(client, life):
    claim = await life.execute()
    await life.progress(claim, 61)
    backend = {
        "healthy": True, "slots": 2, "used": 1, "current": [claim.job_id, "x", 10**30],
        "warm": ["checkpoints/xl.safetensors"],
        "queue_remaining": 3, "vram_total": 24 * 2**30, "vram_free": 6 * 2**30,
    }  # fmt: skip
    beats = {
        "gpu-a": backend,
        "gpu-b": {"healthy": False, "reason": "It <refuses>."},
        "gpu-c": {"healthy": True, "drained": True},
        "gpu-d": {"healthy": True, "current": "nonsense", "warm": 5, "vram_total": "much"},
    }
    await client.app[keys.REGISTRY].beat("w", {"slots": 2}, beats)
    told = await words(client, "/monitor/")
    assert f"gpu-a #{claim.job_id} 61 % xl queue 3 VRAM 18 of 24.0 GiB" in told
    assert "gpu-b down It <refuses>. gpu-c drained gpu-d idle" in told
    assert (await read(client, "/monitor/")).all("meter")[0]["value"] == str(18 * 2**30)


@LIVES
async def test_the_step_at_work_stands_in_the_row_and_with_its_backend(client, life):
    claim = await life.execute()
    node = {"id": "3", "type": "KSampler", "value": 13, "max": 20}
    now = snapshot_of(await life.store.get(claim.job_id))
    await client.app[keys.EVENTS].publish(replace(now, tick=1, progress=50, node=node))
    await client.app[keys.REGISTRY].beat("w", {}, {"gpu-a": {"healthy": True, "current": [claim.job_id]}})
    assert (await words(client, "/monitor/")).count("50 % KSampler 13/20") == 2


async def test_a_live_picture_stands_in_its_row(client, life):
    claim, done = await life.execute(), await life.complete(await life.execute())
    previews = client.app[keys.PREVIEWS]
    await previews.put(claim.job_id, 1, 7, b"picture")
    await previews.put(done.job_id, 1, 9, b"picture")
    (picture,) = (await read(client, "/monitor/")).all("img", class_="preview")
    assert picture["src"] == f"/monitor/jobs/{claim.job_id}/preview?n=7"
    assert picture["data-preview"] == str(claim.job_id)


async def test_rows_that_the_reader_holds_come_with_the_fragment(client, life):
    gone = await life.complete(await life.execute())
    here = await life.submit()
    query = f"/monitor/?status=active&keep={gone.job_id},{here},999,x,{'9' * 40}"
    part = await read(client, query, **{"X-Fragment": "1"})
    assert set(part.phases) == {gone.job_id, here}
    assert part.phases[gone.job_id] == "completed"
    assert not [found for found in part.all("input", name="back") if "keep" in found["value"]]
    assert set((await read(client, query)).phases) == {here}


async def test_a_fragment_is_made_once_for_all_who_ask_together_and_is_each_ones_own(
    settings: Settings, database: Database, aiohttp_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine is, all of them ask within it.
    monkeypatch.setattr("app.monitor.shared_fragments.GATHER_S", 1.0)
    app = create_app(settings)
    server = TestServer(app)
    clients = [await aiohttp_client(server) for _ in range(8)]
    tokens = []
    for each in clients:
        await read(each, "/monitor/")
        tokens.append(each.session.cookie_jar.filter_cookies(each.make_url("/monitor/"))["monitor_csrf"].value)
    job = await Life(clients[0], database).submit()
    async with recorded(app[keys.DATABASE]) as seen:
        pages = await asyncio.gather(*(read(each, "/monitor/", **{"X-Fragment": "1"}) for each in clients))
    assert len(set(tokens)) == 8
    assert [page.all("input", name="csrf")[0]["value"] for page in pages] == tokens
    assert [page.jobs for page in pages] == [[job]] * 8
    assert sum("OFFSET" in statement for statement, _ in seen) == 1


async def test_what_comes_while_a_fragment_is_made_is_in_the_next(client, life):
    """Nobody is given what was begun before they asked."""
    for _ in range(5):
        job = await life.submit()
        first, second = await asyncio.gather(
            *(read(client, "/monitor/?user=your-user-id", **{"X-Fragment": "1"}) for _ in range(2))
        )
        assert job in first.jobs
        assert job in second.jobs
