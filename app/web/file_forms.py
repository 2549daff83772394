"""Forms of the page that bring files: read as they come, the files into the store, the fields within a bound."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiohttp import BodyPartReader, MultipartReader, hdrs, web

from app.domain.errors import BodyTooLarge, MalformedForm, UnsupportedBody
from app.keys import UPLOADS
from app.web.body_intake import MAX_FIELDS_BYTES, MOST_FILES, patience_for
from app.web.uploads import chunks_of, form_errors, turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.services.uploads import Uploads
    from app.storage.files import Received

_MOST_PARTS: Final = 1_000
_CHUNK_BYTES: Final = 2**16
_FIRST_BYTES: Final = 1024
"""The first field is looked at before anything else is known of the sender."""
_PLAIN_ENCODINGS: Final = ("", "identity")


@dataclass(slots=True)
class Filled:
    """What was filled in: of fields of one name the last one counts."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[str, Received]] = field(default_factory=dict)
    """Field → name and content of the file. Who keeps one takes it out; what is left is discarded."""
    too_large: set[str] = field(default_factory=set)
    """Fields whose files have more bytes than are taken."""


class FileForm:
    """A multipart form on its way in. Its methods raise `MalformedForm`, `UnsupportedBody` and `BodyTooSlow`."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._patience = patience_for(request)
        self._parts: MultipartReader | None = None

    async def first(self, name: str) -> str:
        """Return the form's first field, before any other is read; "" when that has another name."""
        if self._request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in _PLAIN_ENCODINGS:
            raise UnsupportedBody("A form with files is sent as it is, without a Content-Encoding.")
        with form_errors():
            self._parts = await self._request.multipart()
            part = await self._patience.wait_for(self._parts.next())
            if not isinstance(part, BodyPartReader) or part.name != name:
                return ""
            return (await self._field(part, _FIRST_BYTES)).decode()

    @asynccontextmanager
    async def rest(self) -> AsyncIterator[Filled]:
        """Read all that follows; raises `Busy`, `BodyTooLarge` and `StorageFailed` too."""
        filled, uploads = Filled(), self._request.config_dict[UPLOADS]
        try:
            async with turn(self._request):
                with form_errors():
                    await self._read(filled, uploads)
            yield filled
        finally:
            for _, received in filled.files.values():
                await uploads.discard(received)

    async def _read(self, filled: Filled, uploads: Uploads) -> None:
        left = MAX_FIELDS_BYTES
        for _ in range(_MOST_PARTS):
            part = await self._patience.wait_for(self._parts.next()) if self._parts is not None else None
            if part is None:
                return
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise MalformedForm("A part of the form has no name.")
            if part.filename is None:
                value = await self._field(part, left)
                left -= len(value)
                # Browsers send lines as CR LF.
                filled.texts[part.name] = value.decode("utf-8", "replace").replace("\r\n", "\n")
                continue
            await self._file(part, part.name, filled, uploads)
            if len(filled.files) > MOST_FILES:
                raise MalformedForm(f"A form brings at most {MOST_FILES} files.")
        raise MalformedForm(f"The form has more than {_MOST_PARTS} parts.")

    async def _file(self, part: BodyPartReader, name: str, filled: Filled, uploads: Uploads) -> None:
        try:
            async with aclosing(chunks_of(part, self._patience)) as chunks:
                received = await uploads.receive(chunks)
        except BodyTooLarge:
            # A browser reads the answer only after it has sent everything.
            while chunk := await self._patience.wait_for(part.read_chunk(_CHUNK_BYTES)):
                self._patience.count(len(chunk))
            filled.too_large.add(name)
            return
        if (received.size_bytes or part.filename) and name not in filled.files:
            filled.files[name] = (part.filename or "", received)
        else:
            await uploads.discard(received)

    async def _field(self, part: BodyPartReader, most: int) -> bytes:
        value = bytearray()
        while chunk := await self._patience.wait_for(part.read_chunk(_CHUNK_BYTES)):
            self._patience.count(len(chunk))
            value += chunk
            if len(value) > most:
                raise BodyTooLarge("The fields of the form are longer than what is taken.")
        return bytes(value)


FILE_FORM: Final = web.RequestKey("FILE_FORM", FileForm)
"""The form of this request, of which the first field has been read."""
