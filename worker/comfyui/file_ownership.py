"""Whether a file was written by a given run: only then is it kept as one of the run's outputs."""

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
"""aiohttp's format, which ComfyUI uses: the time of the last change in nanoseconds, and the size, in hexadecimal."""
_NAMED_ONCE: Final = PREVIEWS | SHOWN_ON_THE_WAY
"""Classes that give each of their temporary files a unique name."""
_TICK_S: Final = 0.02
"""Tolerance in seconds: a file's time is that of the kernel's last tick, up to 10 ms before it was written."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What identifies a version of a file, from the headers of `/view`."""

    etag: str | None
    size: str | None
    earliest: float | None
    """Earliest possible time of the last change by the server's clock, in seconds since 1970; None when unknown."""
    latest: float | None
    """Latest possible time of the last change."""


def stamp_of(etag: str | None, last_modified: str | None, size: str | None) -> Stamp:
    """Return the stamp from the headers of an answer; invalid headers count as missing."""
    if etag is not None and (match := _ETAG.match(etag)):
        changed = int(match[1], 16) / 1e9
        return Stamp(etag, size, changed, changed + _TICK_S)
    try:
        changed = parsedate_to_datetime(last_modified or "").timestamp()
    except (ValueError, OverflowError):
        return Stamp(etag, size, None, None)
    # The header has whole seconds.
    return Stamp(etag, size, changed, changed + 1)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    prompt_id: str
    """The last prompt of the run, if a node has queued further ones."""
    folder_id: str
    """The id of the submitted prompt, which is in the name of the run's output folder."""
    graph: Graph
    alone: bool
    """Whether the run has exclusive use of its backend until its files are downloaded."""
    watched: bool
    """Whether this worker has ensured that from the start; False for a run that was taken over."""
    began_ms: float | None
    """Start by the server's clock, in milliseconds since 1970; None when unknown."""
    ended_ms: float | None
    """End by the server's clock, in milliseconds since 1970; None when unknown."""
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
        """Return the reason why a file cannot be kept: a file of a node that did not run is from an earlier run."""
        if isinstance(failure, OutputInvalid) and file.node_id in self.cached:
            return OutputNotOwn(f"The file is from an earlier run, whose cached result ComfyUI repeated. {failure}")
        return failure

    def outlasted_by(self, stamp: Stamp) -> bool:
        """Whether the file was changed after the run had ended."""
        if self.ended_ms is None or stamp.earliest is None:
            return False
        return stamp.earliest > self.ended_ms / 1000 + _TICK_S


def is_in_own_folder(file: OutputFile, folder_id: str) -> bool:
    """Whether the file's path contains `folder_id`, which only this run's files have."""
    return bool(folder_id) and folder_id in f"{file.subfolder}/{file.filename}"
