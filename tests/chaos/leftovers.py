"""What must not be left when all is at rest: in PostgreSQL, Redis, the stand-ins, the store, and the logs."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import TYPE_CHECKING, Any, Final

from PIL import Image
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.storage.database import Database, make_engine
from tests.chaos.clients import KEEP_UPLOADS_S
from tests.chaos.evidence import Violation
from tests.sweeping import sweeper_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.evidence import Evidence
    from tests.chaos.executions import ExecutionLogs
    from tests.chaos.processes import Fleet

KEPT_KEYS: Final = re.compile(
    r"chaos:(asked-to-run:sweep|worker:.*|workers|backend:.*|backends|driver:.*|catalog:.*|figures|arq:queue:maintenance)"
    r"|arq:(job|in-progress|retry|result):(reconcile|sweep|record_statistics)(:asked)?:\d+"
)
"""Keys of what lives on: heartbeats, leases on backends, catalogues, the clockwork. All others are some job's."""
ORPHAN_S: Final = 1.0
"""How old an orphan must be at the end, when nothing is being stored any more."""
ALLOWED_TRACEBACKS: Final[dict[str, str]] = {
    r"Future exception was never retrieved\n.*\nConnectionError: unexpected connection_lost\(\) call": (
        "asyncpg asks a server for TLS and forgets its own future when the server dies before it answers"
    ),
    r"ERROR app\.web\.auditing: not in the audit: [\s\S]*DatabaseUnavailable: ": (
        "what was done just before PostgreSQL went away stands in the log in place of the audit"
    ),
}
"""Pattern of a traceback in a log → why it may be there."""
_JOB: Final = re.compile(r"(?:job |chaos:live:|^Redis key arq:[a-z-]+:)(\d+)")
_START: Final = re.compile(r"^(=== |\d{4}-\d\d-\d\d )")


async def until_at_rest(fleet: Fleet, logs: ExecutionLogs, seconds: float) -> list[Violation]:
    """Wait until nothing is left to be done, and return what is left all the same after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            left = await _unfinished(fleet) + await _keys(fleet) + await logs.busy()
        except Exception as error:  # noqa: BLE001 - servers may just be coming back
            left = [f"not to be looked at: {type(error).__name__} {error}"]
        if not left or time.monotonic() > deadline:
            return [Violation("nothing is stuck", text, tuple(map(int, _JOB.findall(text)))) for text in left]
        await asyncio.sleep(0.3)


async def _unfinished(fleet: Fleet) -> list[str]:
    statement = "SELECT id, phase, worker_id FROM generation_jobs WHERE status IN ('pending', 'running') ORDER BY id"
    left = [f"job {row['id']} is {row['phase']} ({row['worker_id']})" for row in await fleet.query(statement)]
    due = await fleet.query("SELECT count(*) AS count FROM outputs WHERE thumbnail_due")
    return left + [f"{row['count']} thumbnails are due" for row in due if row["count"]]


async def _keys(fleet: Fleet) -> list[str]:
    async with Redis.from_url(fleet.redis.url, db=3, socket_timeout=5, decode_responses=True) as redis:
        try:
            keys = [key async for key in redis.scan_iter(count=1000) if not KEPT_KEYS.fullmatch(key)]
        except RedisError as error:
            return [f"Redis: {error}"]
        return [f"Redis key {key}" for key in sorted(keys)]


async def sweep(fleet: Fleet) -> tuple[str, list[Violation]]:
    """Let the service itself delete what is left, as its clockwork does every hour; say what it did, and what it left.

    No job needs an upload any more, and each has had its day by then.
    """
    settings = fleet.settings.model_copy(update={"orphan_seconds": ORPHAN_S})
    database = Database(make_engine(settings))
    try:
        await asyncio.sleep(max(ORPHAN_S, KEEP_UPLOADS_S) + 0.5)
        swept = await sweeper_of(database, settings).sweep()
    finally:
        await database.close()
    left = await fleet.query("SELECT path FROM uploads ORDER BY path")
    return swept, [Violation("no upload is left", f"the row of {row['path']}") for row in left]


def pictures(evidence: Evidence) -> Iterator[Violation]:
    """Each completed job has one content, and each of its files is there, whole, and can be decoded."""
    for job_id, row in evidence.jobs.items():
        contents = evidence.contents.get(job_id, [])
        wanted = [row["content_id"]] if row["status"] == "completed" else []
        if [content["id"] for content in contents] != wanted:
            yield Violation("one content", f"job {job_id} ({row['status']}) has contents {contents}", (job_id,))
            continue
        for content in contents:
            outputs = evidence.outputs.get(content["id"], [])
            if not outputs:
                yield Violation("one content", f"job {job_id} is completed without outputs", (job_id,))
            for output in outputs:
                for fault in _faults_of(evidence.store, output):
                    yield Violation("readable files", f"job {job_id}: {output['path']}: {fault}", (job_id,))


def orphans(evidence: Evidence) -> list[str]:
    """Return the files of the store that belong to no output."""
    known = {row[key] for rows in evidence.outputs.values() for row in rows for key in ("path", "thumbnail_path")}
    files = (path for path in evidence.store.rglob("*") if path.is_file())
    return sorted(name for path in files if (name := path.relative_to(evidence.store).as_posix()) not in known)


def tracebacks(folder: Path) -> Iterator[Violation]:
    """No process stumbled over what it did not foresee."""
    for log in sorted(folder.glob("logs/*.log")):
        for block in _blocks(log.read_text(errors="replace")):
            unforeseen = "Traceback (most recent call last)" in block or "was never " in block
            if unforeseen and not any(re.search(pattern, block) for pattern in ALLOWED_TRACEBACKS):
                lines = block.splitlines()
                yield Violation("no tracebacks", f"{log.name}: {lines[0]} … {lines[-1]}\n{block[-1500:]}")


def _blocks(text: str) -> Iterator[str]:
    """Yield each log line with what belongs to it."""
    block: list[str] = []
    for line in text.splitlines():
        if _START.match(line) and block:
            yield "\n".join(block)
            block = []
        block.append(line)
    if block:
        yield "\n".join(block)


def _faults_of(store: Path, output: dict[str, Any]) -> Iterator[str]:
    try:
        data = (store / output["path"]).read_bytes()
        if len(data) != output["size_bytes"]:
            yield f"{len(data)} bytes instead of {output['size_bytes']}"
        if hashlib.sha256(data).hexdigest() != output["sha256"]:
            yield "another sha256"
        for path in filter(None, (output["path"], output["thumbnail_path"])):
            with Image.open(store / path) as image:
                image.load()
        if output["thumbnail_path"] is None:
            yield "no thumbnail"
    except OSError as error:
        yield str(error)
