"""Jobs, contents, backends and workers as they go over the wire: plain data of the shape that `payloads` describes.

They are not made through those models: checking our own answers like foreign input would cost more than
the rest of it (a test does that once).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.domain.heartbeats import backend_beat
from app.domain.job import Attempt, Output, Phase, Standing
from app.domain.message import timestamp
from app.domain.scheduling.jobs import CHOICE
from app.domain.text import printable
from app.services.links import output_path, thumbnail_path
from app.web.payloads import PauseAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.domain.errors import Fault
    from app.domain.heartbeats import BackendBeat, WorkerBeat
    from app.domain.message import Snapshot
    from app.domain.pauses import Pause
    from app.domain.run_times import Range
    from app.domain.uploads import Upload
    from app.domain.worker_states import WorkerState
    from app.runtime.json_text import Written
    from app.services.eta import Estimate
    from app.services.submit import DryRun
    from app.storage.backend_states import BackendState
    from app.storage.fleet_figures import Loading
    from app.storage.job_views import Event
    from app.storage.whole_jobs import JobView

_SAME = [
    *("user_id", "job_type", "prompt", "negative_prompt", "checkpoint_model", "lora_models"),
    *("batch_size", "sampler_params", "backend", "prefer", "priority", "max_attempts"),
    *("timeout_seconds", "metadata", "params", "status", "phase", "attempt"),
    *("image", "mask", "inputs", "upscale_model"),
    *("backend_name", "content_id", "error_message", "error_code", "cancel_reason"),
    *("warnings", "job_id", "task_id"),
]
"""Fields that go out under the name that they have."""
_SOURCE = ("filename", "subfolder", "type", "key")
_TIMES = ["not_before", "created_at", "updated_at", "started_at", "completed_at"]


def job_answer(
    view: JobView,
    snapshot: Snapshot,
    signed: Callable[[str], str],
    estimate: Estimate | None = None,
    obstacle: str | None = None,
    *,
    workflow: Written | dict[str, Any] | None = None,
    extra_pnginfo: Written | None = None,
    now: datetime | None = None,
    root: str = "",
) -> dict[str, Any]:
    """Return a job as the API shows it.

    `snapshot` brings the last progress, `signed` makes links of paths, `now` is the moment that timings end, and
    `workflow` the graph that the client sent, which a list leaves out, as it does `extra_pnginfo`. `root` stands before
    each address, as `proxies.root_path` returns it, here and in the other answers.
    """
    job, end = view.job, estimate.end if estimate is not None else None
    return {
        **{name: getattr(job, name) for name in _SAME},
        **{name: _time(getattr(job, name)) for name in _TIMES},
        # 0 is the size of a picture that is still to be fetched.
        "width": job.width or None,
        "height": job.height or None,
        "id": job.job_id,
        "celery_task_id": job.task_id,
        "workflow": workflow,
        "extra_pnginfo": extra_pnginfo,
        "seq": snapshot.order,
        "progress": 100 if job.phase is Phase.COMPLETED else snapshot.progress,
        "queue_position": view.position,
        "eta_seconds": round(end.likely_s, 1) if end is not None else None,
        "eta_range": _range(end),
        "begin_range": _range(estimate.time) if estimate is not None and estimate.turn else None,
        "waits_because": view.pause.words if view.pause is not None else obstacle,
        "comfyui_prompt_id": job.prompt_id,
        "output_paths": [output.path for output in view.outputs],
        "outputs": [output_answer(job.content_id or 0, output, signed, root) for output in view.outputs],
        "attempts": [attempt_answer(attempt) for attempt in view.attempts],
        "timings": _timings(job, view.attempts, now or datetime.now(UTC)),
        "links": _links(job, root),
    }


def output_answer(content_id: int, output: Output, signed: Callable[[str], str], root: str = "") -> dict[str, Any]:
    """Return an output with the addresses of its bytes."""
    url, small = output_path(content_id, output.index), None
    if output.thumbnail_path or output.thumbnail_due:
        small = thumbnail_path(content_id, output.index)
    return {
        "index": output.index,
        "node_id": output.node_id,
        "kind": output.kind,
        "content_type": output.content_type,
        "size_bytes": output.size_bytes,
        "width": output.width,
        "height": output.height,
        "sha256": output.sha256,
        "url": root + url,
        "thumbnail_url": root + small if small is not None else None,
        "signed_url": root + signed(url),
        "signed_thumbnail_url": root + signed(small) if small is not None else None,
        "preview": output.preview,
        "source": {name: output.source.get(name) for name in _SOURCE} if output.source is not None else None,
    }


def check_answer(
    found: DryRun, position: int, wait: Range | None, run: Range | None, pauses: Sequence[Pause]
) -> dict[str, Any]:
    """Return what would become of a job; `pauses` are those of its user, and of everybody."""
    eligible = [each.backend for each in found.backends if each.is_known and not each.faults]
    return {
        "accepted": found.refusal is None,
        "faults": fault_answers(found.refusal.faults) if found.refusal is not None else [],
        "warnings": found.job.warnings if found.refusal is None else [],
        "eligible_backends": eligible,
        "backends": [
            {
                "backend": each.backend,
                "eligible": each.backend in eligible,
                "idle_reason": each.idle_reason,
                "known": each.is_known,
                "faults": fault_answers(each.faults),
                "warnings": each.warnings,
            }
            for each in found.backends
        ],
        "checkpoint_model": found.job.checkpoint_model,
        "width": found.job.width or None,
        "height": found.job.height or None,
        "position": position,
        # Until when it is paused nobody knows.
        "wait_seconds": _range(wait) if not pauses else None,
        "waits_because": pauses[0].words if pauses else None,
        "run_seconds": _range(run),
    }


def fault_answers(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """Return the faults of a request."""
    return [
        {
            "pointer": printable(fault.pointer),
            "code": fault.code,
            "detail": printable(fault.detail),
            "allowed": list(fault.allowed) or None,
            "suggestion": fault.suggestion,
        }
        for fault in faults
    ]


def _range(found: Range | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {"low": round(found.low_s, 1), "likely": round(found.likely_s, 1), "high": round(found.high_s, 1)}


def upload_answer(upload: Upload, root: str = "") -> dict[str, Any]:
    """Return an upload with the address of its bytes."""
    return {
        "upload_id": upload.upload_id,
        "user_id": upload.user_id,
        "sha256": upload.sha256,
        "kind": upload.kind,
        "content_type": upload.content_type,
        "size_bytes": upload.size_bytes,
        "width": upload.width,
        "height": upload.height,
        "duration_seconds": upload.duration_s,
        "created_at": timestamp(upload.created_at),
        "expires_at": timestamp(upload.expires_at),
        "url": f"{root}/api/v1/uploads/{upload.upload_id}/data",
    }


def pause_answer(pause: Pause | None) -> PauseAnswer | None:
    """Return a pause."""
    return PauseAnswer(since=pause.since, by=pause.by, reason=pause.reason) if pause is not None else None


def attempt_answer(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt."""
    return {
        "number": attempt.number,
        "worker": attempt.worker_id,
        "backend": attempt.backend_name,
        "prompt_id": attempt.prompt_id,
        "started_at": _time(attempt.claimed_at),
        "submitted_at": _time(attempt.submitted_at),
        "executing_at": _time(attempt.executing_at),
        "executed_at": _time(attempt.executed_at),
        "ended_at": _time(attempt.ended_at),
        "outcome": attempt.outcome,
        "error_code": attempt.error_code,
        "error": attempt.error_message,
        "node_id": attempt.node_id,
        "node_type": attempt.node_type,
        "choice": _choice(attempt.choice),
        "load_s": round(attempt.load_s, 3) if attempt.load_s is not None else None,
    }


