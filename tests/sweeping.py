"""The sweeper of a service, for tests that have it swept by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from app.services.uploads import Uploads
from app.storage.audit import Audit
from app.storage.files import FileStore
from app.storage.job_views import JobViews
from app.storage.jobs import JobStore
from app.storage.keys import KeyStore
from app.storage.uploads import UploadStore
from worker.upkeep.sweeper import Sweeper

if TYPE_CHECKING:
    from app.settings import Settings
    from app.storage.database import Database


def sweeper_of(database: Database, settings: Settings) -> Sweeper:
    """Return a sweeper of the store and the database of these settings."""
    return Sweeper(
        FileStore(settings.storage_path),
        JobViews(database),
        JobStore(database),
        KeyStore(database),
        UploadStore(database),
        uploads_of(database, settings),
        Audit(database),
        orphan_s=settings.orphan_seconds,
        keep_audit=timedelta(days=settings.keep_audit_days),
    )


def uploads_of(database: Database, settings: Settings) -> Uploads:
    """Return what takes uploads into the store and the database of these settings."""
    files, keep = FileStore(settings.storage_path), timedelta(days=settings.keep_uploads_days)
    return Uploads(UploadStore(database), files, max_bytes=settings.max_upload_bytes, keep=keep)
