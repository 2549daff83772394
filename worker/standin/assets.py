"""The files that a server keeps account of, when it was started with `--enable-assets`."""

import datetime
import hashlib
import mimetypes
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from worker.standin.files import Folders, OutsideFolderError


class Assets:
    """The registered files: their ids and their records in `/api/assets`."""

    def __init__(self, folders: Folders, *, enabled: bool) -> None:
        self._folders = folders
        self.enabled = enabled
        self.known: dict[str, dict[str, Any]] = {}

    def registered(self, ui: Mapping[str, Any], prompt_id: str) -> dict[str, Any]:
        """Return what a node shows, each file with an id, if files have one here."""
        if not self.enabled:
            return dict(ui)
        return {
            key: [self._with_id(entry, prompt_id) for entry in entries] if isinstance(entries, list) else entries
            for key, entries in ui.items()
        }

    def uploaded(self, name: str, subfolder: str, kind: str, path: Path) -> dict[str, Any]:
        """Return what the answer to an upload tells of its file; reads the whole file."""
        told = self._entry({"filename": name, "subfolder": subfolder, "type": kind}, path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        shown = {key: told[key] for key in ("id", "name", "size", "mime_type", "tags")}
        return shown | {"asset_hash": f"blake3:{digest}"}

    def _with_id(self, entry: Any, prompt_id: str) -> Any:
        """Return an entry with the id of its file; unchanged if it does not name an existing file."""
        if not isinstance(entry, dict) or "filename" not in entry or "type" not in entry:
            return entry
        try:
            path = self._folders.inside(entry["type"], entry.get("subfolder") or "") / entry["filename"]
        except (OutsideFolderError, ValueError):
            return entry
        if not path.is_file():
            return entry
        told = self._entry(entry, path)
        told |= {"job_id": prompt_id, "prompt_id": prompt_id}
        return {**entry, "id": told["id"]}

    def _entry(self, entry: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Register a file anew; its id stays the same."""
        subfolder, name = entry.get("subfolder") or "", entry["filename"]
        whole = f"{subfolder}/{name}" if subfolder else name
        key = f"{entry['type']}/{whole}"
        known = self.known.pop(key, {"id": str(uuid.uuid4())})
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat()
        place = quote(subfolder, safe="")
        told = {
            "id": known["id"],
            "name": name,
            "loader_path": whole,
            "display_name": whole,
            "size": path.stat().st_size,
            "mime_type": mimetypes.guess_type(name)[0] or "application/octet-stream",
            "tags": [entry["type"], "uploaded"],
            "preview_url": f"/api/view?type={entry['type']}&filename={quote(name)}&subfolder={place}",
            "user_metadata": {"filename": whole},
            "is_immutable": False,
            "created_at": now,
            "updated_at": now,
            "last_access_time": now,
        }
        self.known[key] = told
        return told
