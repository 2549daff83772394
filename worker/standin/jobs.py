"""Queue and history as jobs, in the words of `/api/jobs`."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from worker.standin.prompt_queue import PromptQueue, QueueItem, without_secrets

STATES: Final = ("pending", "in_progress", "completed", "failed", "cancelled")

_PREVIEWED_KEYS: Final = frozenset({"images", "video", "audio", "3d", "text"})
_THREE_D: Final = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_TEXTS: Final = (".txt", ".md", ".json")
_LONGEST_TEXT: Final = 1024


def all_jobs(queue: PromptQueue) -> list[dict[str, Any]]:
    """Return all jobs as a list shows them, in no order."""
    jobs = [_waiting(item, "pending") for item in queue.pending]
    if queue.running is not None:
        jobs.insert(0, _waiting(queue.running, "in_progress"))
    return [*jobs, *(_ended(prompt_id, entry) for prompt_id, entry in queue.history.items())]


def one_job(queue: PromptQueue, prompt_id: str) -> dict[str, Any] | None:
    """Return a job with all that is told of it, or None if there is none."""
    if (entry := queue.history.get(prompt_id)) is not None:
        _, _, graph, extra, _ = entry["prompt"]
        return _ended(prompt_id, entry) | {
            "outputs": entry["outputs"],
            "execution_status": entry["status"],
            "workflow": {"prompt": graph, "extra_data": extra},
        }
    if queue.running is not None and queue.running[1] == prompt_id:
        return _waiting(queue.running, "in_progress")
    item = next((item for item in queue.pending if item[1] == prompt_id), None)
    return None if item is None else _waiting(item, "pending")


def in_order(jobs: Iterable[dict[str, Any]], by: str, *, descending: bool) -> list[dict[str, Any]]:
    """Return jobs sorted by when they came, or by how long they ran."""

    def duration(job: Mapping[str, Any]) -> float:
        start, end = job.get("execution_start_time", 0), job.get("execution_end_time", 0)
        return float(end - start) if start and end else 0.0

    def created(job: Mapping[str, Any]) -> float:
        return float(job.get("create_time", 0))

    return sorted(jobs, key=duration if by == "execution_duration" else created, reverse=descending)


def _waiting(item: QueueItem, state: str) -> dict[str, Any]:
    """Return a job that waits or runs."""
    number, prompt_id, _, extra, _ = without_secrets(item)
    job = {"id": prompt_id, "status": state, "priority": number}
    return job | _origin(extra) | {"outputs_count": 0, "previewable_outputs_count": 0}


def _ended(prompt_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job that has ended."""
    number, _, _, extra, _ = entry["prompt"]
    messages = {kind: data for kind, data in entry["status"]["messages"]}
    end = next((kind for kind in messages if kind in _ENDS), "execution_success")
    job = {"id": prompt_id, "status": _ENDS[end], "priority": number} | _origin(extra)
    if "execution_start" in messages:
        job["execution_start_time"] = messages["execution_start"]["timestamp"]
    if end in messages:
        job["execution_end_time"] = messages[end]["timestamp"]
    if end == "execution_error":
        job["execution_error"] = messages[end]
    return job | _summary(entry["outputs"])


_ENDS: Final = {
    "execution_success": "completed",
    "execution_error": "failed",
    "execution_interrupted": "cancelled",
}


def _origin(extra: Any) -> dict[str, Any]:
    """Return when a job came and of which workflow it is, as far as it says so."""
    if not isinstance(extra, dict):
        return {}
    workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
    told = {"create_time": extra.get("create_time"), "workflow_id": workflow.get("id")}
    return {key: value for key, value in told.items() if value is not None}


def _summary(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many outputs there are, how many can be looked at, and the one to show."""
    count, previewable = 0, 0
    ranked: dict[int, dict[str, Any]] = {}
    for node_id, shown in outputs.items():
        for key, members in shown.items():
            if key == "animated" or not isinstance(members, list):
                continue
            for member in members:
                if isinstance(member, dict):
                    count += 1
                    seen = _is_previewable(key, member)
                    previewable += seen
                    if seen:
                        told = {**member, "nodeId": node_id, "mediaType": member.get("mediaType", key)}
                        ranked.setdefault(_rank(key, member), told)
                elif key == "text" and member is not None:
                    ranked.setdefault(3, _text_preview(str(member)) | {"nodeId": node_id, "mediaType": key})
    preview = ranked[min(ranked)] if ranked else None
    found: dict[str, Any] = {"outputs_count": count, "previewable_outputs_count": previewable}
    return found if preview is None else found | {"preview_output": preview}


def _is_previewable(key: str, member: Mapping[str, Any]) -> bool:
    """Tell whether an output can be looked at."""
    name, form = str(member.get("filename", "")).lower(), str(member.get("format") or "")
    return key in _PREVIEWED_KEYS or form.startswith(("video/", "audio/")) or name.endswith((*_THREE_D, *_TEXTS))


def _rank(key: str, member: Mapping[str, Any]) -> int:
    """Return which outputs are shown before others: saved pictures, other pictures, saved texts, bare texts."""
    if key == "text" or str(member.get("filename", "")).lower().endswith(_TEXTS):
        return 2
    return 0 if member.get("type") == "output" else 1


def _text_preview(text: str) -> dict[str, Any]:
    """Return a text, or its beginning."""
    if len(text) <= _LONGEST_TEXT:
        return {"content": text}
    return {"content": text[:_LONGEST_TEXT], "truncated": True}
