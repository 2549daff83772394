"""Handlers of `/api/v1/uploads`: files that clients hand over for their graphs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http import HttpProcessingError
from multidict import MultiDict

from app.domain.access import Ability
from app.domain.errors import (
    BodyTooLarge,
    Busy,
    Fault,
    GenonautError,
    InvalidUpload,
    MalformedForm,
    UnsupportedBody,
    UploadNotFound,
)
from app.domain.hints import shown
from app.keys import UPLOAD_STORE, UPLOADS
from app.runtime.json_text import Written
from app.storage.cursors import read_cursor, write_cursor
from app.web.answers import upload_answer
from app.web.auditing import note, noted
from app.web.bodies import read_query
from app.web.body_intake import Patience, patience_for
from app.web.callers import CALLER, owner_of
from app.web.checking import check
from app.web.contents import file_response
from app.web.proxies import root_path
from app.web.requests import OwnerQuery, UploadListQuery
from app.web.responses import answered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from app.domain.uploads import Upload
    from app.storage.files import Received

routes: Final = web.RouteTableDef()

BASE: Final = "/api/v1/uploads"
ONE: Final = BASE + r"/{upload_id:[\w-]{1,64}}"
AT_ONCE: Final = 32
"""Maximum number of uploads that are received at once; each holds a file on the disk, and up to 2 MiB of memory."""
_TURN_S: Final = 20.0
_CHUNK_BYTES: Final = 2**16
_MOST_PARTS: Final = 8
_MOST_FIELD_BYTES: Final = 1024
_NEWEST: Final = "-created_at"
_PLAIN_ENCODINGS: Final = ("", "identity", "binary", "8bit", "7bit")
_BROKEN: Final = "The body broke off, or is not the form that its Content-Type says."
_OF_READERS: Final = (ValueError, LookupError, RuntimeError, AssertionError, TypeError, AttributeError, EOFError)
"""What aiohttp's reader of forms raises for nonsense."""
RECEIVING: Final = web.AppKey("RECEIVING", asyncio.Semaphore)


@routes.post(BASE)
async def create_upload(request: web.Request) -> web.Response:
    """Take a file: as the part `file` of a form, or as the whole body."""
    asked = check(OwnerQuery, read_query(request.query), pointer="")
    if request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in _PLAIN_ENCODINGS:
        raise UnsupportedBody("A file is sent as it is, without a Content-Encoding.")
    uploads = request.app[UPLOADS]
    if (request.content_length or 0) > uploads.max_bytes + _CHUNK_BYTES:
        raise BodyTooLarge(f"The body is larger than the {uploads.max_bytes} bytes that are taken (MAX_UPLOAD_BYTES).")
    caller, is_form = request[CALLER], request.content_type.startswith("multipart/")
    most_bytes = caller.limits_for(asked.user_id or caller.owner).upload_bytes
    # Who may send for others may still name one in the form.
    is_certain = not is_form or asked.user_id is not None or not caller.may(Ability.SEND_FOR_OTHERS)
    if most_bytes is not None and caller.owner is not None and is_certain:
        # Of a form a little more comes than the file.
        await uploads.check_room(caller.owner, max(0, (request.content_length or 0) - _CHUNK_BYTES), most_bytes)
    async with turn(request):
        if is_form:
            upload, created = await _from_form(request, asked.user_id)
        else:
            async with aclosing(_body(request)) as chunks:
                owner = _owner(request, asked.user_id)
                upload, created = await uploads.take(chunks, owner, most_bytes=most_bytes)
    await note_upload(request, upload, created=created)
    status = HTTPStatus.CREATED if created else HTTPStatus.OK
    return answered(upload_answer(upload, root_path(request)), status, Location=f"{BASE}/{upload.upload_id}")


@routes.get(BASE)
async def list_uploads(request: web.Request) -> web.Response:
    """List uploads, the newest first."""
    asked = check(UploadListQuery, read_query(request.query), pointer="")
    before = read_cursor(asked.cursor, _NEWEST, str) if asked.cursor is not None else None
    found = await request.app[UPLOAD_STORE].page(asked.user_id, asked.limit + 1, before, owner=request[CALLER].scope)
    shown_ones = found[: asked.limit]
    last = shown_ones[-1] if len(found) > asked.limit else None
    cursor = write_cursor(_NEWEST, last.created_at, last.upload_id) if last is not None else None
    return answered({"items": [upload_answer(each, root_path(request)) for each in shown_ones], "next_cursor": cursor})


@routes.get(ONE)
async def get_upload(request: web.Request) -> web.Response:
    """Show an upload."""
    return answered(upload_answer(await _upload(request), root_path(request)))


@routes.get(ONE + "/data")
async def get_upload_data(request: web.Request) -> web.StreamResponse:
    """Send the bytes of an upload, or the range asked for."""
    upload = await _upload(request)
    return file_response(request, upload.path, upload.content_type, name=f"{upload.upload_id}.{upload.extension}")


@routes.get(ONE + "/workflow")
async def get_upload_workflow(request: web.Request) -> web.Response:
    """Show the graph that ComfyUI has written into an upload, and what stands beside it."""
    upload = await _upload(request)
    async with turn(request):
        found = await request.app[UPLOADS].workflow(upload)
    beside = {name: Written(text) for name, text in found.others.items()}
    if found.workflow is not None:
        beside["workflow"] = Written(found.workflow)
    return answered({"workflow": Written(found.prompt or "null"), "extra_pnginfo": beside or None})


