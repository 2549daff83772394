"""Sixty jobs with graphs of a megabyte, as earlier versions took them: who needs no graph is brought none."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest
from integration.monitor_fixtures import act, read
from integration.tcp_proxy import proxied
from plans import plan, recorded

from app import keys
from app.domain.failure_policy import Backoff
from app.domain.job import Phase
from app.domain.seeds import Drawing
from app.main import create_app
from app.runtime.json_text import loads
from app.storage.attempts import AttemptStore, Claim
from app.storage.job_lists import JobFilter
from app.storage.job_views import JobViews
from harness import GUARD_S
from worker.attempts.attempt_metrics import AttemptMetrics
from worker.upkeep.reconciler import Reconciler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from integration.tcp_proxy import TcpProxy

    from app.settings import Settings
    from app.storage.database import Database

pytestmark = pytest.mark.slow

BASE: Final = "/api/v1/generation-jobs"
GRAPH_BYTES: Final = 1_100_000
"""Each graph has at least so many, as JSON."""
FEW_BYTES: Final = 200_000
"""What a read of sixty jobs without their graphs may bring."""
COMPLETED, WAITING, RUNNING = range(1, 21), range(21, 41), range(41, 61)

_FILL: Final = """
    WITH graph AS MATERIALIZED (
        SELECT jsonb_object_agg(number::text, jsonb_build_object('class_type', 'Note', 'inputs', jsonb_build_object(
            'text', repeat('the quiet harbour ', 24), 'seed', number))) AS graph
        FROM generate_series(1, 2500) AS number
    ), jobs AS (
        INSERT INTO generation_jobs (user_id, job_type, prompt, negative_prompt, lora_models, width, height, batch_size,
            sampler_params, workflow, priority, max_attempts, timeout_seconds, metadata, params, warnings, status,
            phase, seq, attempt, attempt_limit, progress, refused_by, backend_name, worker_id, lease_expires_at,
            prompt_id, started_at, completed_at)
        SELECT 'someone', 'workflow', 'number ' || number, '', '[]', 64, 64, 1, '{"seed": 1}', graph, 0, 4, 900, '{}',
            '{}', '{}', status, phase, 1, 1, 4, 0, '{}', CASE WHEN status <> 'pending' THEN 'gone' END,
            CASE status WHEN 'running' THEN 'w0' END,
            CASE status WHEN 'running' THEN now() - interval '1 hour' END,
            CASE WHEN status <> 'pending' THEN 'prompt ' || number END, CASE WHEN status <> 'pending' THEN now() END,
            CASE status WHEN 'completed' THEN now() END
        FROM graph, (VALUES ('completed', 'completed', 1), ('pending', 'queued', 2), ('running', 'executing', 3))
            AS kinds (status, phase, place), generate_series(1, 20) AS number ORDER BY place, number
        RETURNING id, status, workflow
    ), logged AS (
        INSERT INTO job_events (job_id, seq, event, phase, attempt, actor, data)
        SELECT id, 1, 'submitted', 'queued', 1, 'someone', '{}' FROM jobs
    )
    INSERT INTO job_attempts (job_id, number, worker_id, backend_name, prompt_id, claimed_at, graph, ended_at, outcome)
    SELECT id, 1, 'w0', 'gone', 'prompt ' || id, now(), workflow, CASE status WHEN 'completed' THEN now() END,
        CASE status WHEN 'completed' THEN status END
    FROM jobs WHERE status <> 'pending'"""


@pytest.fixture(scope="session")
def with_long_graphs(make_model: Callable[[str], str]) -> str:
    """Name of a database that has them: 20 completed, 20 waiting, and 20 whose worker and backend are gone."""

    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(_FILL)
        await connection.execute("VACUUM ANALYZE")
        assert await connection.fetchval("SELECT min(length(workflow::text)) FROM generation_jobs") > GRAPH_BYTES
        await connection.close()

    asyncio.run(fill(make_model("with_long_graphs")))
    return "with_long_graphs"


@pytest.fixture
def model(with_long_graphs: str) -> str:
    return with_long_graphs


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[tuple[TcpProxy, Settings]]:
    """What counts the bytes that PostgreSQL sends, and settings that lead through it."""
    async with proxied(settings.database_url) as (counting, url):
        yield counting, settings.model_copy(update={"database_url": url})


@pytest.fixture
async def client(proxy: tuple[TcpProxy, Settings], aiohttp_client: Any) -> TestClient[Any, Any]:
    return await aiohttp_client(create_app(proxy[1]))


@pytest.fixture
def store(client: TestClient[Any, Any]) -> AttemptStore:
    return AttemptStore(client.app[keys.DATABASE])


class Counted:
    """Counts what is brought within the block."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._proxy = proxy
        self.brought = 0

    def __enter__(self) -> Counted:
        self._began = self._proxy.brought_bytes
        return self

    def __exit__(self, *_: object) -> None:
        self.brought = self._proxy.brought_bytes - self._began


