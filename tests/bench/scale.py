"""`make bench-scale`: what the everyday statements cost with 1,000 jobs in the table, and with 1,000,000.

`python -m tests.bench.scale [--jobs N] [--rounds R] [--plans] [--strict]`. Starts a PostgreSQL and a Redis of its own,
fills two databases, measures both in turns through the classes that the service uses, and the monitor page's list
through the whole server, and prints medians as a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import uvloop
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from app.commands.stop_signals import Interrupted, until_signalled
from app.domain.errors import NodeFailed
from app.domain.job import JobStatus
from app.embedded.services import Wanted, embedded_services
from app.embedded.temporary import temporary_data_dir
from app.main import create_app
from app.monitor.rendering import FRAGMENT_HEADER
from app.settings import load_settings
from app.storage.attempts import AttemptStore, Claim
from app.storage.database import Database, make_engine
from app.storage.job_lists import JobFilter
from app.storage.job_views import JobViews
from app.storage.migrating import migrate
from app.storage.run_times import RunTimes
from app.storage.statistics import Statistics
from tests.bench.filling import fill
from tests.plans import plan, recorded
from tests.samples import new_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.embedded.services import Running
    from app.storage.job_lists import Page, Sort

SMALL: Final = 1_000
WARM_UP: Final = 8
"""Rounds before those that count: caches fill, and after five PostgreSQL may change to a plan for any parameters."""
BOUND: Final = 1.3
"""So many times its cost with `SMALL` jobs a statement may take with all of them."""
MOST_S: Final = 0.150
"""The monitor page's list may take so long at the server with `MOST_S_JOBS`; with more of them it is only told."""
MOST_S_JOBS: Final = 100_000
PAGE: Final = 100
DEEP: Final = 100_000
"""After so many jobs the thousandth page begins; in a smaller table the one in the middle."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A database with so many jobs, numbered from 1."""

    jobs: int
    url: str
    database: Database
    store: AttemptStore
    views: JobViews
    browser: TestClient[Any, Any]
    """Of a server of its own, in this process: what the browser's side costs is in what is measured."""

    async def shown(self, query: str, *, fragment: bool) -> None:
        """Fetch a page of the monitor, whole or as the page itself does when anything has changed."""
        headers = {FRAGMENT_HEADER: "1"} if fragment else {}
        async with self.browser.get(f"/monitor/{query}", headers=headers) as answer:
            text = await answer.text()
            if answer.status != HTTPStatus.OK or 'id="main"' not in text:
                raise RuntimeError(f"{query} was answered with {answer.status}: {text[:500]}")

    async def page(self, *, sort: Sort = "-created_at", cursor: str | None = None, **chosen: Any) -> Page:
        """Read a page of the list."""
        return await self.views.page(JobFilter(**chosen), sort, PAGE, cursor=cursor, skip=0)

    async def deep_cursor(self, sort: Sort) -> str:
        """Return the cursor that leads to the thousandth page."""
        job_id = self.jobs - min(DEEP, self.jobs // 2)
        return self.views.cursor_at(sort, await self.store.get(job_id))


@dataclass(frozen=True, slots=True)
class Measure:
    """Something whose time is taken."""

    what: str
    act: Callable[[Subject, Any], Awaitable[Any]]
    before: Callable[[Subject], Awaitable[Any]] | None = None
    """What is done first, out of the time; `act` gets its result."""
    after: Callable[[Subject, Any], Awaitable[Any]] | None = None
    """What is done with the result of `act`, out of the time."""
    judged: bool = True
    """Whether `BOUND` holds for it; a search reads what it searches, up to its own bound."""
    most_s: float | None = None
    """What it may take with all the jobs."""
    every: int = 1
    """It is measured once in so many rounds."""


async def _end(subject: Subject, job: Any) -> None:
    """End a claimed job, so that as many run as before."""
    await subject.store.fail(Claim(job.job_id, job.attempt, job.worker_id), NodeFailed("It was only measured."))


def _reads(what: str, read: Callable[[Subject], Awaitable[Any]], *, judged: bool = True) -> Measure:
    return Measure(what, lambda subject, _: read(subject), judged=judged)


def _deep(what: str, sort: Sort) -> Measure:
    return Measure(
        what,
        lambda subject, cursor: subject.page(sort=sort, cursor=cursor),
        before=lambda subject: subject.deep_cursor(sort),
    )


def _shown(what: str, query: str = "") -> list[Measure]:
    """Return the measures of a page of the monitor; what it counts and searches is bounded, and so is not judged."""
    return [
        Measure(
            f"monitor page{told}: {what}",
            lambda subject, _, fragment=fragment: subject.shown(query, fragment=fragment),  # type: ignore[misc]
            judged=False,
            most_s=MOST_S,
            every=4,
        )
        # A fragment waits 10 ms for others who want the same one.
        for told, fragment in (("", False), (" as fragment", True))
    ]


SINCE: Final = datetime.now(UTC) - timedelta(hours=1)
MEASURES: Final = [
    Measure("create", lambda subject, _: subject.store.create(new_job(user_id="user1"))),
    Measure("claim", lambda subject, _: subject.store.claim("w1", "gpu1", "prompt", 60), after=_end),
    _reads("read a finished job", lambda subject: subject.views.view(subject.jobs // 2)),
    _reads("read a waiting job, with its position", lambda subject: subject.views.view(subject.jobs - 20)),
    _reads("what a run usually takes", lambda subject: RunTimes(subject.database).lately()),
    _reads("queue stats", lambda subject: subject.views.stats()),
    _reads("jobs ended in the last hour", lambda subject: subject.views.finished_since(SINCE)),
    _reads("list: first page", lambda subject: subject.page()),
    _deep("list: thousandth page", "-created_at"),
    _reads("list by change: first page", lambda subject: subject.page(sort="-updated_at")),
    _deep("list by change: thousandth page", "-updated_at"),
    _reads("list: completed", lambda subject: subject.page(status=[JobStatus.COMPLETED])),
    _reads("list: waiting or running", lambda subject: subject.page(status=[JobStatus.PENDING, JobStatus.RUNNING])),
    _reads("list: of a user with 14 % of the jobs", lambda subject: subject.page(user_id="user0")),
    _reads(
        "list: completed ones of that user",
        lambda subject: subject.page(user_id="user0", status=[JobStatus.COMPLETED]),
    ),
    _reads("list: of a user with 20 jobs", lambda subject: subject.page(user_id="seldom")),
    _reads("list: of the same, by change", lambda subject: subject.page(user_id="seldom", sort="-updated_at")),
    _reads("list: of a type that none has", lambda subject: subject.page(job_type="audio")),
    _reads("list: of a model", lambda subject: subject.page(checkpoint_model="model0.safetensors")),
    _reads("list: of a backend", lambda subject: subject.page(backend="gpu3")),
    _reads("list: created more than an hour ago", lambda subject: subject.page(created_before=SINCE)),
    _reads("search: a text of a third of the prompts", lambda subject: subject.page(q="Velvet"), judged=False),
    _reads("search: a text of none, in 50,000 jobs", lambda subject: subject.page(q="zz"), judged=False),
    _reads("monitor: the tiles, read anew", lambda subject: Statistics(subject.database).tiles(), judged=False),
    *_shown("all jobs"),
    *_shown("gallery", "?view=gallery"),
    *_shown("an output", "jobs/500/outputs/0")[:1],
    *_shown("failed ones of a model", "?status=failed&model=model0.safetensors"),
    *_shown("completed ones of a user", "?status=completed&user=user0"),
    *_shown("that ran longer than any did", "?ran_over=3600"),
]


def parse_arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="so many in the large table (1,000,000)")
    parser.add_argument("--rounds", type=int, default=60, help="measurements of each, whose median is told (60)")
    parser.add_argument("--plans", action="store_true", help="print the plans of all statements on the large table")
    parser.add_argument(
        "--strict", action="store_true", help=f"fail when anything grows beyond {BOUND} times, or takes too long"
    )
    return parser.parse_args()


async def run(arguments: argparse.Namespace) -> int:
    """Fill, measure, tell; return the exit code."""
    with temporary_data_dir() as folder:
        wanted = Wanted(data_dir=folder, postgres=True, redis=True, redis_port=0, durable=False)
        async with (
            embedded_services(wanted) as running,
            _filled(running, "small", SMALL) as small,
            _filled(running, "large", arguments.jobs) as large,
        ):
            medians = await _medians([small, large], arguments.rounds)
            slow = _tell(medians, small, large)
            if arguments.plans:
                await _tell_plans(large)
    return 1 if slow and arguments.strict else 0


@asynccontextmanager
async def _filled(running: Running, name: str, jobs: int) -> AsyncIterator[Subject]:
    """Have a database with so many jobs, and a server that shows them."""
    assert running.database_url is not None
    assert running.redis_url is not None
    began = time.monotonic()
    url = f"{running.database_url.rsplit('/', 1)[0]}/{name}"
    connection = await asyncpg.connect(running.database_url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    settings = load_settings(
        "test",
        database_url=SecretStr(url),
        database_timeout_seconds=10,
        redis_url=SecretStr(running.redis_url),
        redis_namespace=f"bench_scale_{name}",
    )
    await migrate(settings)
    await fill(url, jobs)
    connection = await asyncpg.connect(url)
    size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
    version = await connection.fetchval("SHOW server_version")
    await connection.close()
    print(f"{jobs:,} jobs, {size}, filled in {time.monotonic() - began:.0f} s (PostgreSQL {version})", flush=True)
    database = Database(make_engine(settings))
    async with TestClient(TestServer(create_app(settings))) as browser:
        yield Subject(jobs, url, database, AttemptStore(database), JobViews(database), browser)
    await database.close()


async def _medians(subjects: list[Subject], rounds: int) -> dict[str, list[float]]:
    """Return what → seconds in the median, for each subject. They take turns, so that both have the same weather."""
    taken: dict[str, list[list[float]]] = {measure.what: [[] for _ in subjects] for measure in MEASURES}
    for number in range(WARM_UP + rounds):
        for measure in MEASURES:
            if number % measure.every:
                continue
            for subject, times in zip(subjects, taken[measure.what], strict=True):
                given = await measure.before(subject) if measure.before else None
                began = time.perf_counter()
                result = await measure.act(subject, given)
                took_s = time.perf_counter() - began
                if number >= WARM_UP:
                    times.append(took_s)
                if measure.after:
                    await measure.after(subject, result)
    return {what: [median(times) for times in each] for what, each in taken.items()}


def _tell(medians: dict[str, list[float]], small: Subject, large: Subject) -> list[str]:
    """Print the table, and return what takes longer than it may."""
    print(f"\n| medians, pages of {PAGE} | {small.jobs:,} jobs | {large.jobs:,} jobs | ratio |\n|---|---|---|---|")
    slow = []
    for measure in MEASURES:
        few_s, many_s = medians[measure.what]
        ratio = many_s / few_s
        if measure.judged and ratio > BOUND:
            slow.append(f"{measure.what}: {ratio:.2f}")
        told = f"{ratio:.2f}" if measure.judged else f"{ratio:.1f} (bounded)"
        if measure.most_s is not None:
            told = f"{ratio:.1f}, of {measure.most_s * 1000:.0f} ms {many_s / measure.most_s:.0%}"
            if many_s > measure.most_s and large.jobs <= MOST_S_JOBS:
                slow.append(f"{measure.what}: {many_s * 1000:.0f} ms")
        print(f"| {measure.what} | {few_s * 1000:.2f} ms | {many_s * 1000:.2f} ms | {told} |")
    print("", f"more than {BOUND} times, or too long: {', '.join(slow) or 'nothing'}", sep="\n", flush=True)
    return slow


async def _tell_plans(subject: Subject) -> None:
    """Print how PostgreSQL goes about every statement."""
    connection = await asyncpg.connect(subject.url)
    for measure in MEASURES:
        given = await measure.before(subject) if measure.before else None
        async with recorded(subject.database) as seen:
            result = await measure.act(subject, given)
        for statement in seen:
            told = await plan(connection, statement, "(ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)")
            print(f"\n-- {measure.what}\n{' '.join(statement[0].split())[:300]}\n{told}", flush=True)
        if measure.after:
            await measure.after(subject, result)
    await connection.close()


def main() -> int:
    """Run, and return the exit code; a signal stops everything that was started."""
    try:
        return uvloop.run(until_signalled(run(parse_arguments())))
    except Interrupted as interrupted:
        return interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
