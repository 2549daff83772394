"""The pages of backends, workers and periodic tasks: what they show, and what is asked for there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from integration.monitor_fixtures import BACKEND_BEAT, WORKER_BEAT, Document, Life, act, beat, entries, read
from pydantic import SecretStr

from app import keys
from app.domain.worker_states import PERIODIC_TASKS, WorkerState
from app.main import create_app
from app.messaging.operator_messages import OperatorMessages
from app.services.fleet_control import ScheduledTask
from app.storage.periodic_tasks import PeriodicRun, PeriodicTasks, Plan
from harness import eventually


@pytest.fixture
def heartbeat_seconds() -> float:
    """Heartbeats are written once here, and count as live for 90 s, however slow the machine is."""
    return 30.0


def said(page: Document) -> str:
    """The page's words, without its spacing."""
    return " ".join(page.text.split())


def forms(page: Document) -> list[str]:
    """Where the page's forms lead."""
    return [form["action"] for form in page.all("form", method="post")]


async def test_a_backend_is_shown_with_what_it_tells(client):
    await beat(client, healthy=False, reason="It <refuses> connections.")
    page = await read(client, "/monitor/backends")
    for shown in (
        *("gpu-a unhealthy", "http://gpu-a:8188", "It <refuses> connections.", "Slots used1 of 2", "2 ours, 1 foreign"),
        *("sdxl", "18.0 GiB of 24.0 GiB", "ComfyUI0.3.64"),
    ):
        assert shown in said(page), shown
    (meter,) = page.all("meter")
    assert (int(meter["value"]), int(meter["max"])) == (18 * 2**30, 24 * 2**30)
    assert page.all("li", id="backend-gpu-a")
    assert page.all("a", href="/monitor/workers#worker-box%3A42%3Ax")


async def test_what_a_backend_works_on_is_shown_with_its_picture(client, life):
    claim = await life.execute(prompt="a lighthouse at dusk")
    await life.progress(claim, 42)
    await client.app[keys.PREVIEWS].put(claim.job_id, 1, 7, b"picture")
    await beat(client)
    page = await read(client, "/monitor/backends")
    assert f"#{claim.job_id} a lighthouse at dusk" in said(page)
    assert page.phases == {claim.job_id: "executing"}
    assert [bar["value"] for bar in page.all("progress")] == ["42"]
    (image,) = page.all("img", data_preview=str(claim.job_id)) or [
        found for found in page.all("img") if found.get("data-preview") == str(claim.job_id)
    ]
    assert image["src"] == f"/monitor/jobs/{claim.job_id}/preview?n=7"


async def test_figures_of_the_hour_lead_to_exactly_the_jobs_that_they_count(client, life, database):
    done = [await life.complete(await life.execute(), "image", "image") for _ in range(2)]
    failed = await life.fail(await life.execute())
    other = Life(client, database, backend="gpu-b")
    await other.complete(await other.execute())
    await beat(client)
    page = await read(client, "/monitor/backends")
    links = {link["href"].partition("&")[0]: link["href"] for link in page.all("a") if "ended_from" in link["href"]}
    assert (await read(client, links["/monitor/?status=completed"])).jobs == [job.job_id for job in done[::-1]]
    assert (await read(client, links["/monitor/?status=failed"])).jobs == [failed.job_id]
    assert "Done, 1 h2" in said(page)
    assert "Failed, 1 h1" in said(page)
    hour = await client.app[keys.FLEET_FIGURES].last_hour()
    assert hour.ended == {("gpu-a", "completed"): 2, ("gpu-a", "failed"): 1, ("gpu-b", "completed"): 1}
    assert hour.image_s.keys() == {"gpu-a", "gpu-b"}


@pytest.mark.parametrize(("previews", "seconds"), [([], 4.0), ([0], 8.0), ([0, 1], 4.0)])
async def test_what_took_an_image_is_divided_by_their_number(client, life, database, previews, seconds):
    """A preview counts where there is nothing else."""
    job = await life.complete(await life.execute(), "image", "image", "text")
    async with database.driver() as connection:
        await connection.execute(
            "UPDATE job_attempts SET executing_at = now() - interval '9 s', executed_at = now() - interval '1 s' "
            "WHERE job_id = $1",
            job.job_id,
        )
        await connection.execute("UPDATE outputs SET preview = true WHERE index = ANY ($1::int[])", previews)
    hour = await client.app[keys.FLEET_FIGURES].last_hour()
    assert hour.image_s == {"gpu-a": pytest.approx(seconds)}


