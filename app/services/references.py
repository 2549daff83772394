"""Before a job is accepted: each file that it refers to is found, or becomes an upload, or is refused by its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import BodyTooLarge, ContentNotFound, Fault, InvalidRequest, InvalidUpload, UrlRefused
from app.domain.hints import pointer_to, token
from app.domain.public_addresses import judged_url
from app.domain.uploads import uploads_in
from app.domain.workflow import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.domain.job import Job, NewJob
    from app.domain.public_addresses import Network
    from app.domain.uploads import Upload
    from app.services.uploads import Uploads
    from app.storage.job_views import JobViews
    from app.storage.uploads import UploadStore

SIDE: Final = 8
"""Sides of a picture that is painted on are multiples of this, as latents need."""
MOST_SIDE: Final = 2048
"""Maximum pixels of a side, as for a job without a picture; a larger picture is scaled down."""
LEAST_SIDE: Final = 64


@dataclass(frozen=True, slots=True)
class Resolved:
    """A job whose references name uploads, and those uploads by their ids; a URL has none yet."""

    job: NewJob
    uploads: Mapping[str, Upload]


class References:
    """Finds the files of jobs. Methods raise `DatabaseUnavailable`."""

    def __init__(self, uploads: Uploads, store: UploadStore, views: JobViews, networks: Sequence[Network] = ()) -> None:
        self._uploads = uploads
        self._store = store
        self._views = views
        self.networks = networks

    async def resolve(self, job: NewJob, *, keep: bool = True, most_bytes: int | None = None) -> Resolved:
        """Return the job with the uploads that it needs. Its workflow is of sound structure.

        Without `keep` nothing is stored: what would become an upload has an id that stands for none. `most_bytes` are
        all the user's uploads together to have.

        Raises
        ------
        InvalidRequest
            A file is not there or not the caller's, or cannot be taken; every fault is named by its place.
        StorageFailed, UploadLimit
        """
        named = list(_references(job))
        places = {upload_id: pointer for pointer, upload_id in _texts(job)}
        places |= {each["upload"]: pointer for pointer, each in named if "upload" in each}
        if not places and not named:
            return Resolved(job, {})
        found = {
            upload_id: upload
            for upload_id, upload in (await self._store.read(places)).items()
            if upload.user_id == job.user_id
        }
        faults = [_unknown(pointer, upload_id) for upload_id, pointer in places.items() if upload_id not in found]
        faults += [fault for pointer, each in named if (fault := self._refused_url(pointer, each)) is not None]
        if faults:
            raise _invalid(faults)
        changed: dict[str, dict[str, Any]] = {}
        for pointer, each in named:
            try:
                upload = await self._taken(each, job.user_id, keep=keep, most_bytes=most_bytes)
            except (InvalidUpload, BodyTooLarge, ContentNotFound) as error:
                faults.append(Fault(pointer, error.code, str(error)))
                continue
            if upload is not None:
                found[upload.upload_id] = upload
                kept = {name: value for name, value in each.items() if name != "data"}
                changed[pointer] = kept | {"upload": upload.upload_id}
        if faults:
            raise _invalid(faults)
        return Resolved(_sized(_with_references(job, changed, tuple(found)), found), found)

    def _refused_url(self, pointer: str, reference: Mapping[str, Any]) -> Fault | None:
        if "url" not in reference or "upload" in reference:
            return None
        try:
            judged_url(reference["url"], self.networks)
        except UrlRefused as error:
            return Fault(f"{pointer}/url", error.code, str(error))
        return None

    async def _taken(
        self, reference: Mapping[str, Any], user_id: str, *, keep: bool, most_bytes: int | None
    ) -> Upload | None:
        """Return the upload that is made of what the reference brings or names; None for all others."""
        if "data" in reference:
            data = reference["data"]
            if not keep:
                return await self._uploads.look_at(data, user_id)
            return await self._uploads.take_bytes(data, user_id, most_bytes=most_bytes)
        if "content" not in reference or "upload" in reference:
            return None
        content_id, index = reference["content"], reference["output"]
        found = await self._views.output_and_owner(content_id, index)
        if found is None or found[1] != user_id:
            raise ContentNotFound(f"There is no output {index} of content {content_id}.")
        return await self._uploads.take_output(found[0], user_id, keep=keep, most_bytes=most_bytes)


def resized(job: NewJob | Job, width: int | None, height: int | None) -> tuple[int, int]:
    """Return width and height, in pixels, of what is made from a picture of this size: multiples of 8.

    What the job does not say, a 0, follows from the picture: its own size, or, of one side, its proportions; it is
    scaled down where that is larger than what may be asked for.
    """
    if width is None or height is None or (job.width and job.height):
        return job.width, job.height
    if job.width or job.height:
        scale = job.width / width if job.width else job.height / height
    else:
        scale = min(1.0, MOST_SIDE / max(width, height))
    return job.width or _side(width * scale), job.height or _side(height * scale)


def _side(pixels: float) -> int:
    whole = max(LEAST_SIDE, min(MOST_SIDE, round(pixels)))
    return whole - whole % SIDE


def _sized(job: NewJob, uploads: Mapping[str, Upload]) -> NewJob:
    upload = uploads.get((job.image or {}).get("upload", ""))
    if upload is None:
        return job
    width, height = resized(job, upload.width, upload.height)
    return replace(job, width=width, height=height)


def _references(job: NewJob) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of each reference of a job, as a pointer, and the reference."""
    for name in ("image", "mask"):
        if (reference := getattr(job, name)) is not None:
            yield f"/{name}", reference
    for place, reference in job.inputs.items():
        yield f"/inputs/{token(place)}", reference


def _texts(job: NewJob) -> Iterator[tuple[str, str]]:
    """Yield the place of each upload that the workflow names by a text, and its id."""
    for node_id, name, upload_id in uploads_in(job.workflow or {}):
        yield pointer_to("/workflow", node_id, "inputs", name), upload_id


def _with_references(job: NewJob, changed: Mapping[str, dict[str, Any]], upload_ids: tuple[str, ...]) -> NewJob:
    inputs = {place: changed.get(f"/inputs/{token(place)}", each) for place, each in job.inputs.items()}
    image, mask = changed.get("/image", job.image), changed.get("/mask", job.mask)
    return replace(job, image=image, mask=mask, inputs=inputs, upload_ids=upload_ids)


def _unknown(pointer: str, upload_id: str) -> Fault:
    return Fault(pointer, "unknown_upload", f"There is no upload {upload_id} of this user.")


def _invalid(faults: Sequence[Fault]) -> InvalidRequest:
    listed = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:3])
    return InvalidRequest(f"A file that the job refers to cannot be used. {listed}", faults[:MAX_FAULTS])
