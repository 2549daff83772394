"""Uploads: which name a file gets, which forms are refused, masks, and what can go wrong on demand.

The answers are those of running servers of both ages, which do not differ.
"""

import asyncio
import io
import json
import os
import threading
from typing import Any, Final

import aiohttp
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from unit.standin.standin_client import BOTH, Client, image_graph, png

from harness import GUARD_S
from worker.standin.faults import Fault, FaultKind
from worker.standin.sockets import MAX_UPLOAD_BYTES

BOUNDARY: Final = "a-boundary"


def field(disposition: str, value: bytes = b"one") -> bytes:
    """Return one part of a form."""
    return b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (
        BOUNDARY.encode(),
        disposition.encode(),
        value,
    )


async def send(client: Client, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> int:
    """Send a body to the route of uploads; return the status."""
    url, headers = client.server.make_url("/upload/image"), {"Content-Type": content_type}
    async with client.session.post(url, data=body, headers=headers) as response:
        await response.read()
        return response.status


def stored(client: Client, name: str, kind: str = "input") -> bytes:
    """Return the bytes of a file on the server."""
    return (client.standin.folders.inside(kind, "") / name).read_bytes()


@BOTH
async def test_an_upload_keeps_its_name_unless_other_bytes_have_it(client: Client) -> None:
    names = [(await client.upload(data))[1]["name"] for data in (b"1", b"1", b"2", b"2", b"3", b"2")]
    assert names == ["in.png", "in.png", "in (1).png", "in (1).png", "in (2).png", "in (1).png"]
    assert [stored(client, name) for name in ("in.png", "in (1).png", "in (2).png")] == [b"1", b"2", b"3"]


@BOTH
@pytest.mark.parametrize(
    ("word", "name"),
    [("true", "in.png"), ("1", "in.png"), ("True", "in (1).png"), ("yes", "in (1).png"), ("", "in (1).png")],
)
async def test_only_two_words_let_an_upload_take_the_place_of_a_file(client: Client, word: str, name: str) -> None:
    await client.upload(b"old")
    assert (await client.upload(b"new", overwrite=word))[1]["name"] == name
    assert stored(client, name) == b"new"


@BOTH
@pytest.mark.parametrize(
    ("name", "numbered"),
    [
        ("a.tar.gz", "a.tar (1).gz"),
        (".png", ".png (1)"),
        ("e.", "e (1)."),
        ("noext", "noext (1)"),
        ("n (1).png", "n (1) (1).png"),
        ("d/y.png", "d/y (1).png"),
    ],
)
async def test_the_number_stands_in_front_of_the_last_suffix(client: Client, name: str, numbered: str) -> None:
    await client.upload(b"x", subfolder="d")
    assert (await client.upload(b"1", name))[1]["name"] == name
    assert (await client.upload(b"2", name))[1]["name"] == numbered


@BOTH
@pytest.mark.parametrize(
    ("name", "fields", "told"),
    [
        ("in.png", {"subfolder": "a/b"}, {"subfolder": "a/b"}),
        ("in.png", {"subfolder": "a/b/"}, {"subfolder": "a/b/"}),
        ("in.png", {"subfolder": "a/../b"}, {"subfolder": "a/../b"}),
        ("in.png", {"subfolder": "."}, {"subfolder": "."}),
        ("in.png", {"type": "temp"}, {"type": "temp"}),
        ("in.png", {"type": "output", "subfolder": "x"}, {"type": "output", "subfolder": "x"}),
        ("in.png", {"other": "field"}, {}),
        ("../x.png", {"subfolder": "a"}, {"subfolder": "a"}),
        ("input/x.png", {"subfolder": ".."}, {"subfolder": ".."}),
        ("a..b.png", {}, {}),
        (" bild ü 猫.png ", {}, {}),
        ("x.png [output]", {}, {}),
    ],
)
async def test_an_answer_repeats_where_the_file_was_put(client: Client, name: str, fields: Any, told: Any) -> None:
    status, answer = await client.upload(b"x", name, **fields)
    assert (status, answer) == (200, {"name": name, "subfolder": "", "type": "input"} | told)
    folder = client.standin.folders.inside(answer["type"], "")
    assert os.path.exists(os.path.join(folder, os.path.normpath(answer["subfolder"]), name))  # noqa: PTH110, PTH118 - keeps the dots


@BOTH
@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("../x.png", {}, 400),
        ("../../x.png", {"subfolder": "a"}, 400),
        ("x.png", {"subfolder": "../.."}, 400),
        ("x.png", {"subfolder": "/tmp"}, 400),  # noqa: S108
        ("no/such/x.png", {}, 500),
        ("..", {"subfolder": "a"}, 500),
        (".", {}, 500),
        ("x.png", {"type": "bogus"}, 500),
        ("x.png", {"type": ""}, 500),
        ("x.png", {"subfolder": "there.png"}, 500),
        ("x.png", {"subfolder": "a\0b"}, 500),
        ("y" * 300, {}, 500),
    ],
)
async def test_an_upload_leads_nowhere_else(client: Client, name: str, fields: dict[str, str], status: int) -> None:
    await client.upload(b"x", "there.png")
    assert (await client.upload(b"x", name, **fields))[0] == status


