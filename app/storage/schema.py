"""The tables. What changes here needs a migration: a test compares the two."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar, Final

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain.job import STATUS_OF, JobStatus, Phase


class Base(DeclarativeBase):
    """Names constraints after what they bind, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        dict[str, str]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: ARRAY(Text),
    }


def _phase_check() -> str:
    """Return the SQL that ties each phase to its status."""
    by_status = {status: [phase for phase in Phase if STATUS_OF[phase] is status] for status in JobStatus}
    return " OR ".join(
        f"(status = '{status}' AND phase IN ({', '.join(repr(phase.value) for phase in phases)}))"
        for status, phases in by_status.items()
    )


class JobRow(Base):
    """A job: what was asked for, and where it is."""

    __tablename__ = "generation_jobs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(255))
    job_type: Mapped[str] = mapped_column(String(32))
    prompt: Mapped[str | None] = mapped_column(Text)
    negative_prompt: Mapped[str] = mapped_column(Text)
    checkpoint_model: Mapped[str | None] = mapped_column(String(255))
    lora_models: Mapped[list[dict[str, Any]]]
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    batch_size: Mapped[int] = mapped_column(SmallInteger)
    # Input references, app/domain/uploads.py: what clients sent, with the upload that holds it.
    image: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    mask: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    inputs: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    upscale_model: Mapped[str | None] = mapped_column(String(255))
    # The seed reaches 2**64 - 1, too large for a bigint; JSONB keeps it digit for digit.
    sampler_params: Mapped[dict[str, Any]]
    # Never with the row: app/storage/columns.py says who reads it. JSON keeps the order of nodes and inputs, which
    # ComfyUI follows; JSONB does not.
    workflow: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True), deferred=True, deferred_raiseload=True
    )
    # As large as that, and read only when the graph is sent.
    extra_pnginfo: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(none_as_null=True), deferred=True, deferred_raiseload=True
    )
    backend: Mapped[str | None] = mapped_column(String(255))
    prefer: Mapped[str | None] = mapped_column(String(255))
    priority: Mapped[int] = mapped_column(SmallInteger)
    not_before: Mapped[datetime | None]
    max_attempts: Mapped[int] = mapped_column(SmallInteger)
    timeout_seconds: Mapped[int] = mapped_column(Integer)
    job_metadata: Mapped[dict[str, str]] = mapped_column("metadata", JSONB)
    params: Mapped[dict[str, Any]]
    warnings: Mapped[list[str]]
    # Found out when the job was accepted, app/domain/job_facts.py.
    models: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    model_key: Mapped[str | None] = mapped_column(String(32))
    cost_s: Mapped[float] = mapped_column(REAL, server_default=text("10"))

    status: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16))
    seq: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int] = mapped_column(Integer)
    attempt_limit: Mapped[int] = mapped_column(Integer)
    progress: Mapped[int] = mapped_column(SmallInteger)
    backend_name: Mapped[str | None] = mapped_column(String(255))
    worker_id: Mapped[str | None] = mapped_column(String(255))
    lease_expires_at: Mapped[datetime | None]
    prompt_id: Mapped[str | None] = mapped_column(String(64))
    refused_by: Mapped[list[str]]
    suspicions: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    cancel_reason: Mapped[str | None] = mapped_column(Text)
    content_id: Mapped[int | None] = mapped_column(BigInteger)
    available_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Its place among the waiting jobs of its priority, in µs of virtual time: app/storage/fair_tags.py. None until a
    # job that is not to begin before some time is due.
    fair_tag: Mapped[int | None] = mapped_column(BigInteger, server_default=text("0"))
    # How often a job that was due later went first, and by how many seconds: app/domain/scheduling/reach.py.
    overtaken: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    overtaken_s: Mapped[float] = mapped_column(REAL, server_default=text("0"))
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(_phase_check(), name="phase_of_status"),
        # The queue itself, in the order of turns.
        Index(
            "ix_generation_jobs_waiting",
            text("priority DESC"),
            "fair_tag",
            "id",
            postgresql_where=text("status = 'pending' AND fair_tag IS NOT NULL"),
        ),
        # The same of one owner: the first one that waits, the last one, and how many there are.
        Index(
            "ix_generation_jobs_waiting_of_user",
            "user_id",
            text("priority DESC"),
            "fair_tag",
            "id",
            postgresql_where=text("status = 'pending' AND fair_tag IS NOT NULL"),
        ),
        # What is not to begin yet stands apart: a million such jobs are not in the way of the others.
        Index(
            "ix_generation_jobs_deferred",
            "available_at",
            "id",
            postgresql_where=text("status = 'pending' AND fair_tag IS NULL"),
        ),
        Index(
            "ix_generation_jobs_deferred_of_user",
            "user_id",
            postgresql_where=text("status = 'pending' AND fair_tag IS NULL"),
        ),
        # No lease in it: renewing one rewrites the row within its page and touches no index.
        Index("ix_generation_jobs_running", "id", postgresql_where=text("status = 'running'")),
        # Lists by keyset: one for each order, and one for each filter in the order of creation.
        Index("ix_generation_jobs_created_at_id", "created_at", "id"),
        Index("ix_generation_jobs_updated_at_id", "updated_at", "id"),
        Index("ix_generation_jobs_status_created_at_id", "status", "created_at", "id"),
        # With the status, so that those that have it are found, and counted, without reading the others.
        Index("ix_generation_jobs_user_id_created_at_id_status", "user_id", "created_at", "id", "status"),
        Index("ix_generation_jobs_job_type_created_at_id_status", "job_type", "created_at", "id", "status"),
        Index(
            "ix_generation_jobs_checkpoint_model_created_at_id_status", "checkpoint_model", "created_at", "id", "status"
        ),
        Index("ix_generation_jobs_backend_name_created_at_id_status", "backend_name", "created_at", "id", "status"),
        # How many ended lately, and in which way, told by the index alone.
        Index(
            "ix_generation_jobs_completed_at_status",
            "completed_at",
            "status",
            postgresql_where=text("completed_at IS NOT NULL"),
        ),
        Index(
            "ix_generation_jobs_error_code_created_at_id",
            "error_code",
            "created_at",
            "id",
            postgresql_where=text("error_code IS NOT NULL"),
        ),
    )


