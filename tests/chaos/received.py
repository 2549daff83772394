"""The promises of the WebSocket, checked on every frame that a client received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.message import SEQ_STRIDE
from app.web.socket_client import SIGNED_OUT
from tests.chaos.clients import TERMINAL
from tests.chaos.evidence import Evidence, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.clients import Connection

CLOSE_CODES: Final = (1000, 1001, 1006, SIGNED_OUT, None)
"""All finished; server going away; killed; the key is revoked."""


def frames(evidence: Evidence) -> Iterator[Violation]:
    """Check every connection by itself."""
    for connection in evidence.record.connections:
        yield from _connection(evidence, connection)
    for fault in evidence.record.faults:
        yield Violation("clients see no fault", fault)


def _connection(evidence: Evidence, connection: Connection) -> Iterator[Violation]:
    ended: set[int] = set()
    last: dict[int, int] = {}
    progress: dict[tuple[int, int | None], int] = {}
    for at, frame in connection.frames:
        job_id = frame.get("job_id")
        told = f"{_name(connection)}: {at:.3f} {frame}"
        if job_id not in connection.job_ids:
            yield Violation("only what is watched", told)
            continue
        seq = frame["seq"]
        if job_id in ended:
            yield Violation("nothing after the end", told, (job_id,))
        if seq <= last.get(job_id, -1):
            yield Violation("seq rises", f"{told} after {last[job_id]}", (job_id,))
        last[job_id] = seq
        attempt = evidence.attempt_at(job_id, seq // SEQ_STRIDE)
        if attempt is None:
            yield Violation("only what is committed", told, (job_id,))
        elif not _true(evidence, job_id, frame):
            yield Violation("only what is committed", f"{told}, but the event is another", (job_id,))
        if "progress" in frame:
            if frame["progress"] < progress.get((job_id, attempt), 0):
                fell = f"{told} after {progress[job_id, attempt]} % in attempt {attempt}"
                yield Violation("progress never falls", fell, (job_id,))
            progress[job_id, attempt] = frame["progress"]
        if frame["status"] in TERMINAL:
            ended.add(job_id)
    missing = tuple(set(connection.job_ids) - ended)
    if connection.close_code == 1000 and missing:
        yield Violation("closed at the end only", f"{_name(connection)}: 1000 without the end of {missing}", missing)
    if connection.close_code not in CLOSE_CODES:
        yield Violation("closed with a reason", f"{_name(connection)}: {connection.close_code}", missing)


def _true(evidence: Evidence, job_id: int, frame: dict[str, Any]) -> bool:
    """Whether an end that was told is the one that was committed."""
    phase: str = evidence.events[job_id][frame["seq"] // SEQ_STRIDE - 1]["phase"]
    status: str = frame["status"]
    return status == phase or not {status, phase} & set(TERMINAL)


def _name(connection: Connection) -> str:
    return f"client {connection.number} at app{connection.app}, {connection.opened_at:.3f}"