@BOTH
async def test_forms_that_are_not_right_are_refused_each_in_its_way(client: Client) -> None:
    end, file = b"--%s--\r\n" % BOUNDARY.encode(), field('name="image"; filename="in.png"')
    bodies = {
        "nothing": (end, 400),
        "another name": (field('name="file"; filename="in.png"') + end, 400),
        "no text either": (field('name="image"', b"") + end, 400),
        "a text": (field('name="image"') + end, 500),
        "no file name": (field('name="image"; filename=""') + end, 500),
        "a file for a text": (file + field('name="subfolder"; filename="x"') + end, 500),
        "cut off": (file + end[:-8], 500),
        "no form": (b"", 500),
    }
    found = {what: await send(client, body) for what, (body, _) in bodies.items()}
    assert found == {what: status for what, (_, status) in bodies.items()}
    others = {"application/json": 400, "text/plain": 400, "multipart/mixed; boundary=a-boundary": 400}
    others |= {"multipart/form-data": 500, "multipart/form-data; boundary=other": 500}
    found = {kind: await send(client, file + end, kind) for kind in others}
    assert found == others
    assert await send(client, b"image=x", "application/x-www-form-urlencoded") == 500
    assert client.standin.folders.input_files() == []


async def test_of_two_files_in_a_form_the_first_is_stored(client: Client) -> None:
    parts = [field(f'name="image"; filename="{name}"', name.encode()) for name in ("one.png", "two.png")]
    assert await send(client, b"".join(parts) + b"--%s--\r\n" % BOUNDARY.encode()) == 200
    assert client.standin.folders.input_files() == ["one.png"]


async def test_a_form_of_more_than_100_mib_is_refused_and_one_just_below_is_stored(client: Client) -> None:
    data = bytes(MAX_UPLOAD_BYTES - 4096)
    assert (await client.upload(data))[0] == 200
    assert len(stored(client, "in.png")) == len(data)
    status, text = await client.upload(data, "more.png", comment="x" * 8192)
    assert (status, text) == (413, b"Maximum request body size 104857600 exceeded.")
    assert client.standin.folders.input_files() == ["in.png"]


async def test_uploads_at_the_same_time_under_one_name_do_not_overwrite_each_other(client: Client) -> None:
    contents = [bytes([number]) * 300_000 for number in range(12)]
    answers = await asyncio.gather(*(client.upload(data) for data in contents))
    names = [answer["name"] for _, answer in answers]
    assert sorted(names) == client.standin.folders.input_files()
    assert [stored(client, name) for name in names] == contents


class SlowFile:
    """A file whose bytes come only when they are let go: a pipe, in whose place an ordinary file steps then."""

    def __init__(self, client: Client) -> None:
        self._path = client.standin.folders.inside("input", "") / "slow.wav"
        os.mkfifo(self._path)
        self._let_go = threading.Event()
        self._giver = asyncio.create_task(asyncio.to_thread(self._give))

    def _give(self) -> bool:
        """Give the bytes when asked to, or after a while all the same; tell whether it was asked."""
        asked = self._let_go.wait(GUARD_S / 4)
        writing = os.open(self._path, os.O_RDWR)
        self._path.with_suffix(".ready").write_bytes(b"slow")
        self._path.with_suffix(".ready").replace(self._path)
        os.write(writing, b"slow")
        os.close(writing)
        return asked

    async def let_go(self) -> bool:
        """Give the bytes; return False if they were given before, because the loop did not come round."""
        self._let_go.set()
        return await self._giver