async def test_loads_of_the_last_hour_are_those_of_the_attempts(client, life, plain):
    jobs = [await life.complete(await life.execute()) for _ in range(4)]
    for job, load_s in zip(jobs, (4.0, 0.0, 2.5, 8.0), strict=True):
        await plain.execute("UPDATE job_attempts SET load_s = $2 WHERE job_id = $1", job.job_id, load_s)
    await plain.execute(
        "UPDATE job_attempts SET ended_at = now() - interval '2 hours' WHERE job_id = $1", jobs[-1].job_id
    )
    warm = ["checkpoints/sdxl.safetensors", "loras/detail.safetensors"]
    told = {"gpu-a": BACKEND_BEAT | {"warm": warm, "speed": 1.42}, "gpu-b": BACKEND_BEAT | {"speed": 1.0}}
    await client.app[keys.REGISTRY].beat("box:42:x", WORKER_BEAT, told)
    page = said(await read(client, "/monitor/backends"))
    assert "Loads, 1 h2 (6.5 s)" in page
    assert "Speed× 1.4" in page
    assert "Loaded" in page
    assert "sdxl, detail" in page
    assert "Loads, 1 h0" in page
    assert page.count("Speed") == 1
    (first, second) = (await (await client.get("/api/v1/backends")).json())["items"]
    assert (first["loads_last_hour"], first["load_seconds_last_hour"], first["speed"]) == (2, 6.5, 1.42)
    assert first["models"] == ["sdxl.safetensors", "detail.safetensors"]
    assert (second["loads_last_hour"], second["load_seconds_last_hour"], second["speed"]) == (0, 0.0, 1.0)


async def test_a_drain_is_only_asked_for_until_the_heartbeat_confirms_it(client, database):
    await beat(client)
    answer = await act(client, "/monitor/backends/gpu-a/drain", back="/monitor/backends")
    page = await read(client, answer.headers["Location"])
    assert "Asked: the backend is given no more prompts" in said(page)
    assert "Asked to drain: its driver has not confirmed it." in said(page)
    assert "drained" not in said(page)
    assert "/monitor/backends/gpu-a/resume" in forms(page)
    assert "/monitor/backends/gpu-a/drain" not in forms(page)
    await beat(client, drained=True)
    page = await read(client, "/monitor/backends")
    assert "healthy drained" in said(page)
    assert "says monitor" in said(page)
    assert "Asked" not in said(page)
    await act(client, "/monitor/backends/gpu-a/resume")
    assert "Asked to resume" in said(await read(client, "/monitor/backends"))
    await beat(client)
    page = await read(client, "/monitor/backends")
    assert "drain" not in said(page).replace("Drain", "")
    assert await entries(database) == [
        ("monitor", "drain", "backend gpu-a", "asked"),
        ("monitor", "resume", "backend gpu-a", "asked"),
    ]


async def test_a_drained_backend_is_listed_also_when_redis_has_forgotten_it(client, redis):
    await beat(client)
    await act(client, "/monitor/backends/gpu-a/drain")
    await redis.flushdb()
    page = await read(client, "/monitor/backends")
    assert "gpu-a unknown" in said(page)
    assert "no worker drives it that could confirm it" in said(page)
    assert "/monitor/backends/gpu-a/resume" in forms(page)


async def test_a_worker_says_what_it_does_and_what_it_was_asked(client, database):
    await beat(client)
    page = await read(client, "/monitor/workers")
    for shown in ("box:42 working", "version 1.2", "Slots used1 of 2", "Done7", "Failed1", "100 MiB"):
        assert shown in said(page), shown
    assert page.all("a", href="/monitor/jobs/5")
    assert page.all("a", href="/monitor/backends#backend-gpu-a")
    before: dict[str, Any] = {}
    for action, state, words in (
        ("quiet", WorkerState.QUIET, "Asked to be quiet: not confirmed yet."),
        ("resume", WorkerState.WORKING, "Asked to take turns again: not confirmed yet."),
        ("stop", WorkerState.STOPPING, "Asked to stop after what it runs: not confirmed yet."),
    ):
        await act(client, f"/monitor/workers/box:42:x/{action}")
        # On a busy machine the last heartbeat may be too old by now.
        await beat(client, before)
        assert words in said(await read(client, "/monitor/workers"))
        before = {"state": state}
        await beat(client, before)
        page = await read(client, "/monitor/workers")
        assert f"box:42 {state}" in said(page)
        assert "not confirmed" not in said(page)
    assert "/monitor/workers/box:42:x/stop" not in forms(page)
    assert [entry[1:] for entry in await entries(database)] == [
        (action, "worker box:42:x", "asked") for action in ("quiet", "resume", "stop")
    ]


async def test_who_is_not_there_can_be_asked_for_nothing_and_the_audit_says_so(client, database):
    for path in (
        *("workers/box:42:x/quiet", "workers/box:42:x/resume", "workers/box:42:x/stop", "backends/gpu-z/drain"),
        *("backends/gpu-z/resume", "backends/gpu-z/free", "schedule/nonsense/run"),
    ):
        assert (await act(client, f"/monitor/{path}")).status == 404, path
    assert {outcome for *_, outcome in await entries(database)} == {
        "worker_not_found",
        "backend_not_found",
        "task_not_found",
    }


