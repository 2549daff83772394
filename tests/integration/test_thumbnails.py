"""Thumbnails follow: `completed` does not wait for them, something is shown meanwhile, and none is forgotten."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestClient
from integration.monitor_fixtures import Document
from PIL import Image
from samples import new_job, output
from sqlalchemy import text

from app.storage.attempts import AttemptStore, Claim
from app.storage.files import FileStore, thumbnail_path
from app.storage.job_views import JobViews
from app.storage.thumbnails import Due, ThumbnailStore
from harness import eventually
from worker.outputs.thumbnails import BATCH, GIVEN_UP_S, LATE_S, TAKEN_UP, Thumbnails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.domain.job import Output
    from app.settings import Settings
    from app.storage.database import Database
    from harness import Service
    from worker.main import WorkerProcess

Client = TestClient[Any, Any]
SIZE = (640, 320)


def picture(form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(file, form)
    return file.getvalue()


@pytest.fixture
def store(database: Database) -> AttemptStore:
    return AttemptStore(database)


@pytest.fixture
def rows(database: Database) -> ThumbnailStore:
    return ThumbnailStore(database)


@pytest.fixture
def files(settings: Settings) -> FileStore:
    return FileStore(settings.storage_path)


@pytest.fixture
async def thumbnails(files: FileStore, rows: ThumbnailStore) -> AsyncIterator[Thumbnails]:
    made = Thumbnails(files, rows)
    yield made
    await made.close()


class Left:
    """A completed job with outputs whose thumbnails are due, and nobody who makes them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = AttemptStore(database)
        self.job_id = self.content_id = 0
        self.outputs: list[Output] = []

    async def leave(self, files: FileStore, *pictures: bytes, content_type: str = "image/png") -> Left:
        assert await self.store.create(new_job()) is not None
        job = await self.store.claim("w", "b", "p", 60)
        assert job is not None
        self.job_id = job.job_id
        for index, data in enumerate(pictures):
            path = f"2026/11/23/{job.job_id}/1_{index}.{content_type.partition('/')[2]}"
            await files.write(path, data)
            due: dict[str, Any] = {"path": path, "thumbnail_path": None, "thumbnail_due": True}
            self.outputs.append(output(index, content_type=content_type, size_bytes=len(data), **due))
        await self.store.saving(claim := Claim(job.job_id, 1, "w"))
        done = await self.store.complete(claim, self.outputs)
        self.content_id = done.content_id or 0
        return self

    @property
    def due(self) -> list[Due]:
        return [Due(self.content_id, each.index, each.path) for each in self.outputs]

    async def told(self) -> list[tuple[bool, str | None]]:
        """Return of each output whether its thumbnail is due, and where it is."""
        found = await JobViews(self.database).content(self.content_id)
        assert found is not None
        return [(each.thumbnail_due, each.thumbnail_path) for each in found[2]]

    async def stored_ago(self, seconds: float) -> None:
        statement = text("UPDATE contents SET created_at = now() - make_interval(secs => :ago) WHERE id = :id")
        async with self.database.transaction() as session:
            await session.execute(statement, {"ago": seconds, "id": self.content_id})


@pytest.fixture
def left(database: Database) -> Left:
    return Left(database)


def there(files: FileStore) -> list[str]:
    return sorted(path.relative_to(files.root).as_posix() for path in files.root.rglob("*") if path.is_file())


# What is told and shown while one is due.