def _choice(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return why a backend took a job; null is what was not told."""
    return {name: told.get(name) for name in CHOICE} if told is not None else None


def content_answer(
    content_id: int,
    job_id: int,
    created_at: datetime,
    outputs: list[Output],
    signed: Callable[[str], str],
    root: str = "",
) -> dict[str, Any]:
    """Return what a job left."""
    listed = [output_answer(content_id, output, signed, root) for output in outputs]
    return {"content_id": content_id, "job_id": job_id, "created_at": timestamp(created_at), "outputs": listed}


def event_answer(event: Event) -> dict[str, Any]:
    """Return a step of a job's life."""
    return {
        "seq": event.seq,
        "timestamp": timestamp(event.at),
        "event": event.event,
        "phase": event.phase,
        "attempt": event.attempt,
        "actor": event.actor,
        "data": event.data,
    }


def backend_answer(
    name: str, found: BackendBeat | None, decided: BackendState | None, loading: Loading | None
) -> dict[str, Any]:
    """Return a backend without its address, which may hold a secret; one without a heartbeat is drained.

    `loading` is what it loaded in the last hour; None if that is not known.
    """
    beat = found or backend_beat(name, 0, live=False, fields={})
    drained = beat.drained is True
    return {
        "name": name,
        "live": beat.live,
        "state": beat.condition if found is not None else "unknown",
        "healthy": beat.healthy,
        "reason": beat.reason,
        "since": _time(beat.since),
        "age_seconds": round(found.age_s, 1) if found is not None else None,
        "drained": drained,
        "asked": decided.awaited(drained) if decided is not None else None,
        "driver": beat.driver,
        "version": beat.version,
        "slots": beat.slots,
        "used": beat.used,
        "current": list(beat.current),
        "queue_own": beat.own,
        "queue_foreign": beat.foreign,
        "models": list(beat.models),
        "speed": beat.speed,
        "loads_last_hour": loading.runs if loading is not None else None,
        "load_seconds_last_hour": round(loading.seconds, 1) if loading is not None else None,
        "vram_total_bytes": beat.vram_total or None,
        "vram_used_bytes": beat.vram_used,
    }


def worker_answer(beat: WorkerBeat, asked: WorkerState | None) -> dict[str, Any]:
    """Return a worker; `asked` is the state that it was last asked to be in."""
    return {
        "name": beat.name,
        "live": beat.live,
        "state": beat.state,
        "asked": asked if asked != beat.state else None,
        "age_seconds": round(beat.age_s, 1),
        "host": beat.host,
        "pid": beat.pid,
        "version": beat.version,
        "started_at": _time(beat.started_at),
        "backends": list(beat.backends),
        "slots": beat.slots,
        "used": beat.used,
        "running": list(beat.running),
        "done": beat.done,
        "failed": beat.failed,
        "memory_bytes": beat.memory_bytes,
    }


def _timings(job: Standing, attempts: list[Attempt], now: datetime) -> dict[str, int | None]:
    last = attempts[-1] if attempts and attempts[-1].number == job.attempt else None
    began = (last.executing_at or last.submitted_at) if last else None
    executed = last.executed_at if last else None
    ended = job.completed_at or (last.ended_at if last else None)
    return {
        "queued_ms": round(job.waited_s(now) * 1000),
        "execution_ms": _ms(began, executed or ended or now) if began else None,
        "saving_ms": _ms(executed, ended or now) if executed else None,
        "total_ms": _ms(job.created_at, job.completed_at or now),
    }


def _time(at: datetime | None) -> str | None:
    return timestamp(at) if at is not None else None


def _ms(start: datetime | None, end: datetime | None) -> int | None:
    return max(0, round((end - start).total_seconds() * 1000)) if start and end else None


def _links(job: Standing, root: str) -> dict[str, str]:
    base = f"{root}/api/v1/generation-jobs/{job.job_id}"
    links = {"self": base, "events": f"{base}/events", "workflow": f"{base}/workflow"}
    links["ws"] = f"{root}/ws/jobs/{job.job_id}"
    links |= {"cancel": f"{base}/cancel"} if not job.completed_at else {}
    links |= {"retry": f"{base}/retry"} if job.phase in (Phase.FAILED, Phase.CANCELLED) else {}
    if job.content_id is not None:
        links["content"] = f"{root}/api/v1/contents/{job.content_id}"
    return links
