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
class Step:
    """The node at work, and how far it is of how much."""

    node: str
    node_type: str
    value: float
    most: float

    @property
    def words(self) -> str:
        """Return what is said of it in a line; monitor.js says it of an event in the same way."""
        return f"{self.node_type} {self.value:g}/{self.most:g}" if self.most > 1 else self.node_type


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
    step: Step | None
    """None unless it runs, and somebody has told."""


def show(view: JobView, snapshot: Snapshot) -> ShownJob:
    """Return the job for the templates; `snapshot` brings the last progress."""
    answer = JobAnswer.model_validate(job_answer(view, snapshot))
    picture = next((output for output in answer.outputs if output.thumbnail_url), None)
    return ShownJob(
        answer,
        _title(answer),
        WORDS[answer.phase],
        allowed(answer.phase),
        picture,
        _waited(view),
        _ran(view),
        step_of(snapshot),
    )


def _title(answer: JobAnswer) -> str:
    text = " ".join((answer.prompt or "").split())
    if not text:
        return f"a workflow of {len(answer.workflow or {})} nodes"
    return text if len(text) <= _TITLE_CHARACTERS else text[:_TITLE_CHARACTERS].rstrip() + "…"


def step_of(snapshot: Snapshot) -> Step | None:
    """Return the node at work; None unless it runs, and somebody has told."""
    node = snapshot.node
    if node is None or snapshot.phase not in (Phase.EXECUTING, Phase.CANCELLING):
        return None
    return Step(str(node["id"]), str(node["type"]), float(node["value"]), float(node["max"]))


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
