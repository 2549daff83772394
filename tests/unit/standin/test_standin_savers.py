"""Savers of bad habits: whose picture a file holds, what is kept of it, and what `/view` says when it has changed."""

import asyncio
from io import BytesIO
from typing import Any

import pytest
from PIL import Image
from unit.standin.standin_client import Client, StartStandin, image_graph

from worker.standin.saver_nodes import FIXED_NAME, IGNORANT_NAME

OVERWRITING = {
    "FixedNameSaver": ({"name": "same"}, "same.png"),
    "NoNameSaver": ({}, FIXED_NAME),
    "PathSaver": ({"path": "same"}, "custom/same.png"),
    "OutputFileSaver": ({"output_file": "renders/one/same.png"}, "renders/one/same.png"),
    "PrefixIgnoringSaver": ({"filename_prefix": "job-1/mine"}, IGNORANT_NAME),
}
"""Saver → its inputs, and the file that it writes each time."""


def saver_graph(saver: str, color: int, **inputs: Any) -> dict[str, Any]:
    """Return a graph that saves one picture of this colour."""
    graph = image_graph(color=color)
    graph["2"] = {"class_type": saver, "inputs": {"images": ["1", 0], **inputs}}
    return graph


def named_file(entry: dict[str, Any], node: str = "2") -> dict[str, str]:
    """Return how a history entry names the one file of a node."""
    (named,) = entry["outputs"][node]["images"]
    return dict(named)


def path_of(named: dict[str, str]) -> str:
    return f"{named['subfolder']}/{named['filename']}".lstrip("/")


async def color_at(client: Client, named: dict[str, str]) -> int:
    """Return the colour of the file's first pixel."""
    status, data = await client.get("/view", **named)
    assert status == 200
    with Image.open(BytesIO(data)) as picture:
        red, green, blue = picture.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return int(red << 16 | green << 8 | blue)


@pytest.mark.parametrize("saver", OVERWRITING)
async def test_a_saver_without_our_name_writes_over_the_picture_of_the_one_before(client: Client, saver: str) -> None:
    inputs, path = OVERWRITING[saver]
    first = named_file(await client.run(saver_graph(saver, 0x112233, **inputs)))
    assert await color_at(client, first) == 0x112233
    second = named_file(await client.run(saver_graph(saver, 0x445566, **inputs)))
    assert (path_of(first), path_of(second)) == (path, path)
    assert await color_at(client, first) == 0x445566
    assert client.standin.log.executions[-1].files == [path]


async def test_a_prefix_that_comes_by_a_link_is_used(client: Client) -> None:
    graph = image_graph(color=7)
    graph["9"] = {"class_type": "PrimitiveString", "inputs": {"value": "linked/name"}}
    graph["2"]["inputs"]["filename_prefix"] = ["9", 0]
    assert path_of(named_file(await client.run(graph))) == "linked/name_00001_.png"


async def test_a_saver_counts_in_a_folder_of_its_own(client: Client) -> None:
    colors = (0x0000AA, 0x0000BB)
    files = [named_file(await client.run(saver_graph("CounterSaver", color, path="own/c"))) for color in colors]
    assert [path_of(named) for named in files] == ["own/c_00001_.png", "own/c_00002_.png"]
    assert [await color_at(client, named) for named in files] == list(colors)


async def test_a_file_is_named_before_it_is_whole(running_standin: StartStandin) -> None:
    async with running_standin(speed=1.0) as client:
        named = named_file(await client.run(saver_graph("LateWriter", 0x777777, name="late", seconds=0.3)))
        _, half = await client.get("/view", **named)
        first = await tag_of(client, named)
        await asyncio.gather(*client.standin.executor.afterwards)
        _, whole = await client.get("/view", **named)
        assert (whole[: len(half)], len(whole) // 2) == (half, len(half))
        assert await color_at(client, named) == 0x777777
        assert await tag_of(client, named) != first


async def test_the_end_of_a_server_comes_before_what_is_left_to_write(client: Client) -> None:
    named = named_file(await client.run(saver_graph("LateWriter", 5, name="late", seconds=600.0)))
    _, half = await client.get("/view", **named)
    await client.standin.restart()
    assert not client.standin.executor.afterwards
    assert (await client.get("/view", **named))[1] == half


async def test_a_file_can_be_gone_when_it_is_named(client: Client) -> None:
    named = named_file(await client.run(saver_graph("VanishingSaver", 3, name="gone")))
    assert (await client.get("/view", **named))[0] == 404


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("saver", [*OVERWRITING, "CounterSaver"])
async def test_the_same_graph_again_is_kept_and_names_the_old_file(client: Client, saver: str, gone: bool) -> None:
    inputs = OVERWRITING.get(saver, ({"path": "own/c"}, ""))[0]
    first = named_file(await client.run(saver_graph(saver, 0x010203, **inputs)))
    if gone:
        (client.standin.folders.inside("output", first["subfolder"]) / first["filename"]).unlink()
    second = named_file(await client.run(saver_graph(saver, 0x010203, **inputs)))
    assert (second, client.standin.log.executions[-1].nodes) == (first, [])
    assert (await client.get("/view", **second))[0] == (404 if gone else 200)


async def test_a_value_that_the_node_does_not_ask_for_makes_it_run_again_and_is_not_passed_on(client: Client) -> None:
    graphs = [saver_graph("NoNameSaver", 1, **more) for more in ({}, {"job": "a"}, {"job": "b"}, {"job": "b"})]
    for graph in graphs:
        assert (await client.run(graph))["status"]["completed"] is True
    assert [one.nodes for one in client.standin.log.executions] == [["1", "2"], ["2"], ["2"], []]


async def test_of_two_nodes_that_are_alike_one_runs(client: Client) -> None:
    graph = saver_graph("CounterSaver", 1, path="twins")
    graph["3"] = dict(graph["2"])
    entry = await client.run(graph)
    assert named_file(entry, "2") == named_file(entry, "3")
    assert len(client.standin.log.executions[-1].files) == 1


async def test_the_tag_of_a_file_is_made_of_its_time_and_size(client: Client) -> None:
    first = named_file(await client.run(saver_graph("NoNameSaver", 0x010101)))
    state = (client.standin.folders.inside("output", "") / FIXED_NAME).stat()
    tag = await tag_of(client, first)
    assert tag == f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
    url = client.server.make_url("/view").with_query(first)
    async with client.session.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 304
    await client.run(saver_graph("NoNameSaver", 0x020202))
    assert await tag_of(client, first) != tag
    async with client.session.get(url, headers={"If-None-Match": tag}) as response:
        assert response.status == 200


async def tag_of(client: Client, named: dict[str, str]) -> str:
    """Return the file's `ETag`; it has a `Last-Modified` too."""
    async with client.session.get(client.server.make_url("/view").with_query(named)) as response:
        assert response.headers["Last-Modified"].endswith("GMT")
        return response.headers["ETag"]
