"""Clients that ask for what is another owner's: to their keys it is not there, whatever goes wrong meanwhile."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientError

from tests.chaos import workflows
from tests.chaos.callers import TICKETS, open_socket

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.chaos.callers import Caller

_JOB: Final = "/api/v1/generation-jobs"
_OF_JOBS: Final = (
    ("GET", ""), ("GET", "/events"), ("GET", "/attempts"), ("GET", "/workflow"),
    ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", ""),
)  # fmt: skip
_OF_CONTENTS: Final = ("", "/outputs/0", "/thumbnail", "/outputs/0/thumbnail")
_OF_UPLOADS: Final = (("GET", ""), ("GET", "/data"), ("GET", "/workflow"), ("DELETE", ""))
UNCLEAR: Final = (None, 401, 429, 500, 502, 503)
"""An outage, or the stranger's own key is refused just now."""
_AWAY: Final = (ClientError, OSError, TimeoutError, ValueError)


@dataclass(slots=True)
class Foreign:
    """A request for another owner's, as it was answered."""

    what: str
    owner: str
    """Whose key was shown."""
    status: int | None = None
    told: str = ""
    """What was wrong with the answer; empty if nothing was."""


@dataclass(slots=True)
class Belongings:
    """What there is by now, each with whose it is."""

    jobs: dict[int, str]
    contents: Sequence[tuple[int, str]]
    uploads: Sequence[tuple[str, str]]


class Stranger:
    """Asks for another owner's job, content or upload, with its own owner's key."""

    def __init__(self, caller: Caller, asked: list[Foreign], draw: random.Random) -> None:
        self._caller = caller
        self._asked = asked
        self._draw = draw

    async def ask(self, app: int, there: Belongings) -> None:
        """Ask once for something of another owner, if there is anything yet."""
        own = self._caller.holder.owner
        job = self._drawn([(job_id, owner) for job_id, owner in there.jobs.items() if owner != own])
        content = self._drawn([each for each in there.contents if each[1] != own])
        upload = self._drawn([each for each in there.uploads if each[1] != own])
        with contextlib.suppress(*_AWAY):
            if content is not None and self._draw.random() < 0.3:
                await self._expect(app, "GET", f"/api/v1/contents/{content[0]}{self._draw.choice(_OF_CONTENTS)}")
            elif upload is not None and self._draw.random() < 0.4:
                await self._of_upload(app, *upload)
            elif job is not None:
                await self._of_job(app, *job)

    def _drawn(self, some: Sequence[tuple[Any, str]]) -> tuple[Any, str] | None:
        return self._draw.choice(some) if some else None

    async def _of_job(self, app: int, job_id: int, owner: str) -> None:
        chance = self._draw.random()
        if chance < 0.6:
            method, path = self._draw.choice(_OF_JOBS)
            await self._expect(app, method, f"{_JOB}/{job_id}{path}")
        elif chance < 0.7:
            await self._expect(app, "POST", TICKETS, json={"job_ids": [job_id]})
        elif chance < 0.8:
            await self._bulk(app, self._draw.choice(("cancel", "retry")), job_id)
        elif chance < 0.9:
            await self._list(app, owner)
        else:
            await self._socket(app, job_id)

    async def _of_upload(self, app: int, upload_id: str, owner: str) -> None:
        if self._draw.random() < 0.2:
            graph = workflows.from_picture(upload_id, 1, 0.1)
            body = {"job_type": "workflow", "workflow": graph, "metadata": {"chaos": "stranger"}}
            await self._expect(app, "POST", _JOB, 422, json=body)
        elif self._draw.random() < 0.2:
            body = {"job_type": "workflow", "workflow": workflows.slow(1, 0.1), "user_id": owner}
            await self._expect(app, "POST", _JOB, 403, json=body | {"metadata": {"chaos": "stranger"}})
        else:
            method, path = self._draw.choice(_OF_UPLOADS)
            await self._expect(app, method, f"/api/v1/uploads/{upload_id}{path}")

    async def _expect(self, app: int, method: str, path: str, status: int = 404, **options: Any) -> None:
        foreign = self._note(f"{method} {path}")
        async with self._caller.request(method, app, path, **options) as response:
            foreign.status = response.status
            if response.status not in (status, *UNCLEAR):
                foreign.told = f"{response.status} instead of {status}: {(await response.text())[:300]}"

    async def _bulk(self, app: int, action: str, job_id: int) -> None:
        foreign = self._note(f"POST {_JOB}/{action} of job {job_id}")
        async with self._caller.request("POST", app, f"{_JOB}/{action}", json={"job_ids": [job_id]}) as response:
            foreign.status, answer = response.status, await response.json()
            results = [(each["job_id"], each["ok"], each.get("code")) for each in answer.get("results", ())]
            if response.status not in UNCLEAR and results != [(job_id, False, "job_not_found")]:
                foreign.told = f"{response.status} {answer}"

    async def _list(self, app: int, owner: str) -> None:
        """Ask for all jobs that one sees, and for those of another."""
        for query, wanted in (("limit=50", {self._caller.holder.owner}), (f"limit=50&user_id={owner}", set[str]())):
            foreign = self._note(f"GET {_JOB}?{query}")
            async with self._caller.request("GET", app, f"{_JOB}?{query}") as response:
                foreign.status, answer = response.status, await response.json()
                seen = {each["user_id"] for each in answer.get("items", ())}
                if response.status not in UNCLEAR and (response.status != 200 or seen - wanted):
                    foreign.told = f"{response.status}, with jobs of {seen}"

    async def _socket(self, app: int, job_id: int) -> None:
        foreign = self._note(f"a socket of job {job_id}")
        try:
            async with open_socket(self._caller, app, [job_id], self._draw):
                foreign.status, foreign.told = 101, "it was opened"
        except ClientError as error:
            foreign.status = getattr(error, "status", None)
            if foreign.status not in (404, *UNCLEAR):
                foreign.told = f"{foreign.status} instead of 404"

    def _note(self, what: str) -> Foreign:
        foreign = Foreign(what, self._caller.holder.owner)
        self._asked.append(foreign)
        return foreign
