"""The store of attempts: what workers do with jobs. A worker that lost its claim can change nothing."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, func, select, update

from app.domain.errors import AttemptFailed, InvalidTransition, LostClaim
from app.domain.job import Job, JobEvent, Output, Phase, Standing, Turn
from app.domain.scheduling.jobs import Candidate
from app.domain.workflow_key import workflow_key
from app.runtime.json_text import dump_kept, dumps
from app.storage.attempt_statements import (
    ANY_DUE,
    CANCELLED,
    COMPLETE,
    EXECUTING,
    FAIL,
    GIVE_UP,
    NOTE_INPUTS,
    NOTE_TURN_RENEWED,
    RENEW,
    REQUEUE,
    SAVING,
    SUBMITTING,
    TAKE_OVER,
)
from app.storage.claims import (
    AVOID_FOR,
    CANDIDATES,
    CANDIDATES_WITHIN_LIMITS,
    CLAIM,
    CLAIM_CHOSEN,
    CLAIM_CHOSEN_WITHIN_LIMITS,
    CLAIM_SUSPECT,
    CLAIM_SUSPECT_WITHIN_LIMITS,
    CLAIM_WITHIN_LIMITS,
    HEAD_START,
    RUNNING_LIMITED,
)
from app.storage.columns import STANDING_COLUMNS, job_of, standing_of
from app.storage.fair_tags import PROMOTE
from app.storage.graphs import read_whole
from app.storage.jobs import JobStore
from app.storage.schema import IS_RUNNING, AttemptRow, JobRow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from app.domain.access import Role
    from app.domain.limits import Limits
    from app.domain.scheduling.jobs import Choice, Reason
    from app.domain.workflow import Graph
    from app.storage.database import Database
    from app.storage.statements import Statement

LIMITS_S: Final = 2.0
"""Seconds for which it is remembered whether anybody's running jobs are limited, or paused: so late the first limit, or
pause, holds. While there is another one it holds at once, and so does its end."""
SMALL: Final = 500
"""Maximum number of nodes of a graph that is serialised in the event loop, within a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Facts about an attempt that are not in PostgreSQL yet: they are stored with the attempt's next step.

    Moments are seconds ago, by the worker's clock. None is what was not noticed, or is stored already.
    """

    graph: str | None = None
    """As it went to the backend, JSON."""
    workflow_key: str | None = None
    sent_s: float | None = None
    began_s: float | None = None
    """When the backend began to execute the prompt, and below when it had ended it."""
    ended_s: float | None = None
    spans: str | None = None
    """What `app.domain.node_times` keeps, JSON."""
    load_s: float | None = None
    """For how many seconds it loaded models."""


NOTHING: Final = Noted()
TICK_S: Final = 1.0
"""So old the clock of the queue may become: who sends its first job comes by so much earlier."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Which worker works on which attempt: the condition of every write that a worker makes."""

    job_id: int
    attempt: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class By:
    """Which worker claims a job for which of its backends, and under which prompt id."""

    worker_id: str
    backend: str
    prompt_id: str
    lease_s: float
    unrefused: bool = False
    """Leave out jobs that a backend has failed, for the time `HEAD_START`."""

    @property
    def asked(self) -> dict[str, Any]:
        """The parameters of a claim."""
        return asdict(self) | {"avoid_for": AVOID_FOR, "head_start": HEAD_START}


