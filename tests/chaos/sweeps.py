"""The sweep under fire: workers are asked for it again and again, and may delete nothing that a job still needs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import QueueUnavailable
from app.messaging.channels import Names
from app.messaging.operator_messages import OperatorMessages
from app.messaging.redis_connection import make_redis
from tests.chaos.clients import TERMINAL
from tests.chaos.evidence import Evidence, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.processes import Fleet

EVERY_S: Final = 1.0
DELETED_LATER: Final = "input_unavailable"
"""How a job fails that was tried again by hand when its picture had had its day."""
_NEEDED: Final = """
    SELECT job_id, path FROM job_uploads
    JOIN generation_jobs AS job ON job.id = job_id JOIN uploads AS upload ON upload.id = upload_id
    WHERE job.status IN ('pending', 'running')"""


class Sweeps:
    """Asks for sweeps, and looks after each whether every file that a waiting or running job needs is there."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.asked = 0
        self.looked_for = 0
        """How many files were looked for."""
        self.violations: list[Violation] = []

    async def run(self) -> None:
        """Go on for ever; servers come and go meanwhile."""
        redis = make_redis(self._fleet.settings, patient=False)
        try:
            messages = OperatorMessages(redis, Names(self._fleet.settings.redis_namespace))
            for number in itertools.count():
                with contextlib.suppress(QueueUnavailable):
                    # Another "last run" each time: what is asked for twice at the same one is asked for once.
                    self.asked += await messages.ask_to_run("sweep", f"chaos {number}")
                await asyncio.sleep(EVERY_S)
                try:
                    await self._look()
                except Exception:  # noqa: BLE001, S112 - whatever PostgreSQL says in the middle of a restart
                    continue
        finally:
            await redis.aclose()

    async def _look(self) -> None:
        rows = await self._fleet.query(_NEEDED)
        self.looked_for += len(rows)
        missing = [row for row in rows if not self._is_there(row)]
        if missing:
            # A job may have ended between the two looks, and its file been deleted rightly.
            still = await self._fleet.query(f"{_NEEDED} AND job_id = ANY($1)", [row["job_id"] for row in missing])
            self.violations += [
                Violation(
                    "no upload is lost", f"job {row['job_id']} needs {row['path']}, which is gone", (row["job_id"],)
                )
                for row in still
                if row in missing and not self._is_there(row)
            ]

    def _is_there(self, row: dict[str, Any]) -> bool:
        return (self._fleet.store / row["path"]).is_file()


def is_excused(evidence: Evidence, job_id: int) -> bool:
    """Whether a job failed for want of a file that it had no claim to: it had ended, and was tried again by hand."""
    events = [event["event"] for event in evidence.events.get(job_id, [])]
    return evidence.jobs[job_id]["error_code"] == DELETED_LATER and "retried" in events


def needed_uploads(evidence: Evidence) -> Iterator[Violation]:
    """No picture of a job that had not ended was deleted, though its client asked for that."""
    for each in evidence.record.deletions:
        events = evidence.events.get(each.job_id, [])
        ended = [event["at"].timestamp() for event in events if event["phase"] in TERMINAL]
        if each.status == 204 and not any(at < each.answered_at for at in ended):
            text = f"the picture of job {each.job_id} was deleted before the job had ended"
            yield Violation("no upload is lost", text, (each.job_id,))
