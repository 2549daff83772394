"""Whose a file is: an output belongs to the run that made it, or it is not kept as that run's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from app.domain.errors import OutputInvalid, OutputNotOwn
from app.domain.output_folders import PREVIEWS, SHOWN_ON_THE_WAY, random_file
from app.domain.text import clean
from worker.comfyui.node_outputs import SENT

if TYPE_CHECKING:
    from app.domain.errors import AttemptFailed
    from app.domain.workflow import Graph
    from worker.comfyui.node_outputs import OutputFile

_ETAG: Final = re.compile(r'^"([0-9a-f]{15,17})-[0-9a-f]+"$')
"""As aiohttp makes it, whose server ComfyUI is: the time of the last change in nanoseconds, and the size."""
_NAMED_ONCE: Final = PREVIEWS | SHOWN_ON_THE_WAY
"""Classes that give each of their temporary files a name of its own."""
_TICK_S: Final = 0.02
"""A file's time is that of the kernel's last tick, up to 10 ms before it was written."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one content of a file from another, as `/view` says it."""

    etag: str | None
    size: str | None
    earliest: float | None
    """When it was last changed by the server's clock, seconds since 1970: between these two moments. None: not said."""
    latest: float | None


def stamp_of(etag: str | None, last_modified: str | None, size: str | None) -> Stamp:
    """Read the headers of an answer; those that make no sense count as not sent."""
    if etag is not None and (match := _ETAG.match(etag)):
        changed = int(match[1], 16) / 1e9
        return Stamp(etag, size, changed, changed + _TICK_S)
    try:
        changed = parsedate_to_datetime(last_modified or "").timestamp()
    except (ValueError, OverflowError):
        return Stamp(etag, size, None, None)
    # It tells whole seconds.
    return Stamp(etag, size, changed, changed + 1)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    prompt_id: str
    """The last one of the run, if a node has queued it again."""
    folder_id: str
    """By which the folder of its files is named, and the run was sent."""
    graph: Graph
    alone: bool
    """Whether no prompt of ours was to be sent behind it before its files are here."""
    watched: bool
    """Whether this worker has seen to that from its start; the run may have been taken over."""
    began_ms: float | None
    """By the server's clock, milliseconds since 1970; below, when it had ended."""
    ended_ms: float | None
    cached: frozenset[str] = frozenset()
    """Nodes that did not run: they name files of an earlier run."""

    def has_for_itself(self, file: OutputFile) -> bool:
        """Whether no other run can have written the file."""
        if file.text is not None or file.folder == SENT or is_in_own_folder(file, self.folder_id):
            return True
        node = self.graph.get(file.node_id)
        if node is None or node["class_type"] not in _NAMED_ONCE:
            return False
        return file.folder == "temp" or random_file(file.filename) is not None

    def require_alone(self, file: OutputFile) -> None:
        """Raise `OutputNotOwn` if another run of ours may have written the file."""
        if not self.alone:
            node = self.graph.get(file.node_id)
            raise OutputNotOwn(
                f"The file {clean(file.filename, 100)} is in a folder that other jobs write to as well.",
                node_id=clean(file.node_id, 200),
                node_type=node["class_type"] if node is not None else None,
            )

    def require_made(self, file: OutputFile, stamp: Stamp) -> None:
        """Raise `OutputNotOwn` if the file is older than the run."""
        if self.began_ms is not None and stamp.latest is not None and stamp.latest < self.began_ms / 1000:
            raise OutputNotOwn(
                f"The run names the file {clean(file.filename, 100)}, which is older than the run itself."
            )

    def seen(self, file: OutputFile, failure: AttemptFailed) -> AttemptFailed:
        """Return why a file cannot be kept: one that a node names which did not run is of an earlier run."""
        if isinstance(failure, OutputInvalid) and file.node_id in self.cached:
            return OutputNotOwn(f"It is of an earlier run, whose answer was repeated. {failure}")
        return failure

    def outlasted_by(self, stamp: Stamp) -> bool:
        """Whether the file was changed when the run had ended."""
        if self.ended_ms is None or stamp.earliest is None:
            return False
        return stamp.earliest > self.ended_ms / 1000 + _TICK_S


def is_in_own_folder(file: OutputFile, folder_id: str) -> bool:
    """Whether its name or folder is one that only this run's files have."""
    return bool(folder_id) and folder_id in f"{file.subfolder}/{file.filename}"
