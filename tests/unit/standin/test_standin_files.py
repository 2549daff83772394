"""Names of files, and how they are shown."""

import asyncio
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from PIL import Image
from unit.standin.standin_client import Client, image_graph

from harness import GUARD_S


async def saved(client: Client, prefix: str, **inputs: Any) -> list[dict[str, str]]:
    """Run a graph and return what it saved."""
    entry = await client.run(image_graph(prefix, **inputs))
    images: list[dict[str, str]] = entry["outputs"]["2"]["images"]
    return images


async def test_numbers_go_on_from_the_highest_present_and_are_used_again(client: Client) -> None:
    folder = client.standin.folders.inside("output", "job")
    names = [(await saved(client, "job/x", color=color))[0]["filename"] for color in range(3)]
    assert names == ["x_00001_.png", "x_00002_.png", "x_00003_.png"]
    (folder / "x_00003_.png").unlink()
    assert (await saved(client, "job/x", color=9))[0]["filename"] == "x_00003_.png"
    (folder / "x_00001_.png").unlink()
    assert (await saved(client, "job/x", color=10))[0]["filename"] == "x_00004_.png"


@pytest.mark.parametrize(
    ("prefix", "subfolder", "filename"),
    [
        ("a/b/c", "a/b", "c_00001_.png"),
        ("", "", "._00001_.png"),
        ("with space ü", "", "with space ü_00001_.png"),
        ("%width%x%height%", "", "16x16_00001_.png"),
        ("a/../b/c", "b", "c_00001_.png"),
    ],
)
async def test_a_prefix_names_folder_and_file(client: Client, prefix: str, subfolder: str, filename: str) -> None:
    assert await saved(client, prefix) == [{"filename": filename, "subfolder": subfolder, "type": "output"}]


async def test_the_place_in_the_batch_can_be_in_the_name(client: Client) -> None:
    names = [one["filename"] for one in await saved(client, "n%batch_num%", batch_size=2)]
    assert names == ["n0_00001_.png", "n1_00002_.png"]


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a\0b", "y" * 300, "a/../../x", "\ud800"])  # noqa: S108
async def test_a_prefix_that_cannot_be_fails_the_job(client: Client, prefix: str) -> None:
    entry = await client.run(image_graph(prefix))
    assert entry["status"]["status_str"] == "error"


async def view(client: Client, method: str = "GET", headers: Any = None, **query: str) -> aiohttp.ClientResponse:
    """Return an answer of /view, read."""
    url = client.server.make_url("/view").with_query(query)
    async with client.session.request(method, url, headers=headers) as response:
        await response.read()
        return response


async def test_a_file_is_shown_with_what_caches_need(client: Client) -> None:
    (named,) = await saved(client, "v")
    whole = await view(client, **named)
    assert (whole.status, whole.content_type) == (200, "image/png")
    assert whole.headers["Content-Disposition"] == 'filename="v_00001_.png"'
    assert "Cache-Control" not in whole.headers
    assert (await view(client, headers={"If-None-Match": whole.headers["ETag"]}, **named)).status == 304
    assert (await view(client, headers={"If-Modified-Since": whole.headers["Last-Modified"]}, **named)).status == 304
    part = await view(client, headers={"Range": "bytes=0-9"}, **named)
    assert (part.status, part.headers["Content-Length"]) == (206, "10")
    head = await view(client, method="HEAD", **named)
    assert (head.status, head.headers["Content-Length"]) == (200, whole.headers["Content-Length"])


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 404),
        ({"filename": ""}, 400),
        ({"filename": "/etc/passwd"}, 400),
        ({"filename": "a..b.png"}, 400),
        ({"filename": "v_00001_.png", "subfolder": "../.."}, 403),
        ({"filename": "v_00001_.png", "subfolder": "/etc"}, 403),
        ({"filename": "v_00001_.png", "type": "bogus"}, 400),
        ({"filename": "sub/v_00009_.png"}, 404),
        ({"filename": "v_00001_.png [output]", "type": "input"}, 200),
        ({"filename": "v_00001_.png", "preview": "webp;999"}, 500),
        ({"filename": "v_00001_.png", "preview": "jpeg;80"}, 200),
        ({"filename": "v_00001_.png", "preview": "anything"}, 200),
        ({"filename": "v_00001_.png", "channel": "rgb"}, 200),
        ({"filename": "v_00001_.png", "channel": "a"}, 200),
    ],
)
async def test_view_answers_by_what_is_wrong(client: Client, query: dict[str, str], status: int) -> None:
    await saved(client, "v")
    assert (await view(client, **query)).status == status


async def test_a_preview_is_smaller_and_without_text(client: Client) -> None:
    (named,) = await saved(client, "v")
    _, data = await client.get("/view", preview="webp;50", **named)
    with Image.open(BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (16, 16))
    assert b"EmptyImage" not in data


async def test_temporary_files_go_with_a_restart_and_outputs_stay(client: Client) -> None:
    graph = image_graph("stays")
    graph["7"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    entry = await client.run(graph)
    (shown,) = entry["outputs"]["7"]["images"]
    assert (shown["type"], (await view(client, **shown)).status) == ("temp", 200)
    await asyncio.wait_for(client.standin.restart(), GUARD_S)
    assert (await view(client, **shown)).status == 404
    assert (await view(client, filename="stays_00001_.png")).status == 200
    assert (await saved(client, "stays"))[0]["filename"] == "stays_00002_.png"
