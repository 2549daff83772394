"""A service that several use: each with a key, one of them with jobs and files, and requests in their names."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from aiohttp import DummyCookieJar, FormData, WSMsgType, WSServerHandshakeError
from integration.monitor_fixtures import Life, beat
from multidict import CIMultiDict
from PIL import Image
from sqlalchemy import event

from app import keys
from app.domain.access import Role
from app.domain.key_format import new_key
from app.main import create_app, create_monitor_app
from app.services.access import SESSION_COOKIE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import asyncpg
    from aiohttp import ClientWebSocketResponse
    from aiohttp.test_utils import TestClient

    from app.domain.job import Standing
    from app.settings import Settings
    from app.storage.database import Database

NOBODY: Final = "nobody"
HOLDERS: Final[Mapping[str, Role]] = {
    "ann": Role.USER,
    "bob": Role.USER,
    "eve": Role.VIEWER,
    "otto": Role.OPERATOR,
    "ada": Role.ADMIN,
}
"""Whose keys there are. The jobs are ann's; bob is another user."""
MODES: Final = ("keys", "open", "read-only page", "page alone", "proxied", "proxied and open")
"""Ways to serve it; while it is open the keys that are shown are of another environment."""
PROXY: Final = {"Forwarded": "for=203.0.113.7", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
CSRF: Final = "x" * 43
UNKNOWN: Final = {
    "job_id": "9999", "content_id": "8888", "index": "0", "upload_id": "f" * 32, "name": "nothing",
    "worker_id": "nothing", "task": "nothing", "node_class": "Nothing", "version": "x",
}  # fmt: skip
"""What does not exist, written with as many characters as what does."""
_BEFORE_FIRST: Final = {"generation_jobs": 1000, "contents": 5000}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer, read."""

    status: int
    headers: CIMultiDict[str]
    text: str

    @property
    def code(self) -> str:
        """The code of a problem; "" for anything else."""
        if self.headers.get("Content-Type", "").startswith("application/problem+json"):
            return str(json.loads(self.text)["code"])
        return ""

    @property
    def leads_to_sign_in(self) -> bool:
        """Whether it tells a browser to sign in first."""
        return self.status == 303 and self.headers.get("Location", "").startswith("/monitor/sign-in?")

    def lines(self, things: Mapping[str, str]) -> list[str]:
        """Return it line by line, fit to be compared with another one: without numbers of things, and times."""
        text = self.text
        for name in ("job_id", "content_id", "upload_id"):
            text = text.replace(things[name], f"#{name}")
        text = re.sub(r'<time[^>]*>.*?</time>|data-now="[^"]*"', "", text)
        headers = [f"{name}: {value}" for name, value in sorted(self.headers.items()) if name not in _OF_THE_MOMENT]
        return [str(self.status), *headers, *text.splitlines()]


_OF_THE_MOMENT: Final = ("Date", "RateLimit")


@dataclass
class World:
    """The server, and who uses it."""

    client: TestClient[Any, Any]
    database: Database
    secrets: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)
    """Tokens of the page's sessions; without one a key goes along with a request for the page too."""
    headers: dict[str, str] = field(default_factory=dict)
    """What goes along with every request, such as a proxy's headers."""
    things: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the phase of a job of ann's: its number, its content's, and so on."""

    @property
    def life(self) -> Life:
        """Does to jobs what a worker would."""
        return Life(self.client, self.database)

    async def prepare(self) -> None:
        """Make jobs and files of ann's, a worker and a backend."""
        async with self.database.driver() as connection:
            # Numbers of one length: in the answers one can be put in the other's place.
            for table, before in _BEFORE_FIRST.items():
                await connection.fetchval("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", table, before)
        await beat(self.client)
        for phase in ("completed", "failed", "queued"):
            self.things[phase] = await self.make(phase)

    async def hears_events(self) -> bool:
        """Whether the server's hub is connected."""
        return bool(self.client.app[keys.HUB].connected)

    async def issue(self) -> None:
        """Make everybody's key, and sign all of them in."""
        store = self.client.app[keys.KEYS]
        for name, role in HOLDERS.items():
            self.secrets[name] = await store.add(name, role)
            self.sessions[name], _ = await store.sign_in(self.secrets[name])

    async def make(self, phase: str, owner: str = "ann") -> dict[str, str]:
        """Make a job in this phase and an upload, and return what stands for each parameter of an address."""
        job = await self.job(phase, owner)
        upload = await self.upload(owner)
        return UNKNOWN | {
            "job_id": str(job.job_id),
            "content_id": str(job.content_id or UNKNOWN["content_id"]),
            "upload_id": upload,
            "name": "gpu-a",
            "worker_id": "box:42:x",
            "task": "sweep",
        }

    async def job(self, phase: str, owner: str = "ann") -> Standing:
        """Make a job in this phase."""
        life = self.life
        if phase == "queued":
            return await life.store.get(await life.submit(user_id=owner, priority=-100))
        claim = await life.execute(user_id=owner, priority=100)
        if phase == "running":
            return await life.store.get(claim.job_id)
        return await (life.complete(claim) if phase == "completed" else life.fail(claim))

    async def upload(self, owner: str = "ann") -> str:
        """Make an upload, of bytes that were never sent before, and return its id."""
        return (await self.client.app[keys.UPLOADS].take_bytes(picture(), owner)).upload_id

    def credentials(self, who: str, *, of_page: bool) -> dict[str, str]:
        """Return the headers with which one shows who one is."""
        cookies = {"monitor_csrf": CSRF} if of_page else {}
        headers = dict(self.headers)
        if who != NOBODY and of_page and who in self.sessions:
            cookies[SESSION_COOKIE] = self.sessions[who]
        elif who != NOBODY:
            headers["Authorization"] = f"Bearer {self.secrets[who]}"
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return headers

    async def ask(
        self, who: str, method: str, path: str, *, form: Mapping[str, str] | None = None, **more: Any
    ) -> Told:
        """Send a request in somebody's name, a form with the page's token, and return the answer, unfollowed."""
        of_page = path.startswith("/monitor")
        headers = self.credentials(who, of_page=of_page) | {"X-Request-Id": "same"} | more.pop("headers", {})
        if path.startswith("/ws/"):
            return await self._connect(path, headers)
        if of_page and method == "POST":
            more["data"] = {"csrf": CSRF} | dict(form or {})
        async with self.client.request(method, path, headers=headers, allow_redirects=False, **more) as answer:
            return Told(answer.status, CIMultiDict(answer.headers), await answer.text(errors="replace"))

    async def _connect(self, path: str, headers: dict[str, str]) -> Told:
        """Open a WebSocket, and close it again when it has opened."""
        try:
            async with self.client.ws_connect(path, headers=headers):
                return Told(101, CIMultiDict(), "")
        except WSServerHandshakeError:
            # The client does not read the body of a refusal: it is asked for once more.
            upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
            async with self.client.get(path, headers=headers | upgrade) as answer:
                return Told(answer.status, CIMultiDict(answer.headers), await answer.text())


async def serve(mode: str, settings: Settings, database: Database, aiohttp_client: Any) -> World:
    """Serve it in one of the ways, to be used by all."""
    chosen = settings.model_copy(update={"monitor_read_only": mode == "read-only page"})
    create = create_monitor_app if mode == "page alone" else create_app
    # No cookies but those that a request is given: who is nobody stays so.
    app = create(chosen)
    _note_connections(app[keys.DATABASE])
    world = World(await aiohttp_client(app, cookie_jar=DummyCookieJar()), database)
    await world.prepare()
    if "open" in mode:
        world.secrets = {name: new_key() for name in HOLDERS}
    else:
        await world.issue()
    if "proxied" in mode:
        world.headers = dict(PROXY)
    return world


async def code_of_close(socket: ClientWebSocketResponse) -> int | None:
    """Read to the end, and return the code with which the server closed."""
    async for message in socket:
        assert message.type is WSMsgType.TEXT
    return socket.close_code


async def rows_of(world: World, owner: str) -> list[Any]:
    """Return all that is kept of somebody's jobs and files, as text."""
    tables = {
        "generation_jobs": "user_id = $1",
        "uploads": "user_id = $1",
        "idempotency_keys": "user_id = $1",
        "job_attempts": "job_id IN (SELECT id FROM generation_jobs WHERE user_id = $1)",
        "job_events": "job_id IN (SELECT id FROM generation_jobs WHERE user_id = $1)",
        "contents": "job_id IN (SELECT id FROM generation_jobs WHERE user_id = $1)",
        "job_uploads": "job_id IN (SELECT id FROM generation_jobs WHERE user_id = $1)",
    }
    async with world.database.driver() as connection:
        return [
            sorted(row[0] for row in await connection.fetch(f"SELECT t::text FROM {table} t WHERE {own}", owner))  # noqa: S608
            for table, own in tables.items()
        ]


def picture() -> bytes:
    """Return a picture whose bytes no other one has."""
    number, buffer = next(_numbers), io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65_536)).save(buffer, "PNG")
    return buffer.getvalue()


