"""The client of ComfyUI on a disturbed wire: connections that the server had given up, answers that break off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from integration.wire import BROKEN, PICTURE, Wire, chunked, ok

from app.domain.errors import BackendLost, OutputInvalid
from app.storage.files import HELD_BYTES, FileStore
from worker.comfyui.client import ComfyUI, UnclearSubmission
from worker.comfyui.node_outputs import OutputFile

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_submission_on_a_connection_that_was_given_up_is_never_sent_twice(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    served.answers = [ok(b'{"17": {}}'), None, ok(b'{"prompt_id": "17"}')]
    assert await comfyui.history("17") == {}
    with pytest.raises(UnclearSubmission):
        await comfyui.submit({}, prompt_id="17", client_id="c", extra={})
    assert served.requests == ["GET /history/17", "POST /prompt"]
    assert served.connections == 1  # the kept connection was the one that broke


async def test_a_question_on_a_connection_that_was_given_up_is_asked_again(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    served.answers = [ok(b"{}"), None, ok(b'{"17": {"outputs": {}}}')]
    assert await comfyui.history("17") is None
    assert await comfyui.history("17") == {"outputs": {}}
    assert (served.requests, served.connections) == (["GET /history/17"] * 3, 2)


async def test_an_answer_that_breaks_off_leaves_the_submission_unclear(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    served.answers = [ok(b'{"prompt_id": "17"' + BROKEN, length=100)]
    with pytest.raises(UnclearSubmission):
        await comfyui.submit({}, prompt_id="17", client_id="c", extra={})
    served.answers = [ok(b"{" + BROKEN, length=100)]
    with pytest.raises(BackendLost):
        await comfyui.history("17")


async def test_connections_are_kept_from_call_to_call(wire: tuple[Wire, ComfyUI], tmp_path: Path) -> None:
    served, comfyui = wire
    error = b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nNo."
    served.answers = [ok(b'{"prompt_id": "17"}'), ok(b"{}"), ok(b"bytes"), error, ok(b"{}")]
    assert await comfyui.submit({}, prompt_id="17", client_id="c", extra={}) == ("17", None)
    assert await comfyui.history("17") is None
    await FileStore(tmp_path).receive(comfyui.download(PICTURE), 5)
    with pytest.raises(BackendLost, match="/history/17 with status 500"):
        await comfyui.history("17")
    assert await comfyui.history("17") is None
    assert served.connections == 1


async def test_a_graph_reaches_the_server_exactly(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    for value in (2**64 - 1, 2**80, -(2**70), 0.1, "日本 \ud800", None, True):
        served.answers = [ok(b'{"prompt_id": "17"}')]
        graph = {"1": {"class_type": "A", "inputs": {"value": value}}}
        await comfyui.submit(graph, prompt_id="17", client_id="c", extra={"mark": {"job_id": 1}})
        assert json.loads(served.bodies[-1]) == {
            "prompt": graph,
            "prompt_id": "17",
            "client_id": "c",
            "extra_data": {"mark": {"job_id": 1}},
        }


async def test_what_comfyui_leaves_out_of_a_workflow_is_told_and_the_rest_runs(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    error = {"type": "return_type_mismatch", "message": "Return type mismatch", "details": "text, IMAGE"}
    answer = {"prompt_id": "17", "node_errors": {"3": {"errors": [error], "class_type": "Show"}}}
    served.answers = [ok(json.dumps(answer).encode())]
    prompt_id, left_out = await comfyui.submit({}, prompt_id="17", client_id="c", extra={})
    assert (prompt_id, served.requests) == ("17", ["POST /prompt"])
    assert left_out is not None
    assert "Show (node 3): Return type mismatch: text, IMAGE" in left_out


@pytest.mark.parametrize("size", [10, 3 * HELD_BYTES])
async def test_a_download_that_is_broken_off_or_too_large_leaves_nothing(
    wire: tuple[Wire, ComfyUI], tmp_path: Path, size: int
) -> None:
    served, comfyui = wire
    data = b"x" * size
    for answer in (ok(data + BROKEN, length=size + 100), chunked(data, BROKEN)[:-2], chunked(data) + BROKEN):
        served.answers = [answer]
        with pytest.raises(BackendLost):
            await FileStore(tmp_path).receive(comfyui.download(PICTURE), 2**30)
    for answer in (ok(data), chunked(data, b"")):
        served.answers = [answer]
        with pytest.raises(OutputInvalid, match="MAX_OUTPUT_BYTES"):
            await FileStore(tmp_path).receive(comfyui.download(PICTURE), size - 1)
    served.answers = [ok(b"x", length=2**40)]
    with pytest.raises(OutputInvalid, match=f"larger than {size} bytes"):
        # Not one byte of it is waited for.
        await FileStore(tmp_path).receive(comfyui.download(PICTURE, size), 2**50)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_file_that_the_server_does_not_have_is_said_so(wire: tuple[Wire, ComfyUI], tmp_path: Path) -> None:
    served, comfyui = wire
    served.answers = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]
    with pytest.raises(OutputInvalid, match=r"a\.png.*404 Not Found when asked for it\.$"):
        await FileStore(tmp_path).receive(comfyui.download(PICTURE), 10)


async def test_a_refusal_says_what_the_server_said_and_no_more_than_its_beginning(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    body = b"no such\n file in /srv/comfy/output/x.png " + b"x" * 10_000
    served.answers = [b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)]
    with pytest.raises(OutputInvalid) as refused:
        _ = [chunk async for chunk in comfyui.download(PICTURE)]
    assert "answered 403 Forbidden when asked for it: no such file in …/x.png xxx" in str(refused.value)
    assert len(str(refused.value)) < 400


async def test_a_folder_in_a_files_name_is_asked_for_as_one(wire: tuple[Wire, ComfyUI]) -> None:
    served, comfyui = wire
    served.answers = [ok(b"picture")]
    assert [chunk async for chunk in comfyui.download(OutputFile("9", "sub/a.png", "genonaut/7"))] == [b"picture"]
    assert served.requests == ["GET /view?filename=a.png&subfolder=genonaut/7/sub&type=output"]
