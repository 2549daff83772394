"""Jobs led through their lives by hand, as a worker would, and pages read as a browser reads them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from PIL import Image
from sqlalchemy import text, update

from app import keys
from app.domain.errors import NodeFailed
from app.domain.job import Job, Output, Standing
from app.domain.message import snapshot_of
from app.storage.attempts import AttemptStore, Claim
from app.storage.schema import AttemptRow
from app.web.requests import JobRequest
from harness import SMALL_BODY

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

    from app.storage.database import Database

WORKER = "host:1:abc"
HOSTILE = "<script>alert(1)</script>\"'>\u202egpj.exe\u202c" + "W" * 400
SPANS = [
    {"node": "4", "type": "CheckpointLoaderSimple", "cached": True},
    {"node": "3", "type": "KSampler", "title": "My sampler", "start_ms": 0, "end_ms": 6000},
    {"node": "8", "type": "VAEDecode", "start_ms": 6000, "end_ms": 7500},
]

WORKER_BEAT = {
    "host": "box", "pid": 42, "version": "1.2", "started_at": "2026-11-23T12:00:00Z", "slots": 2, "used": 1,
    "state": "working", "running": [5], "done": 7, "failed": 1, "memory_bytes": 100 * 2**20, "backends": ["gpu-a"],
}  # fmt: skip
BACKEND_BEAT = {
    "url": "http://gpu-a:8188", "driver": "box:42:x", "healthy": True, "reason": None, "drained": False,
    "since": "2026-11-23T12:00:00Z", "slots": 2, "used": 1, "queue_remaining": 3, "foreign": 1, "version": "0.3.64",
    "vram_total": 24 * 2**30, "vram_free": 6 * 2**30, "warm": ["checkpoints/sdxl.safetensors"], "freed": None,
}  # fmt: skip


@dataclass
class Life:
    """Does to jobs what a worker would, and tells the watchers."""

    client: TestClient[Any, Any]
    database: Database
    backend: str = "gpu-a"
    _ticks: dict[int, int] = field(default_factory=dict)

    @property
    def store(self) -> AttemptStore:
        """The store of the test's database."""
        return AttemptStore(self.database)

    async def submit(self, **changes: Any) -> int:
        """Create a small job with these fields changed, whether or not Redis is there."""
        job = await self.store.create(JobRequest.model_validate(SMALL_BODY | changes).to_new_job())
        return (await self._tell(job)).job_id

    async def claim(self, **changes: Any) -> Claim:
        """Submit a job and take it, as the only one that waits."""
        await self.submit(**changes)
        job = await self.store.claim(WORKER, self.backend, str(uuid4()), 60)
        assert job is not None
        await self._tell(job)
        return Claim(job.job_id, job.attempt, WORKER)

    async def execute(self, **changes: Any) -> Claim:
        """Submit a job and have it executed."""
        claim = await self.claim(**changes)
        await self.store.submitting(claim, str(uuid4()), {"1": {"class_type": "EmptyImage", "inputs": {}}})
        await self._tell(await self.store.executing(claim))
        return claim

    async def progress(self, claim: Claim, percent: int, node: dict[str, Any] | None = None) -> None:
        """Tell of progress, and of the node at work, as an event alone."""
        tick = self._ticks[claim.job_id] = self._ticks.get(claim.job_id, 0) + 1
        job = await self.store.get(claim.job_id)
        events = self.client.app[keys.EVENTS]
        await events.publish(replace(snapshot_of(job), tick=tick, progress=percent, node=node))

    async def complete(self, claim: Claim, *kinds: str) -> Job:
        """End a job with outputs of these kinds, images unless told otherwise."""
        await self._tell(await self.store.saving(claim))
        outputs = [await self.output(claim, index, kind) for index, kind in enumerate(kinds or ("image",))]
        return await self._tell(await self.store.complete(claim, outputs))

    async def fail(self, claim: Claim, message: str = "The node fell over.") -> Job:
        """End a job with a node's error."""
        return await self._tell(await self.store.fail(claim, NodeFailed(message, node_id="7", node_type="VAEDecode")))

    async def confirm_cancel(self, claim: Claim) -> Job:
        """Say that ComfyUI has let the prompt go."""
        return await self._tell(await self.store.cancelled(claim))

    async def output(self, claim: Claim, index: int, kind: str) -> Output:
        files = self.client.app[keys.FILES]
        picture, thumbnail, content_type = b"words & <words>", None, "text/plain"
        if kind == "image":
            image, content_type = Image.new("RGB", (64, 64), (30, 90 + 40 * index, 160)), "image/png"
            picture = _encoded(image, "PNG")
            thumbnail = f"t/{claim.job_id}_{index}.webp"
            await files.write(thumbnail, _encoded(image, "WEBP"))
        elif kind != "text":
            content_type = f"{kind}/mp4"
        stored = await files.write(f"o/{claim.job_id}_{index}", picture)
        return Output(
            index=index,
            node_id="9",
            kind=kind,
            content_type=content_type,
            size_bytes=stored.size_bytes,
            width=64 if kind == "image" else None,
            height=64 if kind == "image" else None,
            sha256=stored.sha256,
            path=stored.path,
            thumbnail_path=thumbnail,
        )

    async def _tell(self, job: Standing) -> Job:
        await self.client.app[keys.EVENTS].publish(snapshot_of(job))
        return await self.store.whole(job.job_id)


