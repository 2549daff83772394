"""The sweeper: deletes what has had its day, and files that belong to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import timedelta

    from app.services.uploads import Uploads
    from app.storage.audit import Audit
    from app.storage.files import FileStore
    from app.storage.job_views import JobViews
    from app.storage.jobs import JobStore
    from app.storage.keys import KeyStore
    from app.storage.uploads import UploadStore

BATCH: Final = 1000
"""Maximum number of files whose rows are looked up with one statement."""
WINDOW_S: Final = 48 * 3600.0


class Sweeper:
    """Runs on any worker; two at once do no harm."""

    def __init__(
        self,
        files: FileStore,
        views: JobViews,
        jobs: JobStore,
        keys: KeyStore,
        upload_store: UploadStore,
        uploads: Uploads,
        audit: Audit,
        *,
        orphan_s: float,
        keep_audit: timedelta,
    ) -> None:
        self._files = files
        self._views = views
        self._jobs = jobs
        self._keys = keys
        self._upload_store = upload_store
        self._uploads = uploads
        self._audit = audit
        self._orphan_s = orphan_s
        self._keep_audit = keep_audit

    async def sweep(self) -> str:
        """Delete orphaned files, and what has had its day: uploads, idempotency keys, sessions and the audit's entries.

        Raises
        ------
        DatabaseUnavailable
        """
        orphans = await self._delete_orphans()
        uploads = await self._uploads.delete_expired()
        keys = await self._jobs.prune_keys()
        sessions = await self._keys.prune()
        entries = await self._audit.prune(self._keep_audit)
        return (
            f"deleted {orphans} orphaned files, {uploads} expired uploads, {keys} old idempotency keys, "
            f"{sessions} ended sessions and {entries} old entries of the audit"
        )

    async def _delete_orphans(self) -> int:
        old = await self._files.old_files(self._orphan_s, WINDOW_S)
        orphans: list[str] = []
        for start in range(0, len(old), BATCH):
            paths = old[start : start + BATCH]
            known = await self._views.known_paths(paths) | await self._upload_store.known_paths(paths)
            orphans += [path for path in paths if path not in known]
        await self._files.delete(orphans)
        return len(orphans)
