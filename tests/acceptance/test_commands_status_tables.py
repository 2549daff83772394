"""Tables of workers and periodic tasks, from what workers write down."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from acceptance.commands import Place, temporary_place

from app.domain.message import timestamp
from app.messaging.channels import Names
from app.messaging.redis_connection import close, make_redis
from app.messaging.registry import KEPT_S, Registry
from app.settings import load_settings
from app.storage.periodic_tasks import PeriodicRun, PeriodicTasks, Plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from arq.connections import ArqRedis

    from app.embedded import Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with temporary_place() as found:
        yield found


@pytest.fixture
def own(servers: Running) -> dict[str, str]:
    """Settings of a namespace of this module's own in the session's Redis."""
    return {"REDIS_URL": servers.redis_url or "", "REDIS_NAMESPACE": "tables_of_commands"}


@pytest.fixture
async def redis(own: dict[str, str]) -> AsyncIterator[ArqRedis]:
    settings = load_settings("test", redis_url=own["REDIS_URL"], redis_namespace=own["REDIS_NAMESPACE"])
    client = make_redis(settings, patient=False)
    await client.flushdb()
    yield client
    await client.flushdb()
    await close(client)


async def test_workers_live_and_lost_are_told_apart(place, own, redis):
    names = Names(own["REDIS_NAMESPACE"])
    registry = Registry(redis, names, 15)
    started = timestamp(datetime.now(UTC) - timedelta(minutes=5))
    state = {"host": "box", "pid": 71, "started_at": started, "backends": ["a", "b"], "running": [2]}
    await registry.beat("box:71:aa", state, {})
    await registry.beat("box:72:bb", state | {"pid": 72, "backends": [], "running": []}, {})
    await redis.expire(names.worker("box:72:bb"), KEPT_S - 600)
    done = place.run("workers", "--env", "test", **own)
    assert done.returncode == 0, done.stderr
    header, live, lost = done.stdout.splitlines()
    assert header.split() == ["WORKER", "STATE", "HOST:PID", "STARTED", "HEARTBEAT", "BACKENDS", "RUNNING"]
    assert re.match(r"box:71:aa +live +box:71 +\d{4}-.*Z \(5 min ago\) +\d+ s ago +a, b +2$", live)
    assert re.match(r"box:72:bb +lost +box:72 +.* 10 min ago +none +nothing$", lost)


async def test_periodic_tasks_are_shown_with_last_and_next_run(place, database, database_url):
    now = datetime.now(UTC)
    run = PeriodicRun(
        name="reconcile", schedule="every 15 s", last_run=now - timedelta(seconds=90),
        next_run=now + timedelta(hours=3), duration_ms=12, result="nothing to do", failed=False, worker_id="w",
    )  # fmt: skip
    overdue = replace(run, name="tidy", next_run=now - timedelta(hours=3), failed=True, result="The disk is full.")
    for each in (run, overdue):
        await PeriodicTasks(database).note(each)
    await PeriodicTasks(database).announce(
        [Plan(name="sweep", schedule="every hour", next_run=now + timedelta(minutes=30))]
    )
    done = place.run("cron-status", "--env", "test", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    header, reconcile, sweep, tidy = done.stdout.splitlines()
    assert header.split("  ")[0] == "TASK"
    assert re.match(
        r"reconcile +every 15 s +\S+ \S+Z \(9\d s ago\) +nothing to do +12 ms +\S+ \S+Z \(in 3 h\)$", reconcile
    )
    assert re.match(r"sweep +every hour +never +\S+ \S+Z \(in (29|30) min\)$", sweep)
    assert "failed: The disk is full." in tidy
    assert tidy.endswith("(overdue by 3 h)")


async def test_where_nothing_is_it_is_said_in_words(place, own, redis, database_url):
    assert "No worker of test was seen within a day" in place.run("workers", "--env", "test", **own).stdout
    said = place.run("cron-status", "--env", "test", DATABASE_URL=database_url).stdout
    assert "No worker of test has told of periodic tasks yet" in said