class AttemptStore(JobStore):
    """Jobs as workers see them. Methods raise `DatabaseUnavailable` while it is away."""

    def __init__(
        self,
        database: Database,
        keep_uploads: timedelta = timedelta(days=7),
        limits: Mapping[Role, Limits] | None = None,
        *,
        shares: bool = True,
    ) -> None:
        """`limits` are those of each role, where its keys do not have others."""
        super().__init__(database, keep_uploads, shares=shares)
        running = {role.value: each.running for role, each in (limits or {}).items()}
        self._running_of_roles = dumps(running)
        self.running_limited = any(each is not None for each in running.values())
        """Whether running jobs of any owner are limited: by a role's limit, or by a key or a pause when those were last
        looked at."""
        self._looked_at = -math.inf if not self.running_limited else math.inf
        """When it was, monotonic."""
        self._ticked_at = -math.inf
        """When the clock of the queue was last set by a claim, monotonic."""

    async def claim(
        self, worker_id: str, backend: str, prompt_id: str, lease_s: float, *, unrefused: bool = False
    ) -> Job | None:
        """Take the next waiting job for this backend, and return it; None when there is none.

        The largest priority goes first, then the smallest tag (`app.storage.fair_tags`). Workers that claim at the same
        time get different jobs (`SKIP LOCKED`). The prompt id is committed with the claim, so that a worker that takes
        over can look it up. A suspect is taken only on the backend that stopped while executing it. With `unrefused`,
        jobs that a backend has failed are left out for the time `HEAD_START`. Jobs are left out of owners who have as
        many running as they may.
        """
        by = By(worker_id, backend, prompt_id, lease_s, unrefused=unrefused)
        job = await self.claim_at_hand(by, warm=None)
        if job is None and await self.promote():
            job = await self.claim_at_hand(by, warm=None)
        return job

    async def claim_at_hand(self, by: By, warm: Collection[str] | None, reason: Reason | None = None) -> Job | None:
        """Take the first waiting job, as `claim` does, if its models are among `warm`; else None, and nothing is taken.

        None instead of `warm`: whatever its models are. `reason` is kept with the attempt.
        """
        choice = {"reason": reason.value, "rank": 0, "overtook": 0, "load_s": 0.0} if reason is not None else None
        asked = by.asked | {"warm": list(warm) if warm is not None else None, "choice": choice and dumps(choice)}
        return await self._claimed(CLAIM, CLAIM_WITHIN_LIMITS, asked)

    async def candidates(self, by: By, lacking: Collection[str], most: int) -> list[Candidate]:
        """Return the first `most` of the jobs that wait and may be taken, but those that need a model of `lacking`."""
        asked = {name: by.asked[name] for name in ("backend", "avoid_for", "unrefused", "head_start")}
        asked |= {"lacking": list(lacking), "most": most}
        async with self._database.driver() as connection:
            limits = await self._limits(connection)
            found = await (CANDIDATES_WITHIN_LIMITS if limits else CANDIDATES).rows(connection, **limits, **asked)
        return [candidate_of(row) for row in found]

    async def claim_chosen(self, by: By, chosen: Choice) -> Job | None:
        """Take the job that was chosen, and count that those it overtook were passed over; None if it is gone.

        Whoever claims at the same time may have taken it, or another job of an owner who may have no more running.
        """
        asked = by.asked | {
            "chosen_id": chosen.job_id,
            "overtook": list(chosen.overtook),
            "put_off_s": chosen.put_off_s,
            "due_tag": chosen.due_tag,
            "choice": dumps(chosen.told()),
        }
        return await self._claimed(CLAIM_CHOSEN, CLAIM_CHOSEN_WITHIN_LIMITS, asked)

    async def claim_suspect(self, worker_id: str, backend: str, prompt_id: str, lease_s: float) -> Job | None:
        """Take a waiting suspect (a backend stopped while executing it); None when there is none.

        Only for a backend that runs no other job and has no other job waiting for it.
        """
        asked = By(worker_id, backend, prompt_id, lease_s).asked | {"warm": None, "choice": None}
        for name in ("unrefused", "head_start"):
            del asked[name]
        return await self._claimed(CLAIM_SUSPECT, CLAIM_SUSPECT_WITHIN_LIMITS, asked)

    async def _claimed(self, plain: Statement, within_limits: Statement, asked: dict[str, Any]) -> Job | None:
        async with self._database.driver() as connection:
            limits = await self._limits(connection)
            row = await (within_limits if limits else plain).row(connection, **limits, **asked, tick=self._ticks())
        return job_of(row) if row is not None else None

    def _ticks(self) -> bool:
        """Whether the next claim is to set the clock of the queue."""
        now = time.monotonic()
        ticks = now - self._ticked_at >= TICK_S
        if ticks:
            self._ticked_at = now
        return ticks

    async def _limits(self, connection: Any) -> dict[str, str]:
        """Return the parameter of claims within limits; none while no owner's running jobs are limited."""
        now = time.monotonic()
        if now - self._looked_at > LIMITS_S:
            self.running_limited = bool(await RUNNING_LIMITED.value(connection))
            self._looked_at = now
        return {"running_of_roles": self._running_of_roles} if self.running_limited else {}

    async def submitting(self, claim: Claim, prompt_id: str, graph: Graph, ago_s: float | None = 0.0) -> None:
        """Store the graph that is sent now, or was sent `ago_s` seconds ago; None if that is not known.

        Raises `LostClaim`.
        """
        told, key = await written(graph)
        async with self._database.driver() as connection:
            kept = await SUBMITTING.value(
                connection, **_fence_of(claim), prompt_id=prompt_id, graph=told, workflow_key=key, sent_s=ago_s
            )
        if kept is None:
            raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")

    async def note_inputs(self, claim: Claim, job: Job, upload_ids: Sequence[str]) -> None:
        """Store which uploads stand for the URLs that a job names, and that it needs them; raises `LostClaim`."""
        async with self._database.driver() as connection:
            held = await NOTE_INPUTS.value(
                connection,
                **_fence_of(claim),
                image=dumps(job.image) if job.image is not None else None,
                mask=dumps(job.mask) if job.mask is not None else None,
                inputs=dumps(job.inputs),
                width=job.width,
                height=job.height,
                upload_ids=list(upload_ids),
                keep=self._keep_uploads,
            )
        if held is None:
            raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")

    async def executing(self, claim: Claim, *, noted: Noted = NOTHING) -> Standing:
        """Store that ComfyUI began to execute the prompt; just now, unless `noted` says when."""
        noted = replace(noted, began_s=noted.began_s or 0.0)
        return await self._step(JobEvent.EXECUTING, EXECUTING, claim, noted)

    async def saving(self, claim: Claim, *, noted: Noted = NOTHING) -> Standing:
        """Store that ComfyUI has executed the prompt; just now, unless `noted` says when."""
        noted = replace(noted, ended_s=noted.ended_s or 0.0)
        return await self._step(JobEvent.SAVING, SAVING, claim, noted)

    async def complete(
        self,
        claim: Claim,
        outputs: Sequence[Output],
        warnings: Sequence[str] = (),
        *,
        noted: Noted = NOTHING,
    ) -> Standing:
        """Commit content, outputs and `completed` together, when all files are in the store. A run may leave no files.

        With the time at which the run ended, a job whose `saving` was not stored goes through that phase in the same
        statement.
        """
        rows = dumps([asdict(output) for output in outputs])
        return await self._step(JobEvent.COMPLETED, COMPLETE, claim, noted, outputs=rows, warnings=list(warnings))

    async def fail(self, claim: Claim, error: AttemptFailed, *, noted: Noted = NOTHING) -> Standing:
        """End the job as failed."""
        return await self._step(JobEvent.FAILED, FAIL, claim, noted, **_error_of(error))

    async def requeue(
        self,
        claim: Claim,
        error: AttemptFailed,
        delay_s: float,
        avoid: Sequence[str] = (),
        *,
        suspect: bool = False,
        counted: bool = True,
        noted: Noted = NOTHING,
    ) -> Standing:
        """Let the job wait at least `delay_s` seconds for another attempt, which avoids the backends `avoid`.

        `suspect`: the backend stopped while it executed the job; see `claim_suspect`. If not `counted`, the attempt
        does not use up one of the attempts that the job may have.
        """
        return await self._step(
            JobEvent.REQUEUED,
            REQUEUE,
            claim,
            noted,
            **_error_of(error),
            delay_s=delay_s,
            avoid=list(avoid),
            suspicions=int(suspect),
            uncounted=int(not counted),
        )

    async def cancelled(self, claim: Claim, *, noted: Noted = NOTHING) -> Standing:
        """ComfyUI confirmed that the prompt no longer runs."""
        return await self._step(JobEvent.CANCELLED, CANCELLED, claim, noted)

    async def renew_leases(self, worker_id: str, held: Mapping[Claim, int], lease_s: float) -> dict[int, Phase]:
        """Renew in one statement the leases of what this worker runs, and keep its progress (claim → percent).

        Returns job id → phase of those that are still its own; the others were given to another worker, and
        what is `cancelling` is to be cancelled.
        """
        async with self._database.driver() as connection:
            found = await RENEW.rows(
                connection,
                worker_id=worker_id,
                lease_s=lease_s,
                job_ids=[claim.job_id for claim in held],
                attempts=[claim.attempt for claim in held],
                percents=list(held.values()),
            )
        return {row["id"]: Phase(row["phase"]) for row in found}

    async def take_over(
        self,
        worker_id: str,
        backends: Sequence[str],
        lease_s: float,
        limit: int,
        *,
        held: Sequence[int] = (),
        over_for_s: float = 0.0,
    ) -> list[Standing]:
        """Take running attempts whose lease expired at least `over_for_s` seconds ago, on backends of this worker.

        Attempt and prompt id stay the same: the prompt may be running in ComfyUI. The graphs are not returned; read a
        job with its graph by `whole`. `held` are the jobs that this worker itself runs. They are left out, because it
        still has them when it was only too slow to renew their leases.
        """
        async with self._database.driver() as connection:
            rows = await TAKE_OVER.rows(
                connection,
                worker_id=worker_id,
                backends=list(backends),
                lease_s=lease_s,
                held=list(held),
                limit=limit,
                over_for_s=over_for_s,
            )
        return [standing_of(row) for row in rows]

    async def whole(self, job_id: int) -> Job:
        """Return the job with its graph, or raise `JobNotFound`."""
        async with self._database.driver() as connection:
            return await read_whole(connection, job_id, None)

    async def abandoned(self, for_s: float, limit: int) -> list[Standing]:
        """Return running jobs whose lease ran out `for_s` seconds ago, and that no worker has taken over."""
        ago = func.now() - timedelta(seconds=for_s)
        statement = select(*STANDING_COLUMNS).where(IS_RUNNING, JobRow.lease_expires_at < ago)
        async with self._database.transaction() as session:
            rows = await session.execute(statement.order_by(JobRow.id).limit(limit))
            return [standing_of(row) for row in rows.mappings()]

    async def last_error(self, claim: Claim) -> tuple[str | None, str | None]:
        """Return error code and backend of the attempt before this one; None for what is absent."""
        before = [AttemptRow.job_id == claim.job_id, AttemptRow.number == claim.attempt - 1]
        asked = select(AttemptRow.error_code, AttemptRow.backend_name).where(*before)
        async with self._database.transaction() as session:
            found = (await session.execute(asked)).one_or_none()
        return (found[0], found[1]) if found is not None else (None, None)

    async def completed_elsewhere(self, job_ids: Sequence[int], backend: str) -> list[int]:
        """Return those of the jobs that were completed on another backend than this one."""
        done = [JobRow.status == "completed", JobRow.backend_name != backend]
        async with self._database.transaction() as session:
            return list(await session.scalars(select(JobRow.id).where(JobRow.id.in_(job_ids), *done)))

    async def give_up(self, errors: Mapping[Turn, str], error_code: str, wait_s: float, actor: str) -> list[Standing]:
        """Let jobs fail that still wait for these turns, and could have been taken for `wait_s` seconds; return them.

        `errors` are their messages.
        """
        async with self._database.driver() as connection:
            rows = await GIVE_UP.rows(
                connection,
                job_ids=[turn.job_id for turn in errors],
                attempts=[turn.attempt for turn in errors],
                errors=list(errors.values()),
                error_code=error_code,
                wait_s=wait_s,
                actor=actor,
            )
        return [standing_of(row) for row in rows]

    async def any_due(self) -> bool:
        """Whether any job waits that could run now."""
        async with self._database.driver() as connection:
            return bool(await ANY_DUE.value(connection))

    async def promote(self) -> bool:
        """Give jobs their places in the queue that have become due; return whether there were any."""
        async with self._database.driver() as connection:
            return bool(await PROMOTE.rows(connection, shares=self._shares))

    async def note_turn_renewed(self, job_id: int, actor: str) -> None:
        """Note in a waiting job's history that its turn had been lost."""
        async with self._database.driver() as connection:
            await NOTE_TURN_RENEWED.row(connection, job_id=job_id, actor=actor)

    async def stale_prompts(self, prompt_ids: Sequence[str]) -> list[str]:
        """Return those of the prompts that belong to one of our attempts that has ended or was given up."""
        live = select(JobRow.prompt_id).where(JobRow.prompt_id.in_(prompt_ids), IS_RUNNING)
        ours = select(AttemptRow.prompt_id).where(AttemptRow.prompt_id.in_(prompt_ids))
        async with self._database.transaction() as session:
            running = set(await session.scalars(live))
            return [prompt_id for prompt_id in await session.scalars(ours) if prompt_id not in running]

    async def release(self, claim: Claim) -> None:
        """End the lease of a running attempt, so that another worker takes it over; the prompt runs on in ComfyUI."""
        async with self._database.transaction() as session:
            statement = update(JobRow).where(*_fence(claim), JobRow.status == "running")
            await session.execute(statement.values(lease_expires_at=func.now() - timedelta(seconds=1)))

    async def _step(self, event: JobEvent, statement: Statement, claim: Claim, noted: Noted, **values: Any) -> Standing:
        """Make a transition; raises `LostClaim`, `InvalidTransition` or `JobNotFound` when it cannot be made."""
        async with self._database.driver() as connection:
            row = await statement.row(connection, **_fence_of(claim), **_noted(noted), **values)
        if row is not None:
            return standing_of(row)
        found = await self.get(claim.job_id)
        if (found.attempt, found.worker_id) != (claim.attempt, claim.worker_id):
            raise LostClaim(f"Attempt {claim.attempt} of job {claim.job_id} is no longer this worker's.")
        raise InvalidTransition(found.phase, event)