def picture_form(**fields: str) -> FormData:
    """Return a form with such a picture, as a client hands one over."""
    form = FormData()
    for name, value in fields.items():
        form.add_field(name, value)
    form.add_field("file", picture(), filename="a.png", content_type="image/png")
    return form


_CONNECTIONS: Final[WeakKeyDictionary[Database, set[asyncpg.Connection]]] = WeakKeyDictionary()
"""Every connection that a database has made."""


def _note_connections(database: Database) -> None:
    made = _CONNECTIONS.setdefault(database, set())
    event.listen(database.engine.sync_engine, "connect", lambda adapted, _: made.add(adapted.driver_connection))


@asynccontextmanager
async def statements(database: Database) -> AsyncIterator[list[str]]:
    """Record every statement that goes to the database, complete when the block ends."""
    seen: list[str] = []
    watched: set[asyncpg.Connection] = set()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    def note_logged(logged: Any) -> None:
        # A transaction's own words come from below SQLAlchemy's cursors.
        if not logged.query.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            seen.append(logged.query)

    def watch(connection: Any, *_: Any) -> None:
        add(connection.driver_connection)

    def add(driven: asyncpg.Connection) -> None:
        if driven not in watched:
            watched.add(driven)
            driven.add_query_logger(note_logged)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "checkout", watch)
    # Those too that another task has at this moment, and gives back meanwhile.
    for driven in _CONNECTIONS[database]:
        if not driven.is_closed():
            add(driven)
    try:
        yield seen
        # What the driver logs is noted in the loop's next round.
        await asyncio.sleep(0)
    finally:
        event.remove(engine, "before_cursor_execute", note)
        event.remove(engine, "checkout", watch)
        for connection in watched:
            if not connection.is_closed():
                connection.remove_query_logger(note_logged)
