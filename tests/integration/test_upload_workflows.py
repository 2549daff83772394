"""The graph that ComfyUI has written into an upload, read over REST."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.envelopes import UI_FORMAT
from app.media.stored_graphs import stored_graph
from app.settings import ROOT
from app.web import uploads

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.settings import Settings
    from harness import Service

    Client = TestClient[Any, Any]

FILES = ROOT / "tests" / "data" / "graphs-in-files"
TOLD = json.loads((FILES / "graphs.json").read_text(encoding="utf-8"))
UPLOADS = "/api/v1/uploads"
PLAIN = (FILES / "new-plain.png").read_bytes()
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368601}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "größe"}},
}
UI = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": []}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_texts(**texts: bytes) -> bytes:
    """Return a picture of ComfyUI with these texts in place of its own."""
    own = PLAIN.index(b"tEXt") - 4
    end = own + 12 + struct.unpack(">I", PLAIN[own : own + 4])[0]
    return (
        PLAIN[:own]
        + b"".join(chunk(b"tEXt", name.encode() + b"\0" + each) for name, each in texts.items())
        + PLAIN[end:]
    )


async def sent(client: Client, data: bytes) -> str:
    answer = await client.post(UPLOADS, params={"user_id": "ann"}, data=io.BytesIO(data))
    told = await answer.json()
    assert answer.status in (200, 201), told
    return str(told["upload_id"])


async def asked(client: Client, upload_id: str, **query: str) -> tuple[int, Any]:
    answer = await client.get(f"{UPLOADS}/{upload_id}/workflow", params=query)
    return answer.status, await answer.json()


@pytest.mark.parametrize("name", sorted(TOLD["prompts"]))
async def test_of_each_file_of_comfyui_the_graph_is_given(client: Client, name: str) -> None:
    status, told = await asked(client, await sent(client, (FILES / name).read_bytes()))
    beside = None if name.endswith("-plain.png") else TOLD["extra_pnginfo"]
    assert (status, told) == (200, {"workflow": TOLD["prompts"][name], "extra_pnginfo": beside})


async def test_a_graph_goes_through_a_job_into_a_file_and_out_of_it_into_a_job(service: Service) -> None:
    beside = {"workflow": UI, "note": "ü"}
    job = await service.run(job_type="workflow", workflow=GRAPH, extra_pnginfo=beside)
    answer = await service.client.get(f"/api/v1/contents/{job['content_id']}/outputs/0")
    status, told = await asked(service.client, await sent(service.client, await answer.read()))
    assert status == 200
    run = await (await service.client.get(f"/api/v1/generation-jobs/{job['job_id']}/workflow")).json()
    assert told["workflow"] == run
    assert told["extra_pnginfo"] == beside
    again = await service.run(job_type="workflow", **told)
    assert again["status"] == "completed"


async def test_a_file_without_a_graph_has_none(client: Client) -> None:
    for data in (with_texts(), with_texts(prompt=b"a cat on a mat"), (ROOT / "tests/data/media/a.flac").read_bytes()):
        status, told = await asked(client, await sent(client, data))
        assert (status, told["code"], told["errors"]) == (404, "no_workflow", [])


async def test_of_one_in_ui_format_it_is_told_how_to_export_it(client: Client) -> None:
    status, told = await asked(client, await sent(client, with_texts(workflow=json.dumps(UI).encode())))
    assert (status, told["code"]) == (422, "invalid_workflow")
    assert told["errors"] == [{"pointer": "", "code": "ui_format", "detail": UI_FORMAT}]
    assert "File → Export (API)" in told["detail"]


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        (b'{"1": {"class_type": "A"', "it is no JSON"),
        (b'{"a":' * 10_000, "nests too deep"),
        (b'{"1": {"class_type": "A", "class_type": "B"}}', "it has the name 'class_type' twice"),
    ],
    ids=["broken", "deep", "twice"],
)
async def test_of_one_that_cannot_be_read_the_fault_is_told(client: Client, prompt: bytes, fault: str) -> None:
    status, told = await asked(client, await sent(client, with_texts(prompt=prompt)))
    assert (status, told["code"]) == (422, "unreadable_workflow")
    assert fault in told["detail"]
    assert [each["code"] for each in told["errors"]] == ["unreadable"]


async def test_half_a_character_and_long_numbers_are_given_as_they_are(client: Client) -> None:
    graph = b'{"1": {"class_type": "A", "inputs": {"a": "\\ud800", "b": 123456789012345678901234567890}}}'
    upload_id = await sent(client, with_texts(prompt=graph, half=b'"\\udfff"'))
    answer = await client.get(f"{UPLOADS}/{upload_id}/workflow")
    told = json.loads(await answer.read())
    assert told == {"workflow": json.loads(graph), "extra_pnginfo": {"half": "\udfff"}}


async def test_it_is_shown_to_its_owner_only(client: Client) -> None:
    upload_id = await sent(client, PLAIN)
    assert (await asked(client, upload_id, user_id="ann"))[0] == 200
    assert (await asked(client, upload_id, user_id="bob"))[1]["code"] == "upload_not_found"
    assert (await asked(client, "nowhere"))[1]["code"] == "upload_not_found"
    assert (await asked(client, upload_id, owner="ann"))[0] == 422


async def test_a_file_that_is_gone_is_told(client: Client, settings: Settings) -> None:
    upload_id = await sent(client, PLAIN)
    for path in settings.storage_path.rglob("*.png"):
        path.unlink()
    status, told = await asked(client, upload_id)
    assert (status, told["code"]) == (404, "content_not_found")


async def test_other_requests_are_answered_while_a_long_file_is_looked_through(client: Client) -> None:
    blocks = b"fLaC" + (FILES / "new-sound.flac").read_bytes()[4:42] + b"\1\0\0\0" * 3_000_000
    upload_id = await sent(client, blocks + (FILES / "new-sound.flac").read_bytes()[42:])
    looking = asyncio.create_task(asked(client, upload_id))
    answered = 0
    while not looking.done():
        assert (await client.get("/health/live")).status == 200
        answered += 1
    status, told = await looking
    assert (status, told["code"]) == (422, "unreadable_workflow")
    assert "too many parts" in told["detail"]
    assert answered > 5


async def test_files_are_looked_into_in_the_thread_of_uploads(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def noted(file: Any) -> Any:
        threads.append(threading.current_thread().name)
        return stored_graph(file)

    monkeypatch.setattr("app.services.uploads.stored_graph", noted)
    assert (await asked(client, await sent(client, PLAIN)))[0] == 200
    assert [name.partition("_")[0] for name in threads] == ["uploads"]


async def test_only_so_many_are_looked_into_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    upload_id = await sent(client, PLAIN)
    client.server.app[uploads.RECEIVING]._value = 0  # noqa: SLF001
    monkeypatch.setattr(uploads, "_TURN_S", 0.05)
    status, told = await asked(client, upload_id)
    assert (status, told["code"]) == (503, "busy")
