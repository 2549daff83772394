"""Which of the pictures that come through the event socket are outputs, and which only show how a node comes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.catalog import Catalog, NodeClass
from app.domain.errors import OutputInvalid
from app.storage.files import FileStore
from worker.comfyui.answers import Picture
from worker.comfyui.node_outputs import OutputFile
from worker.outputs.downloads import MOST_UNWRITTEN_BYTES, Downloads
from worker.outputs.websocket_pictures import WebSocketPictures

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff\xe0"
CATALOG = Catalog(
    {
        name: NodeClass(name, {}, (), is_output)
        for name, is_output in (("SaveImageWebsocket", True), ("Sends", True), ("KSampler", False))
    }
)


class NoComfyUI:
    """Nothing is to be asked of it."""


def followed(downloads: Downloads, **classes: str) -> WebSocketPictures:
    sent = WebSocketPictures(downloads)
    sent.follow({node: {"class_type": name, "inputs": {}} for node, name in classes.items()}, CATALOG)
    return sent


def picture(image: bytes) -> Picture:
    return Picture(memoryview(image), "prompt")


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(NoComfyUI(), FileStore(tmp_path), 2**20)  # type: ignore[arg-type]


async def kept(downloads: Downloads, sent: WebSocketPictures, outputs: Any = None) -> list[tuple[str, bytes]]:
    """(node, content) of the pictures that a history with these outputs is told to have."""
    told = sent.added_to({"outputs": outputs})["outputs"]
    found = []
    for node_id, shown in told.items():
        for record in shown["images"]:
            file = OutputFile(node_id, record["filename"], record["subfolder"], record["type"])
            found.append((node_id, (await downloads.take(file)).data or b""))
    return found


@pytest.mark.parametrize(
    ("name", "image", "is_output"),
    [
        ("SaveImageWebsocket", PNG, True),
        ("SaveImageWebsocket", JPEG, True),
        ("ETN_SendImageWebSocket", JPEG, True),
        ("Sends", PNG, True),
        ("Sends", JPEG, False),
        ("KSampler", PNG, False),
        ("KSampler", JPEG, False),
        ("Sends", b"text", False),
    ],
)
async def test_what_is_an_output(downloads: Downloads, name: str, image: bytes, is_output: bool) -> None:
    sent = followed(downloads, a=name)
    sent.take(picture(image + b"1"), "a")
    assert await kept(downloads, sent) == ([("a", image + b"1")] if is_output else [])


async def test_a_node_that_lists_what_it_has_sent_is_believed(downloads: Downloads) -> None:
    """It announces the last two of five: what came before them showed how it came on."""
    sent = followed(downloads, a="Sends")
    for number in range(5):
        sent.take(picture(JPEG + b"%d" % number), "a")
    announced = {"source": "websocket", "content-type": "image/jpeg", "type": "output"}
    found = await kept(downloads, sent, {"a": {"images": [announced, announced]}})
    assert found == [("a", JPEG + b"3"), ("a", JPEG + b"4")]


def test_what_else_stands_in_the_history_stays(downloads: Downloads) -> None:
    saved = {"filename": "a.png", "subfolder": "", "type": "output"}
    entry = {"status": {"completed": True}, "outputs": {"b": {"images": [saved], "text": ["x"]}}}
    assert followed(downloads, a="Sends").added_to(entry) == entry


async def test_a_history_that_names_what_was_never_sent_is_not_believed(downloads: Downloads) -> None:
    with pytest.raises(OutputInvalid, match="did not send"):
        await downloads.take(OutputFile("a", "picture_00001.png", "a", "websocket"))


async def test_pictures_are_bounded_in_number_and_bytes(downloads: Downloads) -> None:
    sent = followed(downloads, a="SaveImageWebsocket")
    for number in range(1_100):
        sent.take(picture(PNG + b"%d" % number), "a")
    assert len(sent.added_to({})["outputs"]["a"]["images"]) == 1_000
    large = memoryview(PNG + bytes(2**20))
    downloads.sent(OutputFile("b", "large", "b", "websocket"), large)
    with pytest.raises(OutputInvalid, match="larger than"):
        await downloads.take(OutputFile("b", "large", "b", "websocket"))
    await downloads.drop()


async def test_more_than_can_be_held_at_once_is_not_held(tmp_path: Path) -> None:
    downloads = Downloads(NoComfyUI(), FileStore(tmp_path), 2**30)  # type: ignore[arg-type]
    piece = memoryview(PNG + bytes(2**25))
    files = [OutputFile("a", str(number), "a", "websocket") for number in range(MOST_UNWRITTEN_BYTES // 2**25 + 1)]
    for file in files:
        downloads.sent(file, piece)
    with pytest.raises(OutputInvalid, match="than they can be stored"):
        await downloads.take(files[-1])
    await downloads.drop()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