async def written(graph: Graph) -> tuple[str, str]:
    """Return the graph as JSON, and its `workflow_key`. For a graph of many nodes a thread does the work."""
    if len(graph) <= SMALL:
        return _written(graph)
    return await asyncio.to_thread(_written, graph)


def _written(graph: Graph) -> tuple[str, str]:
    return dump_kept(graph), workflow_key(graph)


def _fence(claim: Claim) -> list[ColumnElement[bool]]:
    return [JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.worker_id == claim.worker_id]


def _fence_of(claim: Claim) -> dict[str, Any]:
    """Return the parameters of `transitions.FENCE`."""
    return {"job_id": claim.job_id, "attempt": claim.attempt, "worker_id": claim.worker_id}


def _noted(noted: Noted) -> dict[str, Any]:
    """Return the parameters of `transitions.NOTED`."""
    return {name: getattr(noted, name) for name in Noted.__dataclass_fields__}


def _error_of(error: AttemptFailed) -> dict[str, Any]:
    """Return the parameters of an error in `FAIL` and `REQUEUE`."""
    return {
        "error_code": error.code,
        "error": str(error),
        "node_id": error.node_id,
        "node_type": error.node_type,
        "traceback": error.traceback,
    }


def candidate_of(row: Any) -> Candidate:
    """Return the waiting job of a row that `claims` considers."""
    return Candidate(
        row["id"],
        row["user_id"],
        frozenset(row["models"]),
        row["cost_s"],
        row["priority"],
        row["overtaken"],
        row["overtaken_s"],
        prefer=row["prefer"],
        only=row["backend"],
        refused_by=frozenset(row["refused_by"]),
        fair_tag=row["fair_tag"],
        model_key=row["model_key"],
    )
