"""`/metrics`: every figure that the manual lists is there, moves when it should, and is read as Prometheus reads it."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from integration.tcp_proxy import proxied
from prometheus_client.parser import text_string_to_metric_families
from samples import running_for

from app.main import create_app
from app.settings import ROOT
from harness import SMALL_BODY, Service, eventually, transport_of
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from harness import StandinServer, Workers

BASE = "/api/v1/generation-jobs"


class Scrape:
    """What a scrape has given."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return one value; 0 of a series that is not there."""
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def names(self) -> set[str]:
        """Return the names of the metrics."""
        # The parser takes the end off the names of counters.
        return {f"{family.name}_total" if family.type == "counter" else family.name for family in self.families}


async def scrape(client: TestClient[Any, Any]) -> Scrape:
    """Ask for the figures."""
    answer = await client.get("/metrics")
    assert (answer.status, answer.content_type) == (200, "text/plain"), await answer.text()
    return Scrape(await answer.text())


async def reaching(client: TestClient[Any, Any], least: float, name: str, **labels: str) -> Scrape:
    """Ask until a value is there: the workers hand theirs over with their heartbeats."""

    async def reached() -> Scrape | None:
        found = await scrape(client)
        return found if found.value(name, **labels) >= least else None

    return await eventually(reached)


