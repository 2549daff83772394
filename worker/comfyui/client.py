"""The client for ComfyUI's HTTP routes and event socket; it follows the observed behaviour (manual, comfyui.md)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from aiohttp import ClientError, ClientTimeout, ClientWSTimeout

from app.domain.errors import BackendLost, OutputInvalid
from app.domain.offers import Offer, read_offer
from app.domain.text import clean
from app.runtime.json_text import dump_bytes
from worker.comfyui.answers import listed, prompt_id_of, read_object, read_stats
from worker.comfyui.bounded_http import ON_THE_WIRE, Pace, away, is_redirect, named, own_session, read_whole, redirected
from worker.comfyui.file_ownership import stamp_of
from worker.comfyui.input_folder import InputFolder
from worker.comfyui.refusals import read_refusal
from worker.comfyui.server_log import LogSays, read_log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from aiohttp import ClientResponse, ClientSession, ClientWebSocketResponse

    from app.domain.workflow import Graph
    from worker.comfyui.answers import Stats
    from worker.comfyui.file_ownership import Stamp
    from worker.comfyui.node_outputs import OutputFile

DOWNLOADS_AT_ONCE: Final = 16
"""Maximum number of simultaneous downloads from a backend, so that one which hangs does not hold many connections."""
FORGET_S: Final = 0.5
"""Seconds within which an idle server carries out `/free`."""
_CLOSE_S: Final = 2.0
_MOST_MARKED: Final = 10_000
_LAST: Final = (8, 64, 1_000)
"""Numbers of recently ended prompts read, one after the other until enough: each entry includes its graph."""
MARK: Final = "genonaut"
"""Key in a prompt's `extra_data` that marks our prompts, with the attempt and the submitted prompt id."""
_TARGETED_INTERRUPT: Final = (0, 3, 57)
"""First version that interrupts a single prompt; older ones interrupt whatever runs (comfyui.md, "Stopping")."""
_MOST_REFUSAL_BYTES: Final = 2048
_NOT_OF_THE_FILE: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Statuses that concern the server or a proxy, not the requested file; so do all above 500."""
_JSON: Final = {"Content-Type": "application/json"}
_REFUSALS: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


log = logging.getLogger(__name__)


class UnclearSubmission(BackendLost):
    """The submission got no valid answer, so the prompt may be queued. Look it up before sending it again."""

    code = "backend_unclear"


class SubmissionFailed(UnclearSubmission):
    """The server answered the submission with an internal error, before or after it queued the prompt."""

    def __init__(self, status: int) -> None:
        super().__init__(f"The backend answered the submission with status {status}.")
        self.status = status


class Unreadable(OutputInvalid):
    """The server fails with an internal error when it reads the file, once or every time."""


class Accepted(NamedTuple):
    """The answer to a successful submission."""

    prompt_id: str
    left_out: str | None
    """The parts that the server will not run, with the reason; None when it runs all."""


class Place(StrEnum):
    """Where a prompt is on a backend."""

    RUNNING = "running"
    PENDING = "pending"
    FINISHED = "finished"
    UNKNOWN = "unknown"


class ComfyUI:
    """One server. Methods raise `BackendLost` when it is unreachable or its answer is invalid."""

    def __init__(self, session: ClientSession, url: str, *, timeout_s: float, max_message_bytes: int) -> None:
        self._session = own_session(session)
        self._url = url
        self._timeout = ClientTimeout(total=timeout_s, sock_connect=min(timeout_s, 10))
        self._max_message_bytes = max_message_bytes
        self._downloading = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self.input_folder = InputFolder(self._session, url, self._timeout)
        self.version = ""
        self._cancels = True
        """Whether the server may have the route `POST /api/jobs/{id}/cancel`."""

    async def system_stats(self) -> Stats:
        """Return the server's memory and version, and keep the version."""
        stats = read_stats(await self._get_object("/system_stats"))
        if stats.version != self.version:
            self.version, self._cancels = stats.version, True
        return stats

    async def object_info(self) -> Offer:
        """Return the usable node classes and models of the server."""
        raw = await self._ok("GET", "/object_info")
        offer = await _read_offer(raw, await self.node_replacements())
        if not offer.catalog.nodes:
            raise BackendLost("The backend describes no nodes.")
        if offer.left_out:
            log.warning("a backend's descriptions of %s node classes are invalid: they are left out", offer.left_out)
        return offer

    async def node_class(self, name: str) -> Offer:
        """Return the description of one node class; empty if the server has no such class.

        Cheap for any server, while reading all classes blocks its event loop for as long as it has many.
        """
        try:
            path = f"/object_info/{quote(name, safe='')}"
        except UnicodeEncodeError:
            path = ""
        # A name that consists of dots would change the path; no class has such a name.
        is_valid = bool(path.rpartition("/")[2].strip("."))
        status, raw = await self._request("GET", path) if is_valid else (HTTPStatus.NOT_FOUND, b"")
        if status == HTTPStatus.NOT_FOUND:
            return await _read_offer(b"{}", {})
        _expect_ok("/object_info", status)
        return await _read_offer(raw, {}, name)

    async def node_replacements(self) -> dict[str, Any]:
        """Return the server's replacements for old node classes; empty when it does not have the route."""
        status, raw = await self._request("GET", "/node_replacements")
        return read_object(raw) if status == HTTPStatus.OK else {}

    async def submit(self, graph: Graph, *, prompt_id: str, client_id: str, extra: Mapping[str, Any]) -> Accepted:
        """Queue a prompt and return the id that the server uses for it; an old server assigns its own.

        Raises
        ------
        WorkflowRefused, BackendLacksModel, WorkflowUnread
            The server refuses the whole graph.
        SubmissionFailed
            The server had an internal error; the prompt may be queued or not.
        UnclearSubmission
            The prompt may be queued or not.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id, "extra_data": dict(extra)}
        try:
            status, raw = await self._request("POST", "/prompt", body)
        except BackendLost as error:
            raise UnclearSubmission(str(error)) from error
        answer = read_object(raw)
        if status == HTTPStatus.CONFLICT:
            raise UnclearSubmission("The backend has a prompt of this id already.")
        if status in _REFUSALS:
            raise read_refusal(answer, status)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise SubmissionFailed(status)
        accepted = prompt_id_of(answer.get("prompt_id"))
        if status != HTTPStatus.OK or accepted is None:
            raise UnclearSubmission(f"The backend answered the submission with status {status} and no prompt id.")
        # Outputs that do not validate are dropped, and the rest runs (comfyui.md, "Several outputs").
        refused = read_refusal(answer) if answer.get("node_errors") else None
        return Accepted(accepted, f"A part of the workflow did not run. {refused}" if refused else None)

    async def locate(self, prompt_id: str) -> tuple[Place, dict[str, Any] | None]:
        """Return where the prompt is, and its history entry if it has ended.

        The queue is read first, because a prompt moves from the queue to the history. In the other order, a live prompt
        was missing from both in half of all tries (manual, comfyui.md, "Finding a prompt").
        """
        queue = await self._get_object("/queue")
        for key, place in (("queue_running", Place.RUNNING), ("queue_pending", Place.PENDING)):
            if any(len(item) > 1 and item[1] == prompt_id for item in listed(queue.get(key))):
                return place, None
        entry = await self.history(prompt_id)
        return (Place.FINISHED, entry) if entry is not None else (Place.UNKNOWN, None)

    async def queue_state(self) -> tuple[str | None, bool]:
        """Return the id of the running prompt, whichever client sent it, and whether others wait."""
        queue = await self._get_object("/queue")
        running = (prompt_id_of(item[1]) for item in listed(queue.get("queue_running")) if len(item) > 1)
        return next(filter(None, running), None), bool(listed(queue.get("queue_pending")))

    async def log_says(self) -> LogSays:
        """Return the state of the execution thread according to the server's log."""
        status, raw = await self._request("GET", "/internal/logs/raw")
        entries = read_object(raw).get("entries") if status == HTTPStatus.OK else None
        return read_log(entries) if isinstance(entries, list) else LogSays.UNREADABLE

    async def marked_prompts(self) -> dict[str, str]:
        """Return our running and queued prompts, in this order: id → the id of the submitted prompt of the same run.

        The two differ when a node has queued its prompt again.
        """
        queue = await self._get_object("/queue")
        return _runs([*listed(queue.get("queue_running")), *listed(queue.get("queue_pending"))][:_MOST_MARKED])

    async def marked_since(self, prompt_id: str) -> dict[str, str]:
        """Return the same for prompts that ended after `prompt_id`, the oldest first."""
        ended: dict[str, Any] = {}
        for most in _LAST:
            ended = await self._get_object(f"/history?max_items={most}")
            if prompt_id in ended or len(ended) < most:
                break
        since = list(ended)[list(ended).index(prompt_id) + 1 :] if prompt_id in ended else list(ended)
        prompts = [ended[each].get("prompt") for each in since if isinstance(ended[each], dict)]
        return _runs(listed(prompts))

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a prompt; None unless it has ended."""
        found = (await self._get_object(f"/history/{prompt_id}")).get(prompt_id)
        return found if isinstance(found, dict) else None

    async def stop(self, prompt_id: str) -> None:
        """Delete the prompt from the queue, or interrupt it if it runs; does not wait until it has stopped.

        Newer servers do both in one step, which cannot hit the next prompt by mistake. Older ones need two requests,
        each of which can miss the prompt (point 9).
        """
        if self._cancels and await self._cancel(prompt_id):
            return
        await self._ok("POST", "/queue", {"delete": [prompt_id]})
        if not self._interrupts_targeted() and (await self.locate(prompt_id))[0] is not Place.RUNNING:
            return
        await self._ok("POST", "/interrupt", {"prompt_id": prompt_id})

    async def _cancel(self, prompt_id: str) -> bool:
        """Cancel by the route of newer servers; False when the server does not have it, which is then remembered."""
        status, raw = await self._request("POST", f"/api/jobs/{prompt_id}/cancel", {})
        self._cancels = status == HTTPStatus.OK and isinstance(read_object(raw).get("cancelled"), bool)
        return self._cancels

    async def free_memory(self) -> None:
        """Have the server unload its models and clear its cache of results, once nothing runs (manual, comfyui.md)."""
        await self._ok("POST", "/free", {"unload_models": True, "free_memory": True})

    async def download(self, file: OutputFile, most_bytes: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an output, unless its announced size exceeds `most_bytes`.

        Raises
        ------
        OutputInvalid
            The server does not have the file or cannot read it, or the file is too large.
        BackendLost
            The server is unreachable, closed the connection early, or sends too slowly.
        """
        if file.text is not None:
            yield file.text.encode("utf-8", "replace")
            return
        try:
            async with self._downloading, await self._view("GET", file) as response:
                await self._expect_file(file, response)
                if most_bytes is not None and (response.content_length or 0) > most_bytes:
                    name = clean(file.filename, 100)
                    raise OutputInvalid(f"The file {name} is larger than {most_bytes} bytes (MAX_OUTPUT_BYTES).")
                pace = Pace(response.content, self._timeout.total or 0)
                while chunk := await pace.read():
                    yield chunk
        except ON_THE_WIRE as error:
            raise away(error) from error

    async def _view(self, method: str, file: OutputFile) -> ClientResponse:
        """Request a file, and return when the headers have arrived."""
        # From a name with folders the server would take only the last part, so the folders go into `subfolder`.
        folder, _, name = file.filename.rpartition("/")
        query = {"filename": name, "subfolder": "/".join(filter(None, (file.subfolder, folder))), "type": file.folder}
        async with asyncio.timeout(self._timeout.total):
            return await self._session.request(
                method,
                f"{self._url}/view",
                params=query,
                headers={"Accept-Encoding": "identity"},
                allow_redirects=False,
                # No total limit, because a video may take long; `Pace` limits the speed.
                timeout=ClientTimeout(total=None, sock_connect=self._timeout.sock_connect),
            )

    async def stamp(self, file: OutputFile) -> Stamp:
        """Return the headers that identify a version of a file; raises `OutputInvalid`, `BackendLost`."""
        try:
            async with await self._view("HEAD", file) as response:
                await self._expect_file(file, response)
                headers = response.headers
                return stamp_of(headers.get("ETag"), headers.get("Last-Modified"), headers.get("Content-Length"))
        except ON_THE_WIRE as error:
            raise away(error) from error

    async def _expect_file(self, file: OutputFile, response: ClientResponse) -> None:
        """Raise an error with the beginning of the server's answer, unless the answer is the file."""
        status = response.status
        of_the_file = HTTPStatus.BAD_REQUEST <= status <= HTTPStatus.INTERNAL_SERVER_ERROR
        if not of_the_file or status in _NOT_OF_THE_FILE:
            _expect_ok("/view", status)
            return
        async with asyncio.timeout(self._timeout.total):
            reason = clean((await response.content.read(_MOST_REFUSAL_BYTES)).decode("utf-8", "replace"), 200)
        answered = clean(f"{status} {response.reason or ''}", 100)
        refusal = Unreadable if status == HTTPStatus.INTERNAL_SERVER_ERROR else OutputInvalid
        raise refusal(
            f"The backend named the file {clean(file.filename, 100)} and answered {answered} when asked for it"
            + (f": {' '.join(reason.split())}" if reason else ".")
        )

    async def ran_last(self, prompt_id: str) -> bool:
        """Whether this prompt is the last one executed, and nothing runs now."""
        if (await self.queue_state())[0] is not None:
            return False
        return prompt_id in await self._get_object("/history?max_items=1")

    async def forget_results(self) -> None:
        """Have the server clear its cache of results but keep its models; it does so once it is idle."""
        await self._ok("POST", "/free", {"unload_models": False, "free_memory": True})
        await asyncio.sleep(FORGET_S)

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[ClientWebSocketResponse[bool]]:
        """Connect to the server's events with a client id that was never used before.

        A second connection with the same id gets no more events once the first one closes (manual, comfyui.md).
        The client sends pings, because the server does not. Frames can be larger than the default limits.
        """
        ws = await self._connect(client_id)
        try:
            try:
                # The server reads feature flags only from the first message of a connection.
                await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
                yield ws
            finally:
                # aiohttp's own time-out for closing starts again with each frame that still arrives.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2 * _CLOSE_S):
                        await ws.close()
        except (ClientError, OSError, TimeoutError) as error:
            raise BackendLost(f"The backend's event socket cannot be used: {named(error)}.") from error

    async def _connect(self, client_id: str) -> ClientWebSocketResponse[bool]:
        try:
            async with asyncio.timeout(self._timeout.total):
                return await self._session.ws_connect(
                    f"{self._url}/ws",
                    params={"clientId": client_id},
                    max_msg_size=self._max_message_bytes,
                    heartbeat=10,
                    timeout=ClientWSTimeout(ws_close=_CLOSE_S),
                    # As bytes: a long frame decoded to a string would take up to four times as much memory.
                    decode_text=False,
                )
        except ON_THE_WIRE as error:
            raise BackendLost(f"The backend's event socket cannot be used: {named(error)}.") from error

    def _interrupts_targeted(self) -> bool:
        numbers = self.version.split(".")[:3]
        known = len(numbers) == 3 and all(part.isascii() and part.isdigit() for part in numbers)
        return not known or tuple(map(int, numbers)) >= _TARGETED_INTERRUPT

    async def _get_object(self, path: str) -> dict[str, Any]:
        raw = await self._ok("GET", path)
        answer = read_object(raw)
        if not answer and raw[:8].strip() != b"{}":
            raise BackendLost(f"The backend answered {path.split('/')[1]} with something other than a JSON object.")
        return answer

    async def _ok(self, method: str, path: str, body: Any = None) -> bytes:
        status, raw = await self._request(method, path, body)
        _expect_ok(path, status)
        return raw

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Return status and content of an answer.

        When the server closes an idle connection just then, aiohttp repeats a GET, but never a POST.
        """
        data, headers = (None, None) if body is None else (dump_bytes(body), _JSON)
        try:
            # A limit for the whole answer, so that a very slow one ends as well.
            async with asyncio.timeout(self._timeout.total):
                async with self._session.request(
                    method,
                    f"{self._url}{path}",
                    data=data,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                ) as response:
                    if is_redirect(response.status):
                        raise BackendLost(redirected(path, response.status))
                    return response.status, await read_whole(response, path)
        except ON_THE_WIRE as error:
            raise away(error) from error


def _runs(prompts: list[list[Any]]) -> dict[str, str]:
    found = {}
    for prompt in prompts:
        prompt_id, extra = (prompt_id_of(prompt[1]), prompt[3]) if len(prompt) > 3 else (None, None)
        if prompt_id is not None and isinstance(extra, dict) and MARK in extra:
            mark = extra[MARK]
            found[prompt_id] = prompt_id_of(mark.get("prompt_id") if isinstance(mark, dict) else None) or prompt_id
    return found


async def _read_offer(raw: bytes, replacing: Mapping[str, Any], only: str | None = None) -> Offer:
    try:
        # In a thread, because parsing 30 MB would block the event loop for a second.
        return await asyncio.to_thread(read_offer, raw, replacing, only)
    except ValueError as error:
        raise BackendLost(f"The backend's description of its nodes is invalid: {error}.") from error


def _expect_ok(path: str, status: int) -> None:
    if is_redirect(status):
        raise BackendLost(redirected(path, status))
    if status != HTTPStatus.OK:
        raise BackendLost(f"The backend answered {path} with status {status}.")