class TenantRow(Base):
    """A user of whom something is set; the others have the defaults."""

    __tablename__ = "tenants"

    tenant: Mapped[str] = mapped_column(String(255), primary_key=True)
    weight: Mapped[float] = mapped_column(Double, server_default=text("1"))
    """Its share of the GPUs while others wait too, beside theirs."""

    __table_args__ = (CheckConstraint("weight BETWEEN 0.01 AND 100", name="weight"),)


class PauseRow(Base):
    """That jobs which wait are not taken: a tenant's, or with an empty name everybody's."""

    __tablename__ = "pauses"

    tenant: Mapped[str] = mapped_column(String(255), primary_key=True)
    paused_at: Mapped[datetime] = mapped_column(server_default=func.now())
    paused_by: Mapped[str] = mapped_column(String(255))
    reason: Mapped[str | None] = mapped_column(String(200))


class QueueClockRow(Base):
    """How far the queue of one priority is: the greatest tag of the jobs that were taken, about a second late."""

    __tablename__ = "queue_clocks"

    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    tag: Mapped[int] = mapped_column(BigInteger)


IS_WAITING: Final = text("generation_jobs.status = 'pending'")
IS_RUNNING: Final = text("generation_jobs.status = 'running'")
WAS_COMPLETED: Final = text("job_attempts.outcome = 'completed'")
"""With the value as a literal: of a parameter PostgreSQL cannot know that the partial indexes serve it."""


class AttemptRow(Base):
    """One try at a job on one backend."""

    __tablename__ = "job_attempts"

    job_id: Mapped[int] = mapped_column(ForeignKey("generation_jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    worker_id: Mapped[str] = mapped_column(String(255))
    backend_name: Mapped[str] = mapped_column(String(255))
    prompt_id: Mapped[str] = mapped_column(String(64))
    # Never with the row, as is none of what can be long here.
    graph: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), deferred=True, deferred_raiseload=True
    )
    claimed_at: Mapped[datetime]
    submitted_at: Mapped[datetime | None]
    executing_at: Mapped[datetime | None]
    executed_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(32))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    node_id: Mapped[str | None] = mapped_column(Text)
    node_type: Mapped[str | None] = mapped_column(Text)
    # As ComfyUI told it, cut; for operators only, because it shows a server's paths.
    traceback: Mapped[str | None] = mapped_column(Text, deferred=True, deferred_raiseload=True)
    # When ComfyUI began and ended each node, in ms since `executing_at`; app/domain/spans.py has the shape.
    spans: Mapped[list[dict[str, Any]] | None] = mapped_column(
        JSONB(none_as_null=True), deferred=True, deferred_raiseload=True
    )
    # Equal for runs that cost about the same: the graph without its seeds, texts and file names.
    workflow_key: Mapped[str | None] = mapped_column(String(32))
    # Why this backend took the job; app/domain/scheduling/jobs.py has the reasons. None where nothing was chosen.
    choice: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # Seconds for which its nodes loaded models; None where that was not seen.
    load_s: Mapped[float | None] = mapped_column(REAL)

    __table_args__ = (
        Index("ix_job_attempts_prompt_id", "prompt_id"),
        Index("ix_job_attempts_worker_id", "worker_id", "job_id"),
        Index("ix_job_attempts_node_type", "node_type", "job_id", postgresql_where=text("node_type IS NOT NULL")),
        Index("ix_job_attempts_completed", "ended_at", postgresql_where=text("outcome = 'completed'")),
        Index(
            "ix_job_attempts_workflow_key",
            "workflow_key",
            "ended_at",
            postgresql_where=text("outcome = 'completed'"),
        ),
    )


