"""The input files of an attempt: URLs are fetched once, and each file is given to the backend before the graph."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from app.domain.errors import (
    BodyTooLarge,
    InputUnavailable,
    InvalidUpload,
    WorkflowRefused,
)
from app.domain.public_addresses import shown_url
from app.domain.upload_checks import wrong_kinds
from app.domain.uploads import uploads_in, with_files
from app.runtime.guarded_http import Limits, input_chunks
from app.services.references import resized
from app.storage.outages import repeat_until_available
from worker.comfyui.input_folder import Had

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.job import Job
    from app.domain.uploads import Upload
    from app.domain.workflow import Graph
    from app.runtime.guarded_http import GuardedHttp
    from app.services.uploads import Uploads
    from app.storage.attempts import AttemptStore, Claim
    from app.storage.files import FileStore
    from app.storage.uploads import UploadStore
    from worker.attempts.attempt_metrics import AttemptMetrics
    from worker.comfyui.backend import Backend

FETCHED_AT_ONCE: Final = 4
FETCH_S: Final = 120.0
"""Maximum seconds to wait for one URL, redirects included."""


Places: TypeAlias = "Sequence[tuple[str, str, str]]"
"""Node id, input name and upload id of each upload in a graph."""
_FEW_NODES: Final = 300


@dataclass(frozen=True, slots=True)
class Given:
    """A graph whose files the backend has."""

    graph: Graph
    asked: Graph
    """The same with `upload:<id>` in place of names, which stand at `places`."""
    places: Places
    any_sent: bool


def names_urls(job: Job) -> bool:
    """Whether the job names a URL that was not fetched yet."""
    return any("url" in each and "upload" not in each for each in _references(job))


async def uploads_named_in(graph: Graph) -> Places:
    """Return where the graph has uploads; a long one is looked through in a thread."""
    if len(graph) > _FEW_NODES:
        return await asyncio.to_thread(lambda: tuple(uploads_in(graph)))
    return tuple(uploads_in(graph))


class InputFiles:
    """Gives backends the files of attempts. Methods wait while PostgreSQL is away: that is no fault of the job."""

    def __init__(
        self,
        uploads: Uploads,
        store: UploadStore,
        attempts: AttemptStore,
        files: FileStore,
        http: GuardedHttp,
        metrics: AttemptMetrics,
    ) -> None:
        self._uploads = uploads
        self._store = store
        self._attempts = attempts
        self._files = files
        self._http = http
        self._metrics = metrics
        self._fetching = asyncio.Semaphore(FETCHED_AT_ONCE)

    async def fetched(self, job: Job, claim: Claim) -> Job:
        """Return the job with an upload for each URL that it names; they are stored with it, for its other attempts.

        Raises
        ------
        InputUnavailable
            A URL is refused, or what it leads to is not to be had now, or is no file that a graph can use.
        StorageFailed, LostClaim
        """
        urls = {each["url"]: None for each in _references(job) if "url" in each and "upload" not in each}
        if not urls:
            return job
        waits = f"job {job.job_id} waits to have its files stored"
        # A fetch is repeated whole: what has come of it is gone.
        fetching = (repeat_until_available(partial(self._fetch, url, job.user_id), waits) for url in urls)
        found = await asyncio.gather(*fetching)
        by_url = dict(zip(urls, found, strict=True))
        fetched = replace(
            job,
            image=_with_upload(job.image, by_url) if job.image is not None else None,
            mask=_with_upload(job.mask, by_url) if job.mask is not None else None,
            inputs={place: _with_upload(each, by_url) for place, each in job.inputs.items()},
        )
        picture = by_url.get((job.image or {}).get("url", ""))
        if picture is not None:
            width, height = resized(fetched, picture.width, picture.height)
            fetched = replace(fetched, width=width, height=height)
        upload_ids = [upload.upload_id for upload in found]
        await repeat_until_available(lambda: self._attempts.note_inputs(claim, fetched, upload_ids), waits)
        return fetched

    async def given(self, graph: Graph, places: Places, backend: Backend) -> Given:
        """Return the graph with the names of its files, which stand at `places`, when the backend has them all.

        Raises
        ------
        WorkflowRefused
            A file is not of the kind that its input takes.
        InputUnavailable
            We have a file no more.
        BackendLacksModel, BackendLost
        """
        wanted = {upload_id for _, _, upload_id in places}
        uploads = await repeat_until_available(lambda: self._store.read(wanted), "a job waits to learn of its files")
        for node_id, name, upload_id in places:
            if upload_id not in uploads:
                raise InputUnavailable(f"The upload {upload_id} of node {node_id}, input {name!r}, was deleted.")
        if faults := wrong_kinds(graph, backend.catalog, uploads):
            raise WorkflowRefused("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults[:5]))
        given = await asyncio.gather(*(self._give(upload, backend) for upload in uploads.values()))
        texts = {upload_id: text for upload_id, (text, _) in zip(uploads, given, strict=True)}
        named = {
            (node_id, name): _annotated(texts[upload_id], graph, backend, node_id, name)
            for node_id, name, upload_id in places
        }
        return Given(with_files(graph, named), graph, places, any_sent=any(had is Had.SENT for _, had in given))

    async def _give(self, upload: Upload, backend: Backend) -> tuple[str, Had]:
        try:
            text, had = await backend.comfyui.input_folder.give(upload, self._files.absolute(upload.path))
        except FileNotFoundError as error:
            detail = f"The file of upload {upload.upload_id} is no longer in the store; hand it over again."
            raise InputUnavailable(detail) from error
        self._metrics.gave_input(backend.name, had, upload.size_bytes)
        return text, had

    async def _fetch(self, url: str, user_id: str) -> Upload:
        limits = Limits(max_bytes=self._uploads.max_bytes, total_s=FETCH_S)
        name = PurePosixPath(urlsplit(url).path).name
        try:
            async with self._fetching:
                return (await self._uploads.take(input_chunks(self._http, url, limits), user_id, name))[0]
        except (InvalidUpload, BodyTooLarge) as error:
            raise InputUnavailable(f"{shown_url(url)} cannot be used: {error}") from error


def _references(job: Job) -> list[Mapping[str, Any]]:
    return [each for each in (job.image, job.mask, *job.inputs.values()) if each is not None]


def _with_upload(reference: Mapping[str, Any], by_url: Mapping[str, Upload]) -> dict[str, Any]:
    upload = by_url.get(reference.get("url", "")) if "upload" not in reference else None
    return {**reference, "upload": upload.upload_id} if upload is not None else dict(reference)


def _annotated(text: str, graph: Graph, backend: Backend, node_id: str, name: str) -> str:
    """Return a file's name as its input takes it: where ComfyUI looks in another folder, with the folder behind it."""
    node_class = backend.catalog.nodes.get(graph[node_id]["class_type"])
    spec = node_class.inputs_for(graph[node_id]["inputs"]).get(name) if node_class is not None else None
    return f"{text} [input]" if spec is not None and spec.folder not in ("", "input") else text
