"""What has had its day is deleted, and what a waiting or running job needs is not."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from samples import new_job, output
from sweeping import sweeper_of, uploads_of

from app.domain.errors import InvalidRequest, UploadInUse
from app.storage.attempts import AttemptStore, Claim
from app.storage.files import FileStore
from app.storage.idempotency import Once

if TYPE_CHECKING:
    import asyncpg

    from app.settings import Settings
    from app.storage.database import Database
    from worker.upkeep.sweeper import Sweeper


GREY = b"P5 1 1 255\n"
"""The beginning of a picture of one pixel, which the next byte is."""


def said(*, orphans: int, keys: int) -> str:
    return (
        f"deleted {orphans} orphaned files, 0 expired uploads, {keys} old idempotency keys, "
        "0 ended sessions and 0 old entries of the audit"
    )


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


@pytest.fixture
def files(settings: Settings) -> FileStore:
    return FileStore(settings.storage_path)


@pytest.fixture
def sweeper(database: Database, settings: Settings) -> Sweeper:
    return sweeper_of(database, settings.model_copy(update={"orphan_seconds": 60}))


async def test_files_of_no_job_are_deleted_and_those_of_jobs_and_new_ones_are_kept(
    store: AttemptStore, database: Database, files: FileStore, sweeper: Sweeper
) -> None:
    assert await store.create(new_job()) is not None
    job = await store.claim("w", "b", "p", 60)
    assert job is not None
    claim = Claim(job.job_id, 1, "w")
    await store.saving(claim)
    kept = output()
    await store.complete(claim, [kept])
    orphan, fresh = "2026/11/23/99/1_0.png", "2026/11/23/99/1_1.png"
    for path in (kept.path, kept.thumbnail_path or "", orphan, fresh):
        await files.write(path, b"x")
    ago = time.time() - 120
    for path in (kept.path, kept.thumbnail_path or "", orphan):
        os.utime(files.absolute(path), (ago, ago))
    assert await sweeper.sweep() == said(orphans=1, keys=0)
    there = {path: files.absolute(path).exists() for path in (kept.path, kept.thumbnail_path or "", orphan, fresh)}
    assert there == {kept.path: True, kept.thumbnail_path: True, orphan: False, fresh: True}


async def test_idempotency_keys_are_forgotten_after_their_day(
    store: AttemptStore, plain: asyncpg.Connection, sweeper: Sweeper
) -> None:
    for key in ("old", "new"):
        assert await store.create(new_job(), Once("someone", key, "f", lambda job: f"job {job.job_id}")) is not None
    await plain.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")
    assert await sweeper.sweep() == said(orphans=0, keys=1)
    assert await store.replay(Once("someone", "old", "f", str)) is None
    assert await store.replay(Once("someone", "new", "f", str)) is not None


# Uploads.


async def test_uploads_expire_unless_a_job_that_waits_or_runs_needs_them(
    store: AttemptStore, database: Database, settings: Settings, plain: asyncpg.Connection, sweeper: Sweeper
) -> None:
    uploads = uploads_of(database, settings)
    made = [await uploads.take_bytes(GREY + bytes([number]), "someone") for number in range(4)]
    free, waiting, ended, young = (each.upload_id for each in made)
    await store.create(new_job(upload_ids=(waiting,)))
    done = await store.create(new_job(upload_ids=(ended,)))
    assert done is not None
    await store.cancel(done.job_id, None, "api")
    await plain.execute("UPDATE uploads SET expires_at = now() - interval '1 s' WHERE id <> $1", young)
    assert "deleted 0 orphaned files, 2 expired uploads" in await sweeper.sweep()
    left = {row["id"]: row["path"] for row in await plain.fetch("SELECT id, path FROM uploads")}
    assert left.keys() == {waiting, young}
    assert {path for path in settings.storage_path.rglob("*") if path.is_file()} == {
        settings.storage_path / path for path in left.values()
    }
    assert free not in left
    with pytest.raises(UploadInUse):
        await uploads.delete(waiting, "someone")


async def test_a_job_that_uses_an_upload_puts_its_end_off(
    store: AttemptStore, database: Database, settings: Settings, plain: asyncpg.Connection
) -> None:
    upload = await uploads_of(database, settings).take_bytes(GREY + b"x", "someone")
    await plain.execute("UPDATE uploads SET expires_at = now() + interval '1 s'")
    await store.create_all([new_job(), new_job(upload_ids=(upload.upload_id,)), new_job()])
    (row,) = await plain.fetch(
        "SELECT job_id, expires_at > now() + interval '6 days' AS later FROM job_uploads, uploads"
    )
    assert (row["job_id"], row["later"]) == (2, True)


async def test_a_job_whose_upload_is_gone_is_not_accepted(store: AttemptStore, plain: asyncpg.Connection) -> None:
    with pytest.raises(InvalidRequest, match="deleted in this moment"):
        await store.create_all([new_job(), new_job(upload_ids=("nowhere",))])
    assert await plain.fetchval("SELECT count(*) FROM generation_jobs") == 0


async def test_the_file_of_an_upload_is_no_orphan(database: Database, settings: Settings, sweeper: Sweeper) -> None:
    upload = await uploads_of(database, settings).take_bytes(GREY + b"x", "someone")
    path = settings.storage_path / upload.path
    ago = time.time() - 120
    os.utime(path, (ago, ago))
    assert "deleted 0 orphaned files" in await sweeper.sweep()
    assert path.exists()
