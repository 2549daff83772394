"""The one place that speaks to ComfyUI: its HTTP routes and its socket, as measured (COMFYUI) and not as hoped."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout, ClientWSTimeout

from app.domain.errors import BackendLost, OutputInvalid
from app.domain.text import clean
from worker.comfyui_answers import read_object, read_refusal
from worker.death_signs import LogSays, read_log
from worker.ownership import stamp_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from aiohttp import ClientWebSocketResponse

    from app.domain.workflow import Graph
    from worker.comfyui_answers import OutputFile
    from worker.ownership import Stamp

CHUNK_BYTES: Final = 256 * 1024
FORGET_S: Final = 0.5
"""An idle server has noticed within this time that it is to forget."""
_TARGETED_INTERRUPT: Final = (0, 3, 57)
"""Older servers take every interrupt for a global one (COMFYUI, section 11)."""
_JSON: Final = {"Content-Type": "application/json"}


class UnclearSubmission(BackendLost):
    """The POST got no proper answer: the prompt may be queued all the same. Look it up before sending it again."""

    code = "backend_unclear"


class Place(StrEnum):
    """Where a prompt is on a backend."""

    RUNNING = "running"
    PENDING = "pending"
    FINISHED = "finished"
    UNKNOWN = "unknown"


class ComfyUI:
    """One server. Methods raise `BackendLost` when it is away or answers nonsense."""

    def __init__(self, session: ClientSession, url: str, *, timeout_s: float, max_message_bytes: int) -> None:
        self._session = session
        self._url = url
        self._timeout = ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 10))
        self._max_message_bytes = max_message_bytes
        self.version = ""

    async def system_stats(self) -> dict[str, Any]:
        """Return the server's memory and version, and note the version."""
        stats = await self._get_object("/system_stats")
        system = stats.get("system")
        self.version = str(system.get("comfyui_version", "")) if isinstance(system, dict) else ""
        return stats

    async def object_info(self) -> bytes:
        """Return what the server offers, as it stands on the wire."""
        raw = await self._ok("GET", "/object_info")
        try:
            described = json.loads(raw)
        except ValueError as error:
            raise BackendLost("The backend describes its nodes in something that is no JSON.") from error
        if not isinstance(described, dict) or not described:
            raise BackendLost("The backend describes no nodes.")
        return raw

    async def submit(self, graph: Graph, *, prompt_id: str, client_id: str, extra: Mapping[str, Any]) -> str:
        """Queue a prompt and return the id under which the server has it: an old one gives it another.

        Raises
        ------
        WorkflowRefused, BackendLacksModel
            The server will not run the graph; one that it accepted in part is taken back.
        UnclearSubmission
            It may be queued or not.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": dict(extra)}
        try:
            status, raw = await self._request("POST", "/prompt", body)
        except BackendLost as error:
            raise UnclearSubmission(str(error)) from error
        answer = read_object(raw)
        if status == HTTPStatus.CONFLICT:
            raise UnclearSubmission("The backend has a prompt of this id already.")
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            raise read_refusal(answer)
        accepted = answer.get("prompt_id")
        if status != HTTPStatus.OK or not isinstance(accepted, str):
            raise UnclearSubmission(f"The backend answered the submission with status {status} and no prompt id.")
        if answer.get("node_errors"):
            # 200 all the same: outputs that do not validate are dropped, the rest would run (section 0, point 6).
            await self.stop(accepted)
            raise read_refusal(answer)
        return accepted

    async def locate(self, prompt_id: str) -> tuple[Place, dict[str, Any] | None]:
        """Return where the prompt is, and its history entry if it has finished.

        The queue is read first: a job moves from there to history in one step, and in the other order a live job was
        missing from both in half of all tries (section 0, point 2).
        """
        queue = await self._get_object("/queue")
        for key, place in (("queue_running", Place.RUNNING), ("queue_pending", Place.PENDING)):
            if any(isinstance(item, list) and len(item) > 1 and item[1] == prompt_id for item in queue.get(key) or ()):
                return place, None
        entry = await self.history(prompt_id)
        return (Place.FINISHED, entry) if entry is not None else (Place.UNKNOWN, None)

    async def at_hand(self) -> tuple[str | None, bool]:
        """Return the id of the prompt that is being executed, whoever sent it, and whether another one waits."""
        queue = await self._get_object("/queue")
        running = (item for item in queue.get("queue_running") or () if isinstance(item, list) and len(item) > 1)
        return next((str(item[1]) for item in running), None), bool(queue.get("queue_pending"))

    async def log_says(self) -> LogSays:
        """Return what the server's own log says of its execution thread."""
        status, raw = await self._request("GET", "/internal/logs/raw")
        entries = read_object(raw).get("entries") if status == HTTPStatus.OK else None
        return read_log(entries) if isinstance(entries, list) else LogSays.UNREADABLE

    async def marked_prompts(self, mark: str) -> list[str]:
        """Return the ids of queued and running prompts that carry this key in their `extra_data`."""
        queue = await self._get_object("/queue")
        items = [*(queue.get("queue_running") or ()), *(queue.get("queue_pending") or ())]
        whole = [item for item in items if isinstance(item, list) and len(item) > 3 and isinstance(item[3], dict)]
        return [str(item[1]) for item in whole if mark in item[3]]

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a prompt that has ended, else None."""
        found = (await self._get_object(f"/history/{prompt_id}")).get(prompt_id)
        return found if isinstance(found, dict) else None

    async def stop(self, prompt_id: str) -> None:
        """Delete the prompt from the queue, then interrupt it where it runs; each alone can miss (point 9)."""
        await self._ok("POST", "/queue", {"delete": [prompt_id]})
        if not self._interrupts_targeted() and (await self.locate(prompt_id))[0] is not Place.RUNNING:
            return
        await self._ok("POST", "/interrupt", {"prompt_id": prompt_id})

    async def free_memory(self) -> None:
        """Have the server unload its models and forget its results, as soon as nothing runs (section 1)."""
        await self._ok("POST", "/free", {"unload_models": True, "free_memory": True})

    async def download(self, file: OutputFile) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an output.

        Raises
        ------
        OutputInvalid
            The server has no such file.
        BackendLost
            It is away, or broke off in the middle.
        """
        if file.text is not None:
            yield file.text.encode("utf-8", "replace")
            return
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.folder}
        # A whole video may take long; it is silence that tells of a server that is gone.
        timeout = ClientTimeout(total=None, sock_connect=self._timeout.sock_connect, sock_read=self._timeout.total)
        try:
            async with self._session.get(f"{self._url}/view", params=query, timeout=timeout) as response:
                _expect_file(file, response.status)
                while True:
                    # aiohttp's own limit on silence is gone once it stumbled over a damaged chunk of a large answer.
                    async with asyncio.timeout(self._timeout.total):
                        chunk = await response.content.read(CHUNK_BYTES)
                    if not chunk:
                        return
                    yield chunk
        except (ClientError, OSError, TimeoutError) as error:
            raise _away(error) from error

    async def stamp(self, file: OutputFile) -> Stamp:
        """Return what tells this content of a file from another; raises `OutputInvalid`, `BackendLost`."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.folder}
        try:
            async with self._session.head(
                f"{self._url}/view", params=query, timeout=self._timeout, allow_redirects=False
            ) as response:
                _expect_file(file, response.status)
                headers = response.headers
                return stamp_of(headers.get("ETag"), headers.get("Last-Modified"), headers.get("Content-Length"))
        except (ClientError, OSError, TimeoutError) as error:
            raise _away(error) from error

    async def ran_last(self, prompt_id: str) -> bool:
        """Whether nothing has been executed since this prompt, and nothing is."""
        if (await self.at_hand())[0] is not None:
            return False
        return prompt_id in await self._get_object("/history?max_items=1")

    async def forget_results(self) -> None:
        """Have the server forget what it keeps of earlier runs, and keep its models; it does so when it is idle."""
        await self._ok("POST", "/free", {"unload_models": False, "free_memory": True})
        await asyncio.sleep(FORGET_S)

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[ClientWebSocketResponse]:
        """Connect to the server's events under a client id that was never used before.

        A second connection of the same id goes deaf when the first one closes (section 7). The server never pings, so
        we do; and its frames can be larger than any default limit (point 13).
        """
        try:
            async with self._session.ws_connect(
                f"{self._url}/ws",
                params={"clientId": client_id},
                max_msg_size=self._max_message_bytes,
                heartbeat=10,
                timeout=ClientWSTimeout(ws_close=2),
            ) as ws:
                # Only the first message of a connection is heard.
                await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                yield ws
        except (ClientError, OSError, TimeoutError) as error:
            raise BackendLost(f"The backend's event socket cannot be used: {_named(error)}.") from error

    def _interrupts_targeted(self) -> bool:
        numbers = self.version.split(".")
        known = all(part.isdigit() for part in numbers[:3]) and len(numbers) >= 3
        return not known or tuple(map(int, numbers[:3])) >= _TARGETED_INTERRUPT

    async def _get_object(self, path: str) -> dict[str, Any]:
        raw = await self._ok("GET", path)
        answer = read_object(raw)
        if not answer and raw.strip() != b"{}":
            raise BackendLost(f"The backend answered {path.split('/')[1]} with something that is no JSON object.")
        return answer

    async def _ok(self, method: str, path: str, body: Any = None) -> bytes:
        status, raw = await self._request(method, path, body)
        _expect_ok(path, status)
        return raw

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return status and content of an answer.

        aiohttp sends a GET again that met a connection which the server was just closing, and never a POST.
        """
        data, headers = (None, None) if body is None else (_json(body), _JSON)
        try:
            # Read to its end, or broken off there, a response gives its connection back by itself.
            response = await self._session.request(
                method, f"{self._url}{path}", data=data, headers=headers, timeout=self._timeout
            )
            return response.status, await response.read()
        except (ClientError, OSError, TimeoutError) as error:
            raise _away(error) from error


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # An integer of more than 64 bits, or deeper nesting than it takes.
        return json.dumps(value).encode()


def _expect_ok(path: str, status: int) -> None:
    if status != HTTPStatus.OK:
        raise BackendLost(f"The backend answered {path} with status {status}.")


def _expect_file(file: OutputFile, status: int) -> None:
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST):
        raise OutputInvalid(f"The backend named the file {clean(file.filename, 100)} and does not have it.")
    _expect_ok("/view", status)


def _away(error: BaseException) -> BackendLost:
    return BackendLost(f"The backend cannot be reached: {_named(error)}.")


def _named(error: BaseException) -> str:
    # The text of a connection error shows the backend's address, which is not for users.
    return "it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__