async def test_a_backend_that_nobody_drives_says_so_and_has_no_memory_to_free(client):
    await beat(client, driver=None, healthy=False, reason="No worker drives it at the moment.")
    page = await read(client, "/monitor/backends")
    assert "gpu-a undriven" in said(page)
    assert "/monitor/backends/gpu-a/free" not in forms(page)
    assert (await act(client, "/monitor/backends/gpu-a/free")).status == 404


async def test_that_memory_is_to_be_freed_is_said_until_comfyui_was_told(client, redis, names):
    messages = OperatorMessages(redis, names)
    await beat(client)
    await act(client, "/monitor/backends/gpu-a/free")
    assert "asked to free it" in said(await read(client, "/monitor/backends"))
    await messages.freed("gpu-a", "another wish")
    assert "asked to free it" in said(await read(client, "/monitor/backends"))
    (wish,) = (await messages.asked_to_free(["gpu-a"])).values()
    await messages.freed("gpu-a", wish)
    await beat(client, freed={"at": "2026-11-23T12:00:00Z", "fault": None})
    assert "ComfyUI was told to free it" in said(await read(client, "/monitor/backends"))
    await beat(client, freed={"at": "2026-11-23T12:00:00Z", "fault": "Status 405."})
    assert "not freed" in said(await read(client, "/monitor/backends"))


async def test_heartbeats_that_tell_little_or_nonsense_are_borne(client):
    registry = client.app[keys.REGISTRY]
    nonsense = {
        "slots": "many", "running": "all", "started_at": 5, "pid": None, "memory_bytes": True, "backends": 3,
        "state": "asleep", "warm": "x", "avoids": "x", "speed": "fast", "freed": [1],
        "queue_remaining": {}, "foreign": "1", "driver": 4,
    }  # fmt: skip
    await registry.beat("bare", {}, {"bare": {}})
    await registry.beat("odd", nonsense, {"odd": nonsense | {"since": "yesterday", "healthy": None}})
    for shown in ("bare live", "odd live"):
        assert shown in said(await read(client, "/monitor/workers"))
    for shown in ("bare unknown", "odd unknown"):
        assert shown in said(await read(client, "/monitor/backends"))


async def test_a_strange_heartbeat_hides_no_other_backend(client):
    strange = {name: [{"deep": [2**80, "x" * 5000]}] for name in (*BACKEND_BEAT, "current", "catalog", "unknown")}
    await client.app[keys.REGISTRY].beat("box:42:x", WORKER_BEAT, {"gpu-a": BACKEND_BEAT, "gpu-b": strange})
    stats = await (await client.get("/api/v1/generation-jobs/queue/stats")).json()
    assert (stats["workers_online"], stats["backends_online"]) == (1, 1)
    ready = await (await client.get("/health/ready")).json()
    assert {each["name"]: each["able"] for each in ready["backends"]} == {"gpu-a": True, "gpu-b": False}
    figures = await (await client.get("/metrics")).text()
    for name, healthy in (("gpu-a", "1.0"), ("gpu-b", "0.0")):
        assert f'genonaut_backend_well{{backend="{name}"}} {healthy}' in figures
    for address in ("/monitor/", "/monitor/backends"):
        shown = said(await read(client, address))
        assert "gpu-a" in shown
        assert "gpu-b" in shown


@pytest.mark.parametrize("heartbeat_seconds", [0.3])
async def test_who_has_no_heartbeat_is_lost_and_not_idle(client):
    await client.app[keys.REGISTRY].beat("gone", {"host": "gone", "pid": 1}, {"gpu-z": {"healthy": True}})

    async def lost() -> bool:
        page = await read(client, "/monitor/workers")
        return "1 lost within the last day" in page.text and not forms(page)

    await eventually(lost)
    page = await read(client, "/monitor/backends")
    assert "gpu-z lost" in said(page)
    assert "healthy" not in said(page).replace("0 of 1 healthy", "")
    assert "Workers none, 1 lost" in (await read(client, "/monitor/")).text
    assert (await act(client, "/monitor/workers/gone/quiet")).status == 404


async def test_where_nothing_is_it_is_said_what_to_do(client):
    assert "No backend is known" in said(await read(client, "/monitor/backends"))
    assert "make worker-test" in said(await read(client, "/monitor/workers"))
    page = await read(client, "/monitor/schedule")
    for name in PERIODIC_TASKS:
        assert f"{name} not run yet" in said(page)


