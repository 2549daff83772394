"""Contents: what a job left, its bytes as they were stored, ranges, caching, thumbnails."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from app.settings import Settings
    from harness import Service


@pytest.fixture
async def done(service: Service) -> dict[str, Any]:
    """A completed job of two pictures."""
    job = await service.run(batch_size=2, width=640, height=128)
    assert job["status"] == "completed", job["error_message"]
    await service.worker.thumbnails.done()
    return job


def unsigned(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs without their links, which are others in each minute."""
    return [{name: value for name, value in each.items() if not name.startswith("signed_")} for each in outputs]


async def test_a_content_lists_what_the_job_left(service: Service, done: dict[str, Any]) -> None:
    answer = await service.client.get(f"/api/v1/contents/{done['content_id']}")
    content = await answer.json()
    assert (content["content_id"], content["job_id"]) == (done["content_id"], done["job_id"])
    assert unsigned(content["outputs"]) == unsigned(done["outputs"])
    assert content["created_at"].endswith("Z")


async def test_the_bytes_are_the_stored_ones(service: Service, done: dict[str, Any], settings: Settings) -> None:
    for output, path in zip(done["outputs"], done["output_paths"], strict=True):
        answer = await service.client.get(output["url"])
        data = await answer.read()
        assert (answer.status, answer.content_type) == (200, "image/png")
        assert hashlib.sha256(data).hexdigest() == output["sha256"]
        assert len(data) == output["size_bytes"] == int(answer.headers["Content-Length"])
        assert data == (settings.storage_path / path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (output["width"], output["height"]) == (640, 128)


async def test_bytes_are_shown_harmlessly_and_kept_for_ever(service: Service, done: dict[str, Any]) -> None:
    for url in (done["outputs"][0]["url"], done["outputs"][0]["thumbnail_url"]):
        headers = (await service.client.get(url)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
        assert "immutable" in headers["Cache-Control"]
        assert headers["Content-Disposition"].startswith("inline; filename=")
        assert headers["X-Request-Id"]


async def test_what_the_client_has_is_not_sent_again(service: Service, done: dict[str, Any]) -> None:
    url = done["outputs"][0]["url"]
    etag = (await service.client.get(url)).headers["ETag"]
    again = await service.client.get(url, headers={"If-None-Match": etag})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == etag
    other = await service.client.get(url, headers={"If-None-Match": '"another"'})
    assert other.status == 200


@pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=10-", "bytes=-5", "bytes=0-99999999"])
async def test_a_range_is_sent_alone(service: Service, done: dict[str, Any], asked: str) -> None:
    url = done["outputs"][0]["url"]
    whole = await (await service.client.get(url)).read()
    part = await service.client.get(url, headers={"Range": asked})
    first, last = asked.removeprefix("bytes=").split("-")
    wanted = whole[int(first) : int(last) + 1 if last else None] if first else whole[-int(last) :]
    start = int(first) if first else len(whole) - int(last)
    assert (part.status, await part.read()) == (206, wanted)
    assert part.headers["Content-Range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=5-2", "bytes=x-y", "lines=1-2"])
async def test_a_range_that_cannot_be_had_is_416(service: Service, done: dict[str, Any], asked: str) -> None:
    answer = await service.client.get(done["outputs"][0]["url"], headers={"Range": asked})
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{done['outputs'][0]['size_bytes']}"
    assert answer.content_type == "application/problem+json"
    assert (await answer.json())["code"] == "range_not_satisfiable"


async def test_head_tells_without_sending(service: Service, done: dict[str, Any]) -> None:
    output = done["outputs"][0]
    for url in (output["url"], f"{output['url']}/"):
        answer = await service.client.head(url)
        assert (answer.status, await answer.read()) == (200, b"")
        assert answer.headers["Content-Length"] == str(output["size_bytes"])
        assert answer.headers["ETag"]
    answer = await service.client.head(f"/api/v1/generation-jobs/{done['job_id']}")
    assert (answer.status, answer.content_type, await answer.read()) == (200, "application/json", b"")


async def test_thumbnails_are_small_pictures(service: Service, done: dict[str, Any]) -> None:
    content_url = f"/api/v1/contents/{done['content_id']}"
    first = await (await service.client.get(f"{content_url}/thumbnail")).read()
    for output in done["outputs"]:
        answer = await service.client.get(output["thumbnail_url"])
        data = await answer.read()
        assert (answer.status, answer.content_type) == (200, "image/webp")
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (512, 102)
        assert (data == first) == (output["index"] == 0)


async def test_what_is_not_there_is_404(service: Service, done: dict[str, Any], settings: Settings) -> None:
    content_id = done["content_id"]
    (settings.storage_path / done["output_paths"][1]).unlink()
    for path in (
        f"/api/v1/contents/{content_id + 1}",
        f"/api/v1/contents/{content_id + 1}/thumbnail",
        f"/api/v1/contents/{content_id}/outputs/2",
        f"/api/v1/contents/{content_id}/outputs/99999999999",
        f"/api/v1/contents/{content_id}/outputs/2/thumbnail",
        done["outputs"][1]["url"],
    ):
        answer = await service.client.get(path)
        assert (answer.status, answer.content_type) == (404, "application/problem+json"), path
        assert (await answer.json())["code"] == "content_not_found"


async def test_a_text_is_sent_as_text_and_without_a_thumbnail(service: Service) -> None:
    workflow = {"1": {"class_type": "PreviewAny", "inputs": {"source": "Grüße\n<script>alert(1)</script>"}}}
    object_info = await (await service.client.session.get(f"{service.standin.url}/object_info")).json()
    if "PreviewAny" not in object_info:
        pytest.skip("the stand-in has no node that leaves a text")
    done = await service.run(job_type="workflow", prompt=None, workflow=workflow)
    (output,) = done["outputs"]
    assert (output["kind"], output["thumbnail_url"]) == ("text", None)
    answer = await service.client.get(output["url"])
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "<script>" in await answer.text()
    assert (await service.client.get(f"{output['url']}/thumbnail")).status == 404