async def told(client: TestClient[Any, Any], path: str) -> bytes:
    answer = await client.get(path)
    body: bytes = await answer.read()
    assert answer.status == 200, body[:500]
    return body


async def test_a_list_has_no_graphs_and_says_where_they_are(client, proxy):
    with Counted(proxy[0]) as counted:
        body = await told(client, f"{BASE}/?limit=1000")
    items = loads(body.decode())["items"]
    assert len(items) == 60
    assert {item["workflow"] for item in items} == {None}
    assert all(item["links"]["workflow"] == f"{BASE}/{item['job_id']}/workflow" for item in items)
    assert len(body) < FEW_BYTES
    assert counted.brought < FEW_BYTES


async def test_one_job_and_its_graph_are_told_whole(client, proxy):
    job = loads((await told(client, f"{BASE}/1")).decode())
    assert job["workflow"]["2500"]["inputs"]["seed"] == 2500
    with Counted(proxy[0]) as counted:
        graph = loads((await told(client, f"{BASE}/1/workflow")).decode())
    assert graph == job["workflow"]
    assert counted.brought < 1.2 * len(await told(client, f"{BASE}/1/workflow"))


OF_GRAPHS: Final = {f"{BASE}/{{job_id}}", f"{BASE}/{{job_id}}/workflow"}
"""Routes that answer a graph."""
_PLACES: Final = {"job_id": "1", "content_id": "1", "index": "0", "name": "gone", "action": "cancel", "worker": "w0"}


async def test_no_other_route_that_one_can_get_is_brought_a_graph(client, proxy):
    """Walks the router: a route that is added is among them."""
    asked = set()
    for route in client.app.router.routes():
        path = route.resource.canonical if route.resource is not None else ""
        if route.method != "GET" or path.rstrip("/") in OF_GRAPHS or path.startswith(("/ws", "/monitor/static")):
            continue
        filled = re.sub(r"{(\w+)}", lambda found: _PLACES.get(found[1], "1"), path)
        query = "?until_id=100" if "/bulk/" in path else ""
        with Counted(proxy[0]) as counted:
            answer = await client.get(filled + query, allow_redirects=False)
            body = await answer.read()
        assert answer.status < 500 or path.rstrip("/") == "/health/ready", (path, body[:500])
        assert counted.brought < FEW_BYTES, path
        assert len(body) < 2 * FEW_BYTES, path
        asked.add(path)
    assert {f"{BASE}", "/monitor/", "/monitor/jobs/{job_id}", "/monitor/backends", "/metrics"} <= asked


async def test_the_page_of_a_job_counts_the_nodes_of_a_long_graph_and_links_it(client):
    page = await read(client, "/monitor/jobs/1")
    assert "Workflow as it was sent, 2500 nodes" in page.text
    assert page.text.count("It is long") == 2
    assert f"{BASE}/1/workflow" in page.addresses


async def test_watching_sixty_jobs_brings_no_graph(client, proxy):
    with Counted(proxy[0]) as counted:
        job_ids = ",".join(str(job_id) for job_id in range(1, 61))
        async with client.ws_connect(f"/ws/jobs?job_ids={job_ids}") as socket:
            frames = [await socket.receive_json(timeout=GUARD_S) for _ in range(60)]
    assert {frame["job_id"] for frame in frames} == set(range(1, 61))
    assert counted.brought < FEW_BYTES


