"""Files that clients hand over: taken by their content, kept once per owner, deleted when no job needs them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import FormData
from PIL import Image

from app import keys
from app.settings import ROOT
from app.web import uploads
from harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.test_utils import TestClient

    from app.settings import Settings

    Client = TestClient[Any, Any]

MEDIA = ROOT / "tests" / "data" / "media"
UPLOADS = "/api/v1/uploads"
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def picture(form: str = "PNG", size: tuple[int, int] = (24, 16), color: str = "teal", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color if mode != "1" else 1).save(file, form)
    return file.getvalue()


async def sent(client: Client, data: Any, user: str = "ann", **headers: str) -> tuple[int, dict[str, Any]]:
    answer = await client.post(UPLOADS, params={"user_id": user}, data=data, headers=headers)
    return answer.status, await answer.json()


def kept(settings: Settings) -> list[Path]:
    """Return all files of the store, temporary ones included."""
    return [path for path in settings.storage_path.rglob("*") if path.is_file()]


async def test_a_picture_is_taken_and_told(client: Client, settings: Settings) -> None:
    data = picture()
    status, told = await sent(client, data)
    assert status == 201
    assert (told["kind"], told["content_type"], told["width"], told["height"]) == ("image", "image/png", 24, 16)
    assert (told["size_bytes"], told["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (told["user_id"], told["duration_seconds"]) == ("ann", None)
    assert told["expires_at"] > told["created_at"]
    answer = await client.get(told["url"])
    assert (answer.status, await answer.read(), answer.content_type) == (200, data, "image/png")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    shown = await client.get(f"{UPLOADS}/{told['upload_id']}")
    assert await shown.json() == told
    assert len(kept(settings)) == 1


async def test_a_form_does_as_well(client: Client) -> None:
    form = FormData()
    form.add_field("user_id", "ann")
    form.add_field("file", picture(), filename="a.png", content_type="image/png")
    answer = await client.post(UPLOADS, data=form)
    told = await answer.json()
    assert (answer.status, told["user_id"], told["kind"]) == (201, "ann", "image")
    assert answer.headers["Location"] == f"{UPLOADS}/{told['upload_id']}"


async def test_the_same_bytes_of_the_same_owner_are_the_same_upload(client: Client, settings: Settings) -> None:
    _, first = await sent(client, picture())
    status, again = await sent(client, picture())
    assert (status, again["upload_id"], len(kept(settings))) == (200, first["upload_id"], 1)
    assert again["expires_at"] >= first["expires_at"]
    status, other = await sent(client, picture(), user="bob")
    assert (status, other["upload_id"] != first["upload_id"]) == (201, True)


async def test_the_same_bytes_at_once_are_one_upload(client: Client, settings: Settings) -> None:
    found = await asyncio.gather(*(sent(client, picture()) for _ in range(12)))
    assert len({told["upload_id"] for _, told in found}) == 1
    assert sorted(status for status, _ in found) == [200] * 11 + [201]
    assert len(kept(settings)) == 1


async def test_a_file_that_was_lost_is_back_when_it_is_sent_again(client: Client, settings: Settings) -> None:
    _, told = await sent(client, picture())
    kept(settings)[0].unlink()
    assert (await client.get(told["url"])).status == 404
    status, again = await sent(client, picture())
    assert (status, again["upload_id"]) == (200, told["upload_id"])
    assert (await client.get(told["url"])).status == 200


@pytest.mark.parametrize(
    ("form", "mode", "content_type"),
    [
        ("JPEG", "RGB", "image/jpeg"),
        ("WEBP", "RGBA", "image/webp"),
        ("GIF", "P", "image/gif"),
        ("TIFF", "RGB", "image/tiff"),
        ("BMP", "RGB", "image/bmp"),
        ("AVIF", "RGB", "image/avif"),
        ("PPM", "RGB", "image/x-portable-anymap"),
        ("JPEG2000", "RGB", "image/jp2"),
        ("ICO", "RGBA", "image/x-icon"),
        ("DDS", "RGB", "application/octet-stream"),
        ("PCX", "RGB", "image/x-pcx"),
        ("SGI", "RGB", "image/sgi"),
        ("XBM", "1", "image/xbm"),
    ],
)
async def test_every_kind_of_picture_that_pillow_reads_is_taken(
    client: Client, form: str, mode: str, content_type: str
) -> None:
    # Icons are square.
    size = (16, 16) if form == "ICO" else (24, 16)
    status, told = await sent(client, picture(form, size, mode=mode))
    assert status == 201, told
    assert (told["kind"], told["width"], told["height"]) == ("image", *size)
    assert told["content_type"] == content_type


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("av.mp4", "video"),
        ("a.webm", "video"),
        ("a.mov", "video"),
        ("a.flac", "audio"),
        ("a.mp3", "audio"),
        ("a.opus", "audio"),
        ("scene.glb", "3d"),
    ],
)
async def test_videos_sounds_and_scenes_are_taken(client: Client, name: str, kind: str) -> None:
    status, told = await sent(client, (MEDIA / name).read_bytes())
    assert (status, told["kind"]) == (201, kind), told
    assert (told["duration_seconds"] or 0 > 0) == (kind != "3d") or told["duration_seconds"] > 0


@pytest.mark.parametrize(
    ("data", "extension"),
    [
        (b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "ply"),
        (b"solid a\n facet normal 0 0 1\n outer loop\n", "stl"),
        (bytes(80) + struct.pack("<I", 2) + bytes(100), "stl"),
        (b"Kaydara FBX Binary  \0\x1a\0" + bytes(20), "fbx"),
        (b'{"asset": {"version": "2.0"}, "scenes": []}', "gltf"),
    ],
)
async def test_other_3d_models_are_taken(client: Client, settings: Settings, data: bytes, extension: str) -> None:
    status, told = await sent(client, data)
    assert (status, told["kind"]) == (201, "3d"), told
    assert [path.suffix for path in kept(settings)] == [f".{extension}"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"a text, whatever its name says", "a text"),
        (b"<!doctype html><title>no picture</title>", "a web page"),
        (b"PK\3\4" + bytes(60), "a ZIP archive"),
        (b"%PDF-1.7\n" + b"\xff" * 60, "a PDF"),
        (bytes(500), "nothing but zeros"),
        (b"\x93\xfe\x01\x88" * 40, "an unknown format"),
        (picture()[:-20], "damaged"),
        (picture("JPEG")[:-20], "damaged"),
    ],
    ids=["empty", "text", "html", "zip", "pdf", "zeros", "noise", "cut-png", "cut-jpeg"],
)
async def test_what_no_graph_can_use_is_refused_by_name(
    client: Client, settings: Settings, data: bytes, word: str
) -> None:
    form = FormData()
    form.add_field("file", data, filename="a.png", content_type="image/png")
    for body in (data, form):
        answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=body)
        told = await answer.json()
        assert (answer.status, told["code"]) == (422, "invalid_upload"), told
        assert word in told["detail"]
    assert kept(settings) == []


async def test_a_bomb_is_refused(client: Client, settings: Settings) -> None:
    bomb = bytearray(picture())
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    # The checksum of its head.
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    status, told = await sent(client, bytes(bomb))
    assert (status, told["code"]) == (422, "invalid_upload")
    assert "60000 × 60000" in told["detail"]
    assert kept(settings) == []


@pytest.mark.parametrize("told_length", [True, False])
async def test_a_file_that_is_too_large_is_refused(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, told_length: bool
) -> None:
    monkeypatch.setattr(client.server.app[keys.UPLOADS], "max_bytes", 2**20)

    async def pieces() -> Any:
        for _ in range(40):
            yield bytes(2**16)

    body: Any = io.BytesIO(bytes(40 * 2**16)) if told_length else pieces()
    answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=body)
    told = await answer.json()
    assert (answer.status, told["code"]) == (413, "body_too_large")
    assert "MAX_UPLOAD_BYTES" in told["detail"]
    assert kept(settings) == []


async def test_an_upload_that_breaks_off_leaves_nothing(client: Client, settings: Settings) -> None:
    for head in (
        b"Content-Type: image/png",
        b"Content-Type: multipart/form-data; boundary=x",
    ):
        reader, writer = await asyncio.open_connection(client.host, client.port)
        body = FORM if head.endswith(b"x") else b""
        body += bytes(3 * 2**20)
        writer.write(
            b"POST /api/v1/uploads?user_id=ann HTTP/1.1\r\nHost: localhost\r\n"
            + head
            + b"\r\nContent-Length: 9000000\r\n\r\n"
            + body
        )
        await writer.drain()

        async def begun() -> bool:
            return bool(kept(settings))

        await eventually(begun)
        writer.close()

        async def gone() -> bool:
            return not kept(settings)

        await eventually(gone)
        del reader
    assert await (await client.get(UPLOADS)).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ([], "no part `file`"),
        ([("file", True), ("file", True)], "One file"),
        ([("picture", True)], "no such field: picture"),
        ([("user_id", False)], "no part `file`"),
    ],
)
async def test_a_form_of_other_parts_is_refused(
    client: Client, settings: Settings, fields: list[tuple[str, bool]], word: str
) -> None:
    form = FormData(default_to_multipart=True)
    for name, is_file in fields or [("user_id", False)]:
        if is_file:
            form.add_field(name, picture(), filename="a.png", content_type="image/png")
        else:
            form.add_field(name, "ann")
    answer = await client.post(UPLOADS, data=form)
    told = await answer.json()
    assert (answer.status, told["code"]) == (422, "invalid_upload"), told
    assert word in told["detail"]
    assert kept(settings) == []


async def test_a_large_file_of_a_form_that_is_refused_leaves_nothing(client: Client, settings: Settings) -> None:
    form = FormData()
    form.add_field("file", io.BytesIO(bytes(3 * 2**20)), filename="a.png")
    form.add_field("other", "field")
    answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=form)
    assert (answer.status, (await answer.json())["code"]) == (422, "invalid_upload")
    assert kept(settings) == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"no form at all", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data"),
        (FORM + b"abc", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/mixed; boundary=x"),
    ],
)
async def test_nonsense_for_a_form_is_refused(
    client: Client, settings: Settings, body: bytes, content_type: str
) -> None:
    answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=body, headers={"Content-Type": content_type})
    assert answer.status in (400, 422), await answer.text()
    assert (await answer.json())["code"] in ("malformed_form", "invalid_upload")
    assert kept(settings) == []


@pytest.mark.parametrize("name", ["n" * 4000 + ".png", "../../../etc/passwd.png", "a\\..\\b.png", "%00.png", "…/ü.png"])
async def test_a_name_leads_nowhere(client: Client, settings: Settings, name: str) -> None:
    form = FormData()
    form.add_field("file", picture(), filename=name, content_type="image/png")
    answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=form)
    assert answer.status == 201, await answer.text()
    (path,) = kept(settings)
    assert path.parent.name == "uploads"
    assert path.suffix == ".png"


async def test_an_owner_is_needed(client: Client, settings: Settings) -> None:
    answer = await client.post(UPLOADS, data=picture())
    told = await answer.json()
    assert (answer.status, told["code"], told["errors"][0]["pointer"]) == (422, "invalid_upload", "user_id")
    assert kept(settings) == []


async def test_a_compressed_body_is_refused(client: Client) -> None:
    status, told = await sent(client, picture(), **{"Content-Encoding": "gzip"})
    assert (status, told["code"]) == (415, "unsupported_media_type")


async def test_those_of_others_are_not_there(client: Client) -> None:
    _, told = await sent(client, picture())
    one = f"{UPLOADS}/{told['upload_id']}"
    for answer in (
        await client.get(one, params={"user_id": "bob"}),
        await client.get(f"{one}/data", params={"user_id": "bob"}),
        await client.delete(one, params={"user_id": "bob"}),
        await client.get(f"{UPLOADS}/nowhere"),
        await client.get(f"{UPLOADS}/nowhere/data"),
        await client.delete(f"{UPLOADS}/nowhere"),
    ):
        assert (answer.status, (await answer.json())["code"]) == (404, "upload_not_found")
    assert (await client.get(one, params={"user_id": "ann"})).status == 200
    assert (await (await client.get(UPLOADS, params={"user_id": "bob"})).json())["items"] == []


async def test_the_list_goes_on_where_a_page_ended(client: Client) -> None:
    sent_ones = [(await sent(client, picture(size=(8 + number, 8))))[1]["upload_id"] for number in range(5)]
    found, cursor = list[str](), None
    for _ in range(3):
        query = {"user_id": "ann", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = await (await client.get(UPLOADS, params=query)).json()
        found += [each["upload_id"] for each in page["items"]]
        cursor = page["next_cursor"]
    assert (found, cursor) == (sent_ones[::-1], None)


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "W10"}, {"owner": "a"}])
async def test_a_wrong_query_is_named(client: Client, query: dict[str, str]) -> None:
    answer = await client.get(UPLOADS, params=query)
    assert (answer.status, (await answer.json())["errors"][0]["pointer"]) == (422, next(iter(query)))


async def test_a_deleted_upload_is_gone_with_its_file(client: Client, settings: Settings) -> None:
    _, told = await sent(client, picture())
    assert (await client.delete(f"{UPLOADS}/{told['upload_id']}")).status == 204
    assert kept(settings) == []
    assert (await client.get(told["url"])).status == 404


async def test_a_full_disk_is_told_and_leaves_nothing(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    for size in (64, 1400):
        data = io.BytesIO()
        Image.effect_noise((size, size), 90).save(data, "PNG")
        with monkeypatch.context() as patched:
            patched.setattr("app.storage.files.os.write", full)
            status, told = await sent(client, io.BytesIO(data.getvalue()))
        assert (status, told["code"]) == (507, "storage_failed")
        assert "Free space" in told["detail"]
    assert kept(settings) == []


async def test_only_so_many_are_received_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.server.app[uploads.RECEIVING]._value = 0  # noqa: SLF001
    monkeypatch.setattr(uploads, "_TURN_S", 0.05)
    status, told = await sent(client, picture())
    assert (status, told["code"]) == (503, "busy")
