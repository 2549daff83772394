"""A job as the page shows it: the API's own answer, and what follows from it for a reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.job import Phase
from app.monitor.words import WORDS, Allowed, allowed
from app.web.answers import job_answer
from app.web.payloads import JobAnswer

if TYPE_CHECKING:
    from datetime import datetime

    from app.domain.message import Snapshot
    from app.storage.whole_jobs import JobView
    from app.web.payloads import OutputAnswer

_TITLE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time: over, with `seconds`, or still going on, `since` then. Neither: not known."""

    seconds: float | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job on the page."""

    answer: JobAnswer
    title: str
    """The prompt's beginning, or what the job is instead of one."""
    word: str
    allowed: Allowed
    picture: OutputAnswer | None
    """The first output that has a thumbnail."""
    waited: Span
    """Until ComfyUI began with its first attempt; a later one's wait is not known once it is over."""
    ran: Span
    """Its last attempt, from when ComfyUI began with it."""


def show(view: JobView, snapshot: Snapshot) -> ShownJob:
    """Return the job for the templates; `snapshot` brings the last progress."""
    answer = JobAnswer.model_validate(job_answer(view, snapshot))
    picture = next((output for output in answer.outputs if output.thumbnail_url), None)
    return ShownJob(
        answer, _title(answer), WORDS[answer.phase], allowed(answer.phase), picture, _waited(view), _ran(view)
    )


def _title(answer: JobAnswer) -> str:
    text = " ".join((answer.prompt or "").split())
    if not text:
        return f"a workflow of {len(answer.workflow or {})} nodes"
    return text if len(text) <= _TITLE_CHARACTERS else text[:_TITLE_CHARACTERS].rstrip() + "…"


def _waited(view: JobView) -> Span:
    job = view.job
    if job.phase in (Phase.QUEUED, Phase.RETRYING):
        return Span(since=job.created_at if job.attempt == 1 else job.updated_at)
    if job.attempt > 1:
        return Span()
    # A job that a worker has taken may still wait in ComfyUI's own queue.
    first = view.attempts[0] if view.attempts else None
    end = (first and first.executing_at) or job.completed_at
    return Span(seconds=(end - job.created_at).total_seconds()) if end else Span(since=job.created_at)


def _ran(view: JobView) -> Span:
    last = view.attempts[-1] if view.attempts else None
    if last is None or last.number != view.job.attempt or last.executing_at is None:
        return Span()
    end = last.ended_at or view.job.completed_at
    return Span(seconds=(end - last.executing_at).total_seconds()) if end else Span(since=last.executing_at)
