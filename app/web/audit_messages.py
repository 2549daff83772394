"""What is asked and answered about the audit, as models: they check queries, and make the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from app.domain.access import Role
from app.storage.audit import Chosen
from app.web.payloads import Time
from app.web.requests import GivenTime, NoQuery


class AuditQuery(NoQuery):
    """The query of the audit; filters combine."""

    actor: str | None = Field(None, min_length=1, max_length=255, description="A key's name, for example.")
    action: str | None = Field(None, min_length=1, max_length=32)
    target: str | None = Field(None, min_length=1, max_length=1000, description="For example `job 17` or `key ann`.")
    address: str | None = Field(None, min_length=1, max_length=64, description="From where it was asked for.")
    after: GivenTime | None = Field(None, description="Only what was done then or later.")
    before: GivenTime | None = Field(None, description="Only what was done before.")
    sent_jobs: bool = Field(True, description="false: without the jobs that were sent by REST.")
    limit: int = Field(100, ge=1, le=1000)
    cursor: str | None = Field(None, max_length=1000, description="next_cursor of the page before.")

    @property
    def chosen(self) -> Chosen:
        """What the list is narrowed to."""
        return Chosen(
            actor=self.actor,
            action=self.action,
            target=self.target,
            address=self.address,
            since=self.after,
            until=self.before,
            sent_jobs=self.sent_jobs,
        )


class AuditEntryAnswer(BaseModel):
    """One thing that was done by hand."""

    entry_id: int | None = Field(description="Null of a job that was sent by REST: the job itself keeps that.")
    timestamp: Time
    actor: str = Field(
        description="The key's name; `api` or `monitor` while there was no key, `nobody` of a wrong key, and "
        "`command line (…)` with the user of the machine."
    )
    role: Role
    action: str
    target: str
    outcome: str = Field(description="What became of it, or the code of the error.")
    address: str | None
    request_id: str | None = Field(description="`X-Request-Id` of the answer.")
    data: dict[str, Any]


class AuditListAnswer(BaseModel):
    """A page of the audit, the newest first."""

    items: list[AuditEntryAnswer]
    next_cursor: str | None = Field(description="Leads to older entries; null at the end of the list.")