@routes.delete(ONE)
async def delete_upload(request: web.Request) -> web.Response:
    """Delete an upload that no waiting or running job needs."""
    asked = check(OwnerQuery, read_query(request.query), pointer="")
    upload_id, caller = request.match_info["upload_id"], request[CALLER]
    if asked.user_id is not None and caller.scope not in (None, asked.user_id):
        raise UploadNotFound(f"There is no upload {upload_id}.")
    deleting = request.app[UPLOADS].delete(upload_id, caller.scope or asked.user_id)
    await noted(request, "delete", f"upload {upload_id}", deleting, lambda _: "deleted")
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def note_upload(request: web.Request, upload: Upload, *, created: bool) -> None:
    """Note that a file was handed over, by REST or on the page."""
    became = "created" if created else "known"
    await note(request, "upload", f"upload {upload.upload_id}", became, user_id=upload.user_id)


@asynccontextmanager
async def turn(request: web.Request) -> AsyncIterator[None]:
    """Wait until a file may be received, or looked into; raises `Busy` after `_TURN_S`."""
    receiving = request.config_dict[RECEIVING]
    try:
        async with asyncio.timeout(_TURN_S):
            await receiving.acquire()
    except TimeoutError as error:
        raise Busy("So many files are being received or looked into that there is no room for one more.") from error
    try:
        yield
    finally:
        receiving.release()


async def _upload(request: web.Request) -> Upload:
    asked = check(OwnerQuery, read_query(request.query), pointer="")
    upload_id = request.match_info["upload_id"]
    upload = (await request.app[UPLOAD_STORE].read([upload_id], request[CALLER].scope)).get(upload_id)
    if upload is None or asked.user_id not in (None, upload.user_id):
        raise UploadNotFound(f"There is no upload {upload_id}.")
    return upload


def _owner(request: web.Request, user_id: str | None) -> str:
    owner = owner_of(request[CALLER], user_id, "user_id")
    if owner is None:
        detail = "Say whose the file is: ?user_id=… in the address, or user_id as a field of the form."
        raise InvalidUpload(detail, [Fault("user_id", "missing", detail)])
    return owner


async def _body(request: web.Request) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes."""
    patience = patience_for(request)
    with form_errors():
        while chunk := await patience.wait_for(request.content.readany()):
            patience.count(len(chunk))
            yield chunk


@dataclass
class _Form:
    """What a form of an upload holds."""

    user_id: str | None
    filename: str = ""
    received: Received | None = None


async def _from_form(request: web.Request, user_id: str | None) -> tuple[Upload, bool]:
    """Take the file of a form, when all of the form has come: one that breaks off leaves nothing."""
    uploads, form = request.app[UPLOADS], _Form(user_id)
    try:
        with form_errors():
            await _read_form(request, form)
        owner, received = _owner(request, form.user_id), _file_of(form)
    except BaseException:
        if form.received is not None:
            await uploads.discard(form.received)
        raise
    most_bytes = request[CALLER].limits_for(owner).upload_bytes
    return await uploads.keep(received, owner, form.filename, most_bytes=most_bytes)


async def _read_form(request: web.Request, form: _Form) -> None:
    patience = patience_for(request)
    parts = await request.multipart()
    for _ in range(_MOST_PARTS):
        part = await patience.wait_for(parts.next())
        if part is None:
            return
        if not isinstance(part, BodyPartReader) or part.name not in ("file", "user_id"):
            raise _wrong_form(f"There is no such field: {shown(str(getattr(part, 'name', None)))}.")
        if part.name == "user_id":
            form.user_id = await _field(part, patience)
            continue
        if form.received is not None:
            raise _wrong_form("One file is taken at a time.")
        form.filename = part.filename or ""
        async with aclosing(chunks_of(part, patience)) as chunks:
            form.received = await request.app[UPLOADS].receive(chunks)
    raise _wrong_form("The form has too many parts.")


def _file_of(form: _Form) -> Received:
    if form.received is None:
        raise _wrong_form("The form has no part `file`.")
    return form.received


async def chunks_of(part: BodyPartReader, patience: Patience) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a part as they come."""
    if part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "").lower() not in _PLAIN_ENCODINGS:
        raise UnsupportedBody("The part of a file is sent as it is, without a Content-Transfer-Encoding.")
    while chunk := await patience.wait_for(part.read_chunk(_CHUNK_BYTES)):
        patience.count(len(chunk))
        yield bytes(chunk)


async def _field(part: BodyPartReader, patience: Patience) -> str:
    value = b""
    while chunk := await patience.wait_for(part.read_chunk(_MOST_FIELD_BYTES)):
        value += chunk
        if len(value) > _MOST_FIELD_BYTES:
            raise _wrong_form("The field user_id is too long.")
    return check(OwnerQuery, read_query(MultiDict(user_id=value.decode())), pointer="").user_id or ""


def _wrong_form(detail: str) -> InvalidUpload:
    return InvalidUpload(
        f"{detail} A form of an upload has one part `file`, and may have a field `user_id`.",
        [Fault("file", "wrong_form", detail)],
    )


@contextmanager
def form_errors() -> Iterator[None]:
    """Turn what aiohttp's readers raise for nonsense into errors of ours."""
    try:
        yield
    except (web.HTTPException, GenonautError):
        raise
    except (*_OF_READERS, web.RequestPayloadError, HttpProcessingError, ConnectionError) as error:
        raise MalformedForm(_BROKEN) from error