async def test_the_server_answers_others_while_an_upload_is_compared_with_a_file(client: Client) -> None:
    file = SlowFile(client)
    async with asyncio.timeout(GUARD_S):
        upload = asyncio.create_task(client.upload(b"slow", "slow.wav"))
        while not client.standin.storing.locked():
            await asyncio.sleep(0.005)
        assert (await client.get("/features"))[0] == 200
        assert await file.let_go()
        assert (await upload)[1]["name"] == "slow.wav"


async def test_the_server_answers_others_while_a_loader_looks_whether_its_file_has_changed(client: Client) -> None:
    file = SlowFile(client)
    graph = {
        "1": {"class_type": "LoadAudio", "inputs": {"audio": "slow.wav"}},
        "2": {"class_type": "PreviewAudio", "inputs": {"audio": ["1", 0]}},
    }
    async with asyncio.timeout(GUARD_S):
        prompt_id = await client.submit(graph)
        while client.standin.log.starts(prompt_id) == 0:
            await asyncio.sleep(0.005)
        assert (await client.get("/features"))[0] == 200
        assert await file.let_go()
        await client.idle()
    assert client.standin.queue.history[prompt_id]["status"]["completed"] is True


def mask_form(reference: Any, mask: bytes, name: str = "painted.png") -> dict[str, Any]:
    """Return what is uploaded with a mask."""
    told = reference if isinstance(reference, str) else json.dumps(reference)
    return {"data": mask, "name": name, "route": "/upload/mask", "original_ref": told}


@BOTH
async def test_a_mask_becomes_the_transparency_of_a_picture_that_keeps_its_text(client: Client) -> None:
    texts, buffer = PngInfo(), io.BytesIO()
    texts.add_text("workflow", "{}")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(buffer, "PNG", pnginfo=texts)
    await client.upload(buffer.getvalue(), "orig.png", subfolder="a")
    mask = png((0, 0, 0, 100), (8, 8), "RGBA")
    names = []
    for reference in ({"filename": "orig.png", "subfolder": "a", "type": "input"}, {"filename": "a/orig.png [input]"}):
        status, answer = await client.upload(**mask_form(reference, mask))
        assert status == 200
        names.append(answer["name"])
    assert names == ["painted.png", "painted (1).png"], "what was uploaded is not what is there"
    for name in names:
        with Image.open(io.BytesIO(stored(client, name))) as picture:
            assert picture.getpixel((3, 3)) == (200, 10, 10, 100)
            assert picture.info["workflow"] == "{}"


@BOTH
@pytest.mark.parametrize(
    "reference",
    [
        {"filename": "gone.png", "type": "input"},
        {"filename": "../x.png", "type": "input"},
        {"filename": "orig.png", "type": "bogus"},
        {"filename": "orig.png", "type": "input", "subfolder": "../.."},
        {"filename": "orig.png"},
        {"filename": ""},
    ],
)
async def test_a_mask_of_nothing_is_answered_like_a_success_and_nothing_is_stored(
    client: Client, reference: Any
) -> None:
    await client.upload(png(), "orig.png")
    status, answer = await client.upload(**mask_form(reference, png(0, (40, 24), "RGBA")))
    assert (status, answer["name"]) == (200, "painted.png")
    assert client.standin.folders.input_files() == ["orig.png"]


@BOTH
@pytest.mark.parametrize(
    ("reference", "mask", "name"),
    [
        ("{", png(), "painted.png"),
        ({}, png(), "painted.png"),
        ({"filename": "orig.png", "type": "input"}, png(0, (4, 4)), "painted.png"),
        ({"filename": "orig.png", "type": "input"}, b"no picture", "painted.png"),
        ({"filename": "text.png", "type": "input"}, png(), "painted.png"),
        ({"filename": "orig.png", "type": "input"}, png(), "painted.jpg"),
    ],
)
async def test_a_mask_that_does_not_fit_is_500(client: Client, reference: Any, mask: bytes, name: str) -> None:
    await client.upload(png(), "orig.png")
    await client.upload(b"no picture", "text.png")
    assert (await client.upload(**mask_form(reference, mask, name)))[0] == 500