IS_SENT: Final = "event = 'submitted' AND data ? 'sent'"
"""Whether an event tells who sent its job. These are literals for the reason above."""
SENT_ACTOR: Final = "(data #>> '{sent,actor}')"
SENT_ADDRESS: Final = "(data #>> '{sent,address}')"


class EventRow(Base):
    """One event of a job; rows are only appended."""

    __tablename__ = "job_events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("generation_jobs.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    event: Mapped[str] = mapped_column(String(32))
    phase: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(Integer)
    actor: Mapped[str] = mapped_column(String(255))
    data: Mapped[dict[str, Any]]

    __table_args__ = (
        UniqueConstraint("job_id", "seq"),
        # Jobs that were sent, as the audit lists them: app/storage/sent_jobs.py.
        Index("ix_job_events_sent_at_id", "at", "id", postgresql_where=text(IS_SENT)),
        Index("ix_job_events_sent_actor_at_id", text(SENT_ACTOR), "at", "id", postgresql_where=text(IS_SENT)),
        Index("ix_job_events_sent_address_at_id", text(SENT_ADDRESS), "at", "id", postgresql_where=text(IS_SENT)),
    )


class ContentRow(Base):
    """All outputs of a completed job, under one id."""

    __tablename__ = "contents"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("generation_jobs.id", ondelete="CASCADE"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OutputRow(Base):
    """A file as we keep and serve it."""

    __tablename__ = "outputs"

    content_id: Mapped[int] = mapped_column(ForeignKey("contents.id", ondelete="CASCADE"), primary_key=True)
    index: Mapped[int] = mapped_column(Integer, primary_key=True)
    node_id: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(16))
    content_type: Mapped[str] = mapped_column(String(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    thumbnail_path: Mapped[str | None] = mapped_column(Text)
    # Made after `completed`, which it must not delay. The statement that stores the thumbnail clears this.
    thumbnail_due: Mapped[bool] = mapped_column(server_default=text("false"))
    source: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    preview: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        Index("ix_outputs_thumbnail_due", "content_id", postgresql_where=text("thumbnail_due")),
        Index("ix_outputs_path", "path"),
        Index("ix_outputs_thumbnail_path", "thumbnail_path"),
    )


class UploadRow(Base):
    """A file that a client handed over for its graphs. The same bytes of the same owner stand once."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    content_type: Mapped[str] = mapped_column(String(128))
    extension: Mapped[str] = mapped_column(String(16))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    duration_s: Mapped[float | None] = mapped_column(Double)
    path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # From when it may be deleted, unless a waiting or running job needs it.
    expires_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("user_id", "sha256"),
        Index("ix_uploads_user_id_created_at_id", "user_id", "created_at", "id"),
        Index("ix_uploads_expires_at", "expires_at"),
        Index("ix_uploads_path", "path"),
    )


class JobUploadRow(Base):
    """That a job's graph refers to an upload. An ended job keeps no upload from being deleted."""

    __tablename__ = "job_uploads"

    job_id: Mapped[int] = mapped_column(ForeignKey("generation_jobs.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)

    __table_args__ = (Index("ix_job_uploads_upload_id", "upload_id", "job_id"),)


class IdempotencyRow(Base):
    """A request that was answered under an idempotency key. Outlives its job, or a repetition would run it again."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[int] = mapped_column(BigInteger)
    answer: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        Index("ix_idempotency_keys_created_at", "created_at"),
        Index("ix_idempotency_keys_job_id", "job_id"),
    )


class BackendStateRow(Base):
    """What operators have decided about a backend; one without a row is in use."""

    __tablename__ = "backend_states"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    drained: Mapped[bool] = mapped_column(Boolean)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_by: Mapped[str] = mapped_column(String(255))


class PeriodicTaskRow(Base):
    """A periodic task and its last run, which is null in all its columns before the first one."""

    __tablename__ = "periodic_tasks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    schedule: Mapped[str] = mapped_column(String(64))
    last_run: Mapped[datetime | None]
    next_run: Mapped[datetime]
    duration_ms: Mapped[int | None] = mapped_column(Integer)
    result: Mapped[str | None] = mapped_column(Text)
    failed: Mapped[bool | None] = mapped_column(Boolean)
    worker_id: Mapped[str | None] = mapped_column(String(255))


class KeyRow(Base):
    """A key: who holds it may use the service in its role; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    # The `user_id` of its jobs.
    owner: Mapped[str] = mapped_column(String(255))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    # By name, app/domain/limits.py; those that are not in it have their defaults.
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    last_used_from: Mapped[str | None] = mapped_column(String(64))
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("role IN ('user', 'viewer', 'operator', 'admin')", name="role"),
        Index("ix_api_keys_owner", "owner"),
    )


class OwnerDayRow(Base):
    """How many jobs of an owner were accepted on a day by UTC: only of owners for whom that is limited.

    Kept apart from the jobs, which can be deleted.
    """

    __tablename__ = "owner_days"

    user_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    jobs: Mapped[int] = mapped_column(Integer)


class SessionRow(Base):
    """A browser that has signed in to the page; only the hash of its cookie is kept."""

    __tablename__ = "monitor_sessions"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[int] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]

    __table_args__ = (Index("ix_monitor_sessions_expires_at", "expires_at"),)


class LinkSecretRow(Base):
    """The secret by which links to outputs are signed: one row."""

    __tablename__ = "link_secrets"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    secret: Mapped[bytes]
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (CheckConstraint("id = 1", name="one"),)


class AuditRow(Base):
    """Actions by people; rows are only appended."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    action: Mapped[str] = mapped_column(String(32))
    # What it was done to: a job's id, a worker's, a backend's name; of a bulk action the scope as printed.
    target: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(String(32))
    # From where: an address, or "command line"; null in entries of older versions.
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
    data: Mapped[dict[str, Any]]

    __table_args__ = (
        # Newest first, by each filter.
        Index("ix_audit_log_at_id", "at", "id"),
        Index("ix_audit_log_actor_at_id", "actor", "at", "id"),
        Index("ix_audit_log_action_at_id", "action", "at", "id"),
        Index("ix_audit_log_target_at_id", "target", "at", "id"),
        Index("ix_audit_log_address_at_id", "address", "at", "id"),
    )


class JobStatisticsRow(Base):
    """Finished jobs of one kind in a stretch of time: how many, and histograms of waits and runs, which add up.

    A job stands in several of them: stretches of each length, and each `scope`, so that no page adds up many rows.
    """

    __tablename__ = "job_statistics"

    # The stretch's length, and which of backend and model are told apart: app/storage/statistics.py has both.
    span_s: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    scope: Mapped[str] = mapped_column(String(8), primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(String(16), primary_key=True)
    backend_name: Mapped[str] = mapped_column(String(255), primary_key=True)
    checkpoint_model: Mapped[str] = mapped_column(String(255), primary_key=True)
    error_code: Mapped[str] = mapped_column(String(64), primary_key=True)
    node_type: Mapped[str] = mapped_column(Text, primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    waits: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    runs: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    # 0 in rows that an older version counted, which did not record it.
    longest_wait_s: Mapped[float] = mapped_column(Double, server_default="0")
    longest_run_s: Mapped[float] = mapped_column(Double, server_default="0")
    # Runs that had to load models, and for how many seconds; of the last attempt of each job.
    loads: Mapped[int] = mapped_column(Integer, server_default="0")
    load_s: Mapped[float] = mapped_column(Double, server_default="0")


class TenantStatisticsRow(Base):
    """What a user's jobs got in a stretch of time, by when they ended; of very many users the rest are "" together."""

    __tablename__ = "tenant_statistics"

    span_s: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(String(255), primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    # Seconds for which ComfyUI executed the last attempt of each job, and those for which they waited, all together.
    gpu_s: Mapped[float] = mapped_column(Double)
    wait_s: Mapped[float] = mapped_column(Double)


class QueueStatisticsRow(Base):
    """The queue's depth at one moment."""

    __tablename__ = "queue_statistics"

    at: Mapped[datetime] = mapped_column(primary_key=True)
    waiting: Mapped[int] = mapped_column(Integer)
    running: Mapped[int] = mapped_column(Integer)


class StatisticsProgressRow(Base):
    """Up to when finished jobs are in the statistics: one row."""

    __tablename__ = "statistics_progress"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    counted_until: Mapped[datetime]