class Document(HTMLParser):
    """A page's elements and its text, as a browser takes it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Return the attributes of the elements of this kind with these attributes."""
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]

    @property
    def addresses(self) -> list[str]:
        """What the page links to or loads."""
        found = [attributes.get("href") or attributes.get("src") or "#" for _, attributes in self.elements]
        return [address for address in found if not address.startswith("#")]

    @property
    def jobs(self) -> list[int]:
        """Numbers of the jobs in the list, in its order."""
        return [int(row["data-job"]) for row in self.all("li") if "data-job" in row]

    @property
    def phases(self) -> dict[int, str]:
        """Job → phase, as the page has it."""
        return {int(found["data-job"]): found["data-phase"] for _, found in self.elements if "data-job" in found}


async def read(client: TestClient[Any, Any], path: str, status: int = 200, **headers: str) -> Document:
    """Get a page."""
    answer = await client.get(path, headers=headers)
    assert answer.status == status, await answer.text()
    assert answer.content_type == "text/html"
    return Document(await answer.text())


async def act(client: TestClient[Any, Any], path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
    """Send a form as our own page does, and return the answer, unfollowed."""
    page = await read(client, "/monitor/workers")
    assert page
    token = client.session.cookie_jar.filter_cookies(client.make_url("/monitor/"))["monitor_csrf"].value
    origin = str(client.make_url("/")).rstrip("/")
    return await client.post(
        path, data={"csrf": token} | fields, headers={"Origin": origin} | (headers or {}), allow_redirects=False
    )


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


async def flash(client: TestClient[Any, Any], answer: Any) -> str:
    """Follow the answer and return what the page says once, which it then says no more."""
    assert answer.status == 303
    address = answer.headers["Location"]
    said = re.search(r'<p class="flash \w+">(.*?)</p>', await (await client.get(address)).text())
    assert said is not None
    assert 'class="flash' not in await (await client.get(address)).text()
    return said[1]


async def entries(database: Database) -> list[tuple[str, str, str, str]]:
    """Return the audit log, oldest entry first: actor, action, target, outcome."""
    async with database.transaction() as session:
        rows = await session.execute(text("SELECT actor, action, target, outcome FROM audit_log ORDER BY id"))
        return [tuple(row) for row in rows]


async def note(database: Database, claim: Claim, ends_s: tuple[float, ...] = (), **facts: Any) -> None:
    """Write facts of an attempt into its row; `ends_s`: sent, executing, executed, ended, seconds after the claim."""
    names = ("submitted_at", "executing_at", "executed_at", "ended_at")
    times = {name: AttemptRow.claimed_at + timedelta(seconds=each) for name, each in zip(names, ends_s, strict=False)}
    statement = update(AttemptRow).where(AttemptRow.job_id == claim.job_id, AttemptRow.number == claim.attempt)
    async with database.transaction() as session:
        await session.execute(statement.values(**facts, **times))


async def beat(client: TestClient[Any, Any], worker: dict[str, Any] | None = None, **backend: Any) -> None:
    """Tell of a worker and its backend, with what is changed."""
    await client.app[keys.REGISTRY].beat("box:42:x", WORKER_BEAT | (worker or {}), {"gpu-a": BACKEND_BEAT | backend})
