"""A job as the page shows it: the API's own answer, and what follows from it for a reader."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from app.domain.job import SHOWN_BY_BROWSERS, Phase
from app.monitor.words import WORDS, Allowed, allowed
from app.services.links import unsigned
from app.web.answers import job_answer
from app.web.payloads import JobAnswer

if TYPE_CHECKING:
    from app.domain.job import Standing
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
        """Return what is said of it in a line; jobs.js says it of an event in the same way."""
        return f"{self.node_type} {self.value:g}/{self.most:g}" if self.most > 1 else self.node_type


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job on the page."""

    answer: JobAnswer
    title: str
    """The prompt's beginning, or what the job is instead of one."""
    has_workflow: bool
    word: str
    tried: str
    """Which attempt this is, of how many it may have; empty for the first one."""
    allowed: Allowed
    picture: OutputAnswer | None
    """The first output that has a thumbnail, or a picture in its place; a preview only if there is no other."""
    unseen: frozenset[int]
    """Outputs whose thumbnails are being made, and of which nothing can be shown meanwhile."""
    waited: Span
    """As `Job.waited_s` has it; nothing of a job whose time has not come."""
    ran: Span
    """As `Job.ran_s` has it. Where its time went, ComfyUI's own queue too, the job's timeline says."""
    step: Step | None
    """None unless the job runs and this is known."""


def show(view: JobView, snapshot: Snapshot, nodes: int | None = None) -> ShownJob:
    """Return the job for the templates; `snapshot` brings the last progress, `nodes` is the size of its graph."""
    answer, now = JobAnswer.model_validate(job_answer(view, snapshot, unsigned)), datetime.now(UTC)
    unseen = frozenset(
        output.index for output in view.outputs if output.thumbnail_due and output.content_type not in SHOWN_BY_BROWSERS
    )
    seen = [output for output in answer.outputs if output.thumbnail_url and output.index not in unseen]
    picture = next((output for output in seen if not output.preview), seen[0] if seen else None)
    return ShownJob(
        answer,
        _title(answer, nodes),
        view.job.has_workflow,
        WORDS[answer.phase],
        f"{view.job.attempt}/{view.job.attempt_limit}" if view.job.attempt > 1 else "",
        allowed(answer.phase),
        picture,
        unseen,
        _waited(view.job, now),
        _ran(view.job, now),
        step_of(snapshot),
    )


def _title(answer: JobAnswer, nodes: int | None) -> str:
    text = " ".join((answer.prompt or "").split())
    if not text and answer.upscale_model is not None:
        return f"scaled up by {answer.upscale_model}"
    if not text:
        return f"a workflow of {nodes} nodes" if nodes is not None else "a workflow"
    return text if len(text) <= _TITLE_CHARACTERS else text[:_TITLE_CHARACTERS].rstrip() + "…"


def step_of(snapshot: Snapshot) -> Step | None:
    """Return the running node; None unless the job runs and this is known."""
    node = snapshot.node
    if node is None or snapshot.phase not in (Phase.EXECUTING, Phase.CANCELLING):
        return None
    return Step(str(node["id"]), str(node["type"]), float(node["value"]), float(node["max"]))


def _waited(job: Standing, now: datetime) -> Span:
    if job.started_at or job.completed_at:
        return Span(seconds=job.waited_s(now))
    return Span(since=job.queued_at) if job.queued_at <= now else Span()


def _ran(job: Standing, now: datetime) -> Span:
    return Span(seconds=job.ran_s(now)) if job.completed_at else Span(since=job.started_at)