async def arm(client: Client, how: str, **fields: Any) -> None:
    """Let the next upload fail in this way."""
    status, answer = await client.post("/standin/faults", {"kind": "upload", "how": how, **fields})
    assert status == 200, answer


@pytest.mark.parametrize(
    ("how", "status", "left"),
    [("error", 500, []), ("too_large", 413, []), ("disk_full", 500, ["in.png"])],
)
async def test_an_upload_can_be_refused(client: Client, how: str, status: int, left: list[str]) -> None:
    await arm(client, how)
    assert (await client.upload(png()))[0] == status
    assert client.standin.folders.input_files() == left
    assert (await client.upload(png(), "again.png"))[0] == 200, "once is once"


async def test_a_full_disk_leaves_half_a_file_under_the_name(client: Client) -> None:
    await client.standin.apply(Fault(kind=FaultKind.UPLOAD))
    assert (await client.upload(png()))[0] == 500, "without a word on how, it is an error"
    await arm(client, "disk_full")
    await client.upload(png(5))
    assert stored(client, "in.png") == png(5)[: len(png(5)) // 2]
    assert (await client.upload(png(5)))[1]["name"] == "in (1).png"


@pytest.mark.parametrize(("how", "left"), [("cut", []), ("lost", ["in.png"])])
async def test_an_upload_can_be_cut_off_before_or_after_the_file_is_there(
    client: Client, how: str, left: list[str]
) -> None:
    await arm(client, how)
    with pytest.raises(aiohttp.ClientError):
        await client.upload(png())
    assert client.standin.folders.input_files() == left
    assert (await client.upload(png()))[1]["name"] == "in.png"


async def test_a_slow_upload_is_stored_before_it_is_answered(client: Client) -> None:
    await arm(client, "slow", seconds=3600)
    upload = asyncio.create_task(client.upload(png()))
    async with asyncio.timeout(GUARD_S):
        while not client.standin.folders.input_files():
            await asyncio.sleep(0.005)
        done, _ = await asyncio.wait([upload], timeout=0.05)
        assert not done
        upload.cancel()
        await asyncio.wait([upload])
    assert (await client.upload(png()))[0] == 200


async def test_a_way_to_fail_that_is_of_another_kind_is_refused(client: Client) -> None:
    status, _ = await client.post("/standin/faults", {"kind": "upload", "how": "not_an_image"})
    assert status == 400
    status, _ = await client.post("/standin/faults", {"kind": "view", "how": "disk_full"})
    assert status == 400


async def test_the_input_folder_of_a_running_server_can_be_emptied(client: Client) -> None:
    await client.upload(png(), "a.png")
    await client.upload(png(), "b.png", subfolder="deep/er")
    await client.upload(png(), "c.png", type="output")
    assert (await client.post("/standin/faults", {"kind": "empty_input"}))[0] == 200
    assert list(client.standin.folders.inside("input", "").iterdir()) == []
    assert stored(client, "c.png", "output") == png()
    graph = image_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "a.png"}}
    assert (await client.post("/prompt", {"prompt": graph}))[0] == 400
    assert (await client.upload(png(), "b.png", subfolder="deep/er"))[0] == 200


async def test_uploads_and_looks_at_files_are_counted(client: Client) -> None:
    await client.upload(png())
    await client.upload(png())
    await client.upload(png(), route="/api/upload/image")
    url = client.server.make_url("/view").with_query(filename="in.png", type="input")
    for method in ("HEAD", "GET", "GET"):
        async with client.session.request(method, url) as response:
            assert (response.status, response.content_length) == (200, len(png()))
    _, log = await client.get("/standin/log")
    counted = {key: log["requests"].get(key) for key in ("POST /upload/image", "HEAD /view", "GET /view")}
    assert counted == {"POST /upload/image": 3, "HEAD /view": 1, "GET /view": 2}
