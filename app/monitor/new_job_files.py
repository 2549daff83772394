"""Files that the form which sends jobs names: whose they are, and how another user gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import ContentNotFound
from app.keys import FILES, UPLOAD_STORE, UPLOADS
from app.monitor.new_job_form import reference_in
from app.web.callers import CALLER, views_of

if TYPE_CHECKING:
    from aiohttp import web

    from app.domain.uploads import Upload

GONE: Final = "This picture is no longer there. Choose another one."


async def own(request: web.Request, text: str, user_id: str) -> dict[str, Any]:
    """Return a reference to the user's own file: who may send jobs for others sees their files, and may take any.

    Raises
    ------
    ContentNotFound, FileNotFoundError
        It is not there.
    InvalidUpload, BodyTooLarge, StorageFailed, UploadLimit
    """
    reference, uploads = reference_in(text), request.config_dict[UPLOADS]
    most_bytes = request[CALLER].limits_for(user_id).upload_bytes
    if reference is None:
        raise ContentNotFound(GONE)
    if "content" in reference:
        output = await views_of(request).output_and_owner(reference["content"], reference["output"])
        if output is None:
            raise ContentNotFound(GONE)
        if output[1] != user_id:
            taken = await uploads.take_output(output[0], user_id, most_bytes=most_bytes)
            return {"upload": taken.upload_id}
    if "upload" in reference:
        upload = await upload_of(request, reference["upload"])
        if upload is None:
            raise ContentNotFound(GONE)
        if upload.user_id != user_id:
            chunks = request.config_dict[FILES].read(upload.path)
            taken, _ = await uploads.take(chunks, user_id, upload.filename, most_bytes=most_bytes)
            return {"upload": taken.upload_id}
    return reference


async def owner(request: web.Request, text: str) -> str | None:
    """Return whose file it is; None when it is not there."""
    reference = reference_in(text) or {}
    if "content" in reference:
        found = await views_of(request).output_and_owner(reference["content"], reference["output"])
        return found[1] if found is not None else None
    if "upload" in reference:
        upload = await upload_of(request, reference["upload"])
        return upload.user_id if upload is not None else None
    return None


async def upload_of(request: web.Request, upload_id: str) -> Upload | None:
    """Return an upload that the caller may see, or None."""
    return (await request.config_dict[UPLOAD_STORE].read([upload_id], request[CALLER].scope)).get(upload_id)