async def test_without_redis_history_is_shown_and_the_rest_is_called_unknown(settings, database, aiohttp_client):
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")})
    client = await aiohttp_client(create_app(away))
    assert "is not known" in said(await read(client, "/monitor/backends"))
    assert "Unknown" in said(await read(client, "/monitor/workers"))
    assert "reconcile not run yet" in said(await read(client, "/monitor/schedule"))
    assert (await act(client, "/monitor/workers/x/quiet")).status == 503


async def test_the_schedule_shows_last_and_next_run_and_what_failed(client, database):
    now = datetime.now(UTC)
    run = PeriodicRun(
        name="reconcile", schedule="every 15 s", last_run=now - timedelta(seconds=5),
        next_run=now + timedelta(seconds=10), duration_ms=1500, result="nothing to do", failed=False, worker_id="w:1:x",
    )  # fmt: skip
    await PeriodicTasks(database).note(run)
    failed = {"name": "sweep", "failed": True, "result": "The disk is <full>.", "next_run": now - timedelta(hours=1)}
    await PeriodicTasks(database).note(PeriodicRun(**{each: getattr(run, each) for each in run.__slots__} | failed))
    page = await read(client, "/monitor/schedule")
    for shown in ("reconcile done", "every 15 s", "took 1.5 s", "nothing to do", "sweep failed", "The disk is <full>."):
        assert shown in said(page), shown
    assert said(page).count("overdue") == 1
    assert page.all("time", datetime=run.next_run.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


async def test_a_task_that_has_never_run_shows_when_it_will(client, database):
    due = datetime.now(UTC) + timedelta(minutes=40)
    await PeriodicTasks(database).announce([Plan(name="sweep", schedule="every hour", next_run=due)])
    page = await read(client, "/monitor/schedule")
    for shown in ("sweep not run yet", "every hour", f"{due:%Y-%m-%d %H:%M:%S}"):
        assert shown in said(page), shown
    assert "overdue" not in said(page)
    assert await PeriodicTasks(database).all() == []


async def test_a_worker_that_starts_takes_nothing_from_the_last_run(client, database):
    now = datetime.now(UTC)
    run = PeriodicRun(
        name="sweep", schedule="every 15 s", last_run=now - timedelta(hours=3), next_run=now - timedelta(hours=2),
        duration_ms=5, result="deleted nothing", failed=False, worker_id="w",
    )  # fmt: skip
    await PeriodicTasks(database).note(run)
    later = now + timedelta(minutes=10)
    await PeriodicTasks(database).announce([Plan(name="sweep", schedule="every hour", next_run=later)])
    assert await PeriodicTasks(database).all() == [replace(run, schedule="every hour", next_run=later)]


@pytest.mark.parametrize(("late_s", "overdue"), [(-1, False), (0, False), (4.9, False), (5.1, True)])
def test_a_task_is_overdue_when_it_is_late_by_more_than_a_worker_may_be(late_s, overdue):
    now = datetime.now(UTC)
    plan = Plan(name="sweep", schedule="every hour", next_run=now - timedelta(seconds=late_s))
    assert ScheduledTask("sweep", "", plan, None, False).overdue(now) is overdue


async def test_a_task_is_asked_to_run_until_the_table_says_that_it_has(client, database, redis, names):
    now = datetime.now(UTC)
    run = PeriodicRun(
        name="sweep", schedule="every hour", last_run=now - timedelta(minutes=30), next_run=now + timedelta(minutes=30),
        duration_ms=5, result="deleted nothing", failed=False, worker_id="w",
    )  # fmt: skip
    await PeriodicTasks(database).note(run)
    for _ in range(2):
        assert (await act(client, "/monitor/schedule/sweep/run")).status == 303
    assert await redis.zcard(names.maintenance) == 1
    assert "Asked to run now" in said(await read(client, "/monitor/schedule"))
    ran = {each: getattr(run, each) for each in run.__slots__} | {"last_run": datetime.now(UTC)}
    await PeriodicTasks(database).note(PeriodicRun(**ran))
    assert "Asked to run now" not in said(await read(client, "/monitor/schedule"))
    await act(client, "/monitor/schedule/sweep/run")
    assert await redis.zcard(names.maintenance) == 2
    assert [entry[1:] for entry in await entries(database)] == [("run", "task sweep", "asked")] * 3


EVERY_PAGE = ("", "backends", "workers", "stats", "schedule", "audit", "jobs/1")


async def test_what_keeps_jobs_from_running_stands_on_every_page(client, database):
    await Life(client, database).submit()
    for page in EVERY_PAGE:
        assert (await read(client, f"/monitor/{page}")).all("p", id="no-worker"), page
    await beat(client, healthy=False)
    for page in EVERY_PAGE:
        shown = await read(client, f"/monitor/{page}")
        assert not shown.all("p", id="no-worker"), page
        assert shown.all("p", id="backends-down"), page
    await beat(client)
    assert not (await read(client, "/monitor/")).all("p", id="backends-down")