def listed() -> dict[str, tuple[str, set[str]]]:
    """Return metric → (type, labels) as the manual's table has them."""
    text = (ROOT / "app" / "manual" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


async def test_the_manual_lists_exactly_what_is_shown(service: Service) -> None:
    await service.run()
    found = await reaching(service.client, 1, "genonaut_jobs_finished_total", status="completed")
    assert found.names() == set(listed())
    for family in found.families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        kind, told = listed()[name]
        assert family.type == kind, name
        # A series of a backend or a status begins with the first one.
        assert labels <= told, name
        assert labels == told or not family.samples, name
        assert family.documentation


async def test_jobs_of_a_worker_show_in_the_figures_of_the_fleet(service: Service) -> None:
    async with service.client.ws_connect("/ws/events"):
        jobs = [await service.submit(**running_for(seconds)) for seconds in (2.0, 0.4)]
        waiting = await scrape(service.client)
        assert waiting.value("genonaut_jobs", status="pending") + waiting.value("genonaut_jobs", status="running") == 2
        assert waiting.value("genonaut_websockets_open") == 1
        for job in jobs:
            await service.finished(job["job_id"])
    found = await reaching(service.client, 2, "genonaut_jobs_finished_total", status="completed")
    for name in ("genonaut_queue_wait_seconds", "genonaut_pick_up_seconds"):
        assert found.value(f"{name}_count") == 2, name
        assert 0 < found.value(f"{name}_sum") < 20, name
    standin = {"backend": "standin"}
    assert found.value("genonaut_execution_seconds_count", **standin) == 2
    # A run begins with its first frame, which a busy worker sees late.
    assert 1.2 <= found.value("genonaut_execution_seconds_sum", **standin) < 20
    assert found.value("genonaut_saving_seconds_count", **standin) == 2
    assert found.value("genonaut_saving_seconds_sum", **standin) > 0
    # The second job waited behind the first one, which is long enough for it to be sent meanwhile.
    assert found.value("genonaut_backend_idle_gap_seconds_count", **standin) == 1
    assert found.value("genonaut_backend_idle_gap_seconds_sum", **standin) < 20
    # Each job's end was forwarded to who followed it.
    assert found.value("genonaut_event_lag_seconds_count") >= 2
    assert (found.value("genonaut_jobs", status="pending"), found.value("genonaut_jobs", status="running")) == (0, 0)
    assert [found.value("genonaut_up", part=part) for part in ("redis", "postgresql", "events")] == [1, 1, 1]


async def test_choices_and_loads_show_in_the_figures_of_the_fleet(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    standin = await start_standin(model_load_seconds=1)
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    xl, dream = "sd_xl_base_1.0.safetensors", "dreamshaper_8.safetensors"
    for checkpoint in (xl, xl, dream):
        assert (await service.run(checkpoint_model=checkpoint))["status"] == "completed"
    # The second one goes first, as its model is loaded.
    await service.drain("standin")
    jobs = [await service.submit(checkpoint_model=each) for each in (xl, dream)]
    assert (await client.post("/api/v1/backends/standin/resume")).status == 200
    for job in jobs:
        assert (await service.finished(job["job_id"]))["status"] == "completed"
    found = await reaching(client, 5, "genonaut_jobs_finished_total", status="completed")
    taken = {
        reason: found.value("genonaut_choices_total", reason=reason) for reason in ("due", "warm", "load", "ahead")
    }
    assert taken == {"due": 1, "warm": 1, "load": 3, "ahead": 0}
    assert found.value("genonaut_overtakings_total") == 1
    assert found.value("genonaut_model_load_seconds_count", backend="standin") == 3
    assert found.value("genonaut_model_load_seconds_sum", backend="standin") >= 3


async def test_a_job_that_waits_and_one_that_is_cancelled_are_told_apart(service: Service) -> None:
    waiting = await service.submit(not_before="2100-01-01T00:00:00Z")
    found = await reaching(service.client, 1, "genonaut_jobs", status="pending")
    # Its time has not come: there is nothing that it waits for.
    assert found.value("genonaut_oldest_wait_seconds") == 0
    job = await service.submit(**running_for(30))
    await service.executing(job["job_id"])
    await service.client.post(f"{BASE}/{job['job_id']}/cancel")
    found = await reaching(service.client, 1, "genonaut_jobs_finished_total", status="cancelled")
    assert found.value("genonaut_execution_seconds_count", backend="standin") == 1
    assert found.value("genonaut_saving_seconds_count", backend="standin") == 0
    await service.client.post(f"{BASE}/{waiting['job_id']}/cancel")


async def test_a_job_cancelled_while_it_waits_is_counted_once(client: TestClient[Any, Any]) -> None:
    """There is no worker that could count it."""
    jobs = [await (await client.post(f"{BASE}/", json=SMALL_BODY)).json() for _ in range(2)]
    for job in (*jobs, *jobs):
        assert (await client.post(f"{BASE}/{job['job_id']}/cancel")).status == 200
    assert (await scrape(client)).value("genonaut_jobs_finished_total", status="cancelled") == 2


async def test_requests_are_counted_by_the_template_of_their_route(client: TestClient[Any, Any]) -> None:
    began = time.monotonic()
    for path in (f"{BASE}/1", f"{BASE}/2/", f"{BASE}/3", "/nothing/here", "/also/nothing"):
        assert (await client.get(path)).status == 404
    await client.request("PROPFIND", "/health/live")
    found = await scrape(client)
    job = {"method": "GET", "route": f"{BASE}/{{job_id}}"}
    assert found.value("genonaut_http_requests_total", **job, status="404") == 3
    assert found.value("genonaut_http_request_duration_seconds_count", **job) == 3
    assert 0 < found.value("genonaut_http_request_duration_seconds_sum", **job) <= time.monotonic() - began
    assert found.value("genonaut_http_requests_total", method="GET", route="none", status="404") == 2
    assert found.value("genonaut_http_requests_total", method="other", route="none", status="405") == 1


async def test_an_attempt_taken_over_is_counted(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Workers,
) -> None:
    standin = await start_standin()
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    await standin.state.apply(Fault(kind=FaultKind.HANG))
    job = await service.submit()
    await service.executing(job["job_id"])
    await service.exchange_worker(start_worker)
    standin.state.faults.clear()
    assert (await service.finished(job["job_id"]))["status"] == "completed"
    found = await reaching(client, 1, "genonaut_jobs_finished_total", status="completed")
    assert found.value("genonaut_lease_takeovers_total") == 1
    # Nobody has seen it from its beginning to its end.
    assert found.value("genonaut_execution_seconds_count", backend="standin") == 0


async def test_a_client_that_does_not_keep_up_is_counted(settings: Settings, aiohttp_client: Any) -> None:
    client = await aiohttp_client(create_app(settings.model_copy(update={"ws_outbox_bytes": 2**16})))
    ws = await client.ws_connect("/ws/events")
    transport_of(ws).pause_reading()
    with contextlib.suppress(ConnectionError):
        # Each is answered with as much, and no answer is read.
        for _ in range(400):
            await ws.send_json({"type": "ping", "id": "x" * 60_000})
    found = await reaching(client, 1, "genonaut_websockets_too_slow_total")
    assert found.value("genonaut_frames_dropped_total") >= 1
    assert found.value("genonaut_websockets_open") == 0
    await ws.close()


@pytest.mark.parametrize(("away", "part"), [("redis_url", "redis"), ("database_url", "postgresql")])
async def test_a_part_that_is_away_leaves_the_rest(
    settings: Settings, aiohttp_client: Any, away: str, part: str
) -> None:
    async with proxied(getattr(settings, away)) as (proxy, url):
        client = await aiohttp_client(create_app(settings.model_copy(update={away: url})))
        assert (await reaching(client, 1, "genonaut_up", part=part)).value("genonaut_up", part=part) == 1
        await proxy.cut()
        found = await scrape(client)
        assert found.value("genonaut_up", part=part) == 0
        assert found.value("genonaut_http_requests_total", method="GET", route="/metrics", status="200") >= 1
        assert ("genonaut_jobs" in found.names()) == (part == "redis")
        assert ("genonaut_jobs_finished_total" in found.names()) == (part == "postgresql")
        await proxy.restore()
        await reaching(client, 1, "genonaut_up", part=part)
        await client.close()