async def test_while_a_thumbnail_is_due_the_picture_stands_in_for_it_and_is_not_kept(
    client: Client, left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    job = await (await client.get(f"/api/v1/generation-jobs/{left.job_id}")).json()
    (told,) = job["outputs"]
    url = told["thumbnail_url"]
    assert url == f"{told['url']}/thumbnail"
    for address in (url, f"/api/v1/contents/{left.content_id}/thumbnail"):
        before = await client.get(address)
        assert (before.status, before.content_type, await before.read()) == (200, "image/png", picture())
        assert before.headers["Cache-Control"] == "no-cache"
        assert "Last-Modified" not in before.headers
        assert before.headers["X-Content-Type-Options"] == "nosniff"
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    after = await client.get(url, headers={"If-None-Match": before.headers["ETag"]})
    assert (after.status, after.content_type) == (200, "image/webp")
    assert "immutable" in after.headers["Cache-Control"]
    with Image.open(io.BytesIO(await after.read())) as image:
        assert image.size == (512, 256)
    again = await client.get(url, headers={"If-None-Match": after.headers["ETag"]})
    assert again.status == 304


async def test_a_thumbnail_that_is_made_in_this_moment_is_waited_for(
    client: Client, left: Left, files: FileStore, thumbnails: Thumbnails, rows: ThumbnailStore
) -> None:
    await left.leave(files, picture())
    asking = asyncio.create_task(client.get(f"/api/v1/contents/{left.content_id}/thumbnail"))
    await asyncio.sleep(0)
    thumbnails.want(left.content_id, left.outputs)
    answer = await asking
    await thumbnails.done()
    assert (answer.status, answer.content_type) == (200, "image/webp")


async def test_what_no_browser_shows_stands_in_for_nothing(client: Client, left: Left, files: FileStore) -> None:
    await left.leave(files, picture("TIFF"), picture("TIFF"), content_type="image/tiff")
    answer = await client.get(f"/api/v1/contents/{left.content_id}/outputs/1/thumbnail")
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
    assert (await answer.json())["code"] == "thumbnail_due"
    assert int(answer.headers["Retry-After"]) > 0
    for page in (f"/monitor/jobs/{left.job_id}", "/monitor/?status=completed"):
        shown = Document(await (await client.get(page)).text())
        assert [image["src"] for image in shown.all("img") if "/contents/" in image["src"]] == []


async def test_the_page_shows_the_picture_at_once(client: Client, left: Left, files: FileStore) -> None:
    await left.leave(files, picture())
    for page in (f"/monitor/jobs/{left.job_id}", "/monitor/?status=completed"):
        shown = Document(await (await client.get(page)).text())
        sources = [image["src"] for image in shown.all("img") if "/contents/" in image["src"]]
        assert sources == [f"/api/v1/contents/{left.content_id}/outputs/0/thumbnail"]


# How they are made.


async def test_thumbnails_are_stored_beside_their_pictures_and_noted(
    left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    count = 2 * BATCH + 3
    await left.leave(files, *[picture()] * count)
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    assert await left.told() == [(False, thumbnail_path(each.path)) for each in left.outputs]
    assert there(files) == sorted(path for each in left.outputs for path in (each.path, thumbnail_path(each.path)))
    assert await left.store.delete(left.job_id) == [
        path for each in left.outputs for path in (each.path, thumbnail_path(each.path))
    ]


async def test_what_can_have_none_is_due_no_more(
    client: Client, left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, b"\x89PNG\r\n\x1a\n and nothing that can be decoded", picture())
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    assert await left.told() == [(False, None), (False, thumbnail_path(left.outputs[1].path))]
    content = await (await client.get(f"/api/v1/contents/{left.content_id}")).json()
    assert content["outputs"][0]["thumbnail_url"] is None
    answer = await client.get(f"/api/v1/contents/{left.content_id}/outputs/0/thumbnail")
    assert (answer.status, (await answer.json())["code"]) == (404, "content_not_found")


async def test_what_is_saved_goes_first(left: Left, files: FileStore, rows: ThumbnailStore) -> None:
    await left.leave(files, picture(), picture())
    patient = Thumbnails(files, rows, yield_s=60)
    with patient.giving_way():
        patient.want(left.content_id, left.outputs)
        # Many turns of the loop, and of the database.
        for _ in range(10):
            assert await left.told() == [(True, None)] * 2
    await patient.done()
    assert [due for due, _ in await left.told()] == [False, False]
    await patient.close()


async def test_what_is_saved_goes_first_but_not_for_ever(left: Left, files: FileStore, rows: ThumbnailStore) -> None:
    await left.leave(files, picture(), picture())
    impatient = Thumbnails(files, rows, yield_s=0.01)
    with impatient.giving_way():
        impatient.want(left.content_id, left.outputs)
        await impatient.done()
    assert [due for due, _ in await left.told()] == [False, False]
    await impatient.close()


async def test_one_that_cannot_be_stored_is_due_until_it_can_be(
    left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    place = files.absolute(thumbnail_path(left.outputs[0].path))
    # A folder where the thumbnail is to be: it cannot be written, whoever one is.
    place.mkdir()
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    assert await left.told() == [(True, None)]
    place.rmdir()
    await left.stored_ago(LATE_S + 1)
    assert await thumbnails.take_up() == 1
    await thumbnails.done()
    assert await left.told() == [(False, thumbnail_path(left.outputs[0].path))]


# Jobs that are deleted meanwhile.


async def test_of_a_job_that_is_deleted_before_nothing_is_left(
    left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    await files.delete(await left.store.delete(left.job_id))
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    assert there(files) == []


async def test_a_thumbnail_whose_job_was_deleted_while_it_was_made_is_deleted_again(
    left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    await left.store.delete(left.job_id)
    # The rows are gone and the file is still there: whoever deletes has come so far.
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    assert there(files) == [left.outputs[0].path]


async def test_a_worker_that_dies_before_it_could_note_a_thumbnail_leaves_none_behind(
    left: Left, files: FileStore
) -> None:
    await left.leave(files, picture())
    files.write_now({thumbnail_path(left.outputs[0].path): b"of a worker that has died"})
    await files.delete(await left.store.delete(left.job_id))
    assert there(files) == []


async def test_deleting_and_making_at_once_leaves_no_file_whoever_comes_first(
    database: Database, files: FileStore, thumbnails: Thumbnails
) -> None:
    for number in range(20):
        left = await Left(database).leave(files, picture(), picture())
        for each in left.outputs:
            files.write_now({thumbnail_path(each.path): b"made"})
        thumbs = {due: thumbnail_path(due.path) for due in left.due}
        rows = ThumbnailStore(database)
        steps = [left.store.delete(left.job_id), rows.made(thumbs)]
        results = await asyncio.gather(*(steps if number % 2 else reversed(steps)))
        paths, gone = results if number % 2 else reversed(results)
        await files.delete(paths)  # type: ignore[arg-type]
        await files.delete(thumbs[due] for due in gone)  # type: ignore[index]
        assert there(files) == []


async def test_of_two_that_make_the_same_thumbnail_none_deletes_the_others(
    left: Left, files: FileStore, rows: ThumbnailStore
) -> None:
    await left.leave(files, picture())
    both = [Thumbnails(files, rows), Thumbnails(files, rows)]
    for each in both:
        each.want(left.content_id, left.outputs)
    for each in both:
        await each.done()
        await each.close()
    place = thumbnail_path(left.outputs[0].path)
    assert await left.told() == [(False, place)]
    assert place in there(files)


async def test_a_thumbnail_that_is_stored_and_not_yet_noted_is_no_orphan(
    database: Database, left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture(), b"x")
    first, second = [thumbnail_path(each.path) for each in left.outputs]
    asked = [first, second, "2026/11/23/99/1_0.thumb.webp", left.outputs[0].path]
    assert await JobViews(database).known_paths(asked) == {first, second, left.outputs[0].path}
    thumbnails.want(left.content_id, left.outputs)
    await thumbnails.done()
    # Of the second one none could be made: what lies there is nobody's.
    assert await JobViews(database).known_paths(asked) == {first, left.outputs[0].path}


# Those that were forgotten.


async def test_only_what_has_been_due_for_long_is_taken_up_and_not_all_at_once(
    database: Database, left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    assert await thumbnails.take_up() == 0
    await left.stored_ago(LATE_S + 1)
    assert await thumbnails.take_up() == 1
    await thumbnails.done()
    assert [due for due, _ in await left.told()] == [False]
    many = await Left(database).leave(files, *[b"x"] * (TAKEN_UP + 5))
    await many.stored_ago(LATE_S + 1)
    assert await thumbnails.take_up() == TAKEN_UP
    await thumbnails.done()
    assert await thumbnails.take_up() == 5


async def test_what_nobody_could_make_for_a_week_is_given_up(
    left: Left, files: FileStore, thumbnails: Thumbnails
) -> None:
    await left.leave(files, picture())
    await left.stored_ago(GIVEN_UP_S + 1)
    assert await thumbnails.take_up() == 0
    assert await left.told() == [(False, None)]


async def test_what_a_worker_leaves_due_another_one_makes(
    service: Service, start_worker: Callable[..., Awaitable[WorkerProcess]], database: Database
) -> None:
    # It does so no more than one that has died.
    await service.worker.thumbnails.close()
    done = await service.run()
    assert done["status"] == "completed"
    left = Left(database)
    left.content_id = done["content_id"]
    assert [due for due, _ in await left.told()] == [True]
    await left.stored_ago(LATE_S + 1)
    # It looks for what was forgotten when it starts.
    await start_worker(f"standin={service.standin.url}")

    async def made() -> bool:
        return [due for due, _ in await left.told()] == [False]

    await eventually(made)
    answer = await service.client.get(done["outputs"][0]["thumbnail_url"])
    assert (answer.status, answer.content_type) == (200, "image/webp")


async def test_a_completed_job_has_its_thumbnails_soon(service: Service, settings: Settings) -> None:
    done = await service.run(batch_size=3)
    await service.worker.thumbnails.done()
    assert len(list(settings.storage_path.rglob("*.thumb.webp"))) == 3
    for each in done["outputs"]:
        answer = await service.client.get(each["thumbnail_url"])
        assert (answer.status, answer.content_type) == (200, "image/webp")