async def test_the_reconciler_sees_to_lost_turns_and_lost_backends_without_a_graph(client, proxy, store):
    app = client.app
    queue = app[keys.QUEUE]
    reconciler = Reconciler(
        app[keys.DATABASE], store, app[keys.VIEWS], queue, app[keys.EVENTS], app[keys.REGISTRY],
        backoff=Backoff(0.05, 1), metrics=AttemptMetrics(), lease_s=10,
    )  # fmt: skip
    with Counted(proxy[0]) as counted:
        said = await reconciler.run()
    assert said == "moved 20 jobs off lost backends, enqueued 20 waiting jobs again"
    assert counted.brought < FEW_BYTES


async def test_bulk_actions_bring_no_graph(client, proxy):
    for action, filtered in (("cancel", "pending"), ("retry", "cancelled")):
        with Counted(proxy[0]) as counted:
            answer = await client.post(f"{BASE}/{action}", json={"filter": {"status": [filtered]}})
            results = (await answer.json())["results"]
        assert [result["ok"] for result in results] == [True] * 20
        assert counted.brought < FEW_BYTES
    with Counted(proxy[0]) as counted:
        await act(client, "/monitor/bulk/cancel", jobs=",".join(map(str, WAITING)))
    assert counted.brought < FEW_BYTES
    assert (await client.app[keys.VIEWS].view(WAITING[0])).job.phase == "cancelled"


async def test_a_retry_with_a_new_seed_brings_the_graph_of_a_job_that_can_be_retried_only(client, proxy, store):
    with Counted(proxy[0]) as counted:
        answer = await client.post(f"{BASE}/retry", json={"job_ids": list(COMPLETED), "seed": "new"})
        assert {result["code"] for result in (await answer.json())["results"]} == {"job_not_retryable"}
    assert counted.brought < FEW_BYTES
    await store.cancel(WAITING[0], None, "someone")
    await store.retry(WAITING[0], Drawing(), "someone")
    job = await store.whole(WAITING[0])
    assert job.workflow is not None
    assert {node["inputs"]["seed"] for node in job.workflow.values()} == {job.sampler_params["seed"]}


STEPS: Final[dict[str, Callable[[AttemptStore, Claim], Awaitable[Any]]]] = {
    "get": lambda store, claim: store.get(claim.job_id),
    "saving": lambda store, claim: store.saving(claim),
    "renew_leases": lambda store, claim: store.renew_leases(claim.worker_id, {claim: 10}, 60),
    "release": lambda store, claim: store.release(claim),
}


async def test_a_worker_is_brought_the_graph_of_a_job_that_it_begins_and_no_other(proxy, store):
    with Counted(proxy[0]) as counted:
        job = await store.claim("w1", "b1", "prompt", 60)
    assert job is not None
    assert job.workflow is not None
    assert GRAPH_BYTES < counted.brought < 1.5 * GRAPH_BYTES
    claim = Claim(job.job_id, job.attempt, "w1")
    for name, step in STEPS.items():
        with Counted(proxy[0]) as counted:
            await step(store, claim)
        assert counted.brought < 10_000, name
    with Counted(proxy[0]) as counted:
        taken = await store.take_over("w1", ["gone"], 60, 20)
        assert await store.any_due()
    assert len(taken) == 20
    assert counted.brought < FEW_BYTES
    assert job.now(await store.get(job.job_id)).phase is Phase.SAVING


LISTS: Final = {
    "a list": lambda views: views.page(JobFilter(), "-created_at", 1000, cursor=None, skip=0),
    "a search": lambda views: views.page(JobFilter(q="number 7"), "-created_at", 1000, cursor=None, skip=0),
    "some jobs": lambda views: views.several(range(1, 61)),
    "counts": lambda views: views.counts(JobFilter(user_id="someone")),
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_does_not_even_look_into_a_graph(database: Database, database_url: str, name: str) -> None:
    """One that is unpacked, to be sorted or asked for its size, costs hundreds of pages, though nothing is sent."""
    async with recorded(database) as seen:
        await LISTS[name](JobViews(database))
    connection = await asyncpg.connect(database_url)
    try:
        for statement in seen:
            found = await plan(connection, statement, "(ANALYZE, BUFFERS)")
            pages = [int(count) for count in re.findall(r"(?:hit|read)=(\d+)", found.split("Planning")[0])]
            assert max(pages, default=0) < 400, found
    finally:
        await connection.close()
    assert seen
