"""Files that clients hand over for their graphs, and how a graph and a job refer to them.

In a graph a file is the text `upload:<id>`. A job keeps each *input reference* as its client sent it, and beside it,
under `upload`, the upload that holds the bytes: `{"content": 12, "output": 0, "upload": "…"}`. Only a URL has none
before a worker has fetched it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.values import unwrap, wrapped_like

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from app.domain.workflow import Graph

_TEXT: Final = re.compile(r"upload:([\w-]{1,64})", re.ASCII)
NOT_FETCHED: Final = "upload:not-fetched"
"""Stands in a graph for a file that is still to be fetched from a URL; no upload has this id."""


class UploadKind(StrEnum):
    """What an upload is."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    SCENE = "3d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file that a client handed over. `path` is relative to the store; times are aware UTC datetimes."""

    upload_id: str
    user_id: str
    sha256: str
    kind: UploadKind
    content_type: str
    extension: str
    size_bytes: int
    width: int | None
    height: int | None
    duration_s: float | None
    path: str
    created_at: datetime
    expires_at: datetime
    """From when it may be deleted, unless a waiting or running job needs it."""

    @property
    def filename(self) -> str:
        """The name under which backends get it: the same bytes have the same name."""
        return f"{self.sha256}.{self.extension}"


def text_of(upload_id: str) -> str:
    """Return what stands for an upload in a graph."""
    return f"upload:{upload_id}"


def id_in(value: Any) -> str | None:
    """Return the id of the upload that a value of a graph stands for; None for every other value."""
    found = _TEXT.fullmatch(value) if isinstance(value, str) and value.startswith("upload:") else None
    return found[1] if found else None


def text_of_reference(reference: Mapping[str, Any]) -> str:
    """Return what stands in a graph for an input reference that a job keeps."""
    upload_id = reference.get("upload")
    return text_of(upload_id) if upload_id is not None else NOT_FETCHED


def uploads_in(graph: Graph) -> Iterator[tuple[str, str, str]]:
    """Yield node id, input name and upload id of each upload to which a graph of sound structure refers."""
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if (upload_id := id_in(unwrap(value))) is not None:
                yield node_id, name, upload_id


def with_files(graph: Graph, named: Mapping[tuple[str, str], str]) -> Graph:
    """Return a copy of the graph with these texts in place of uploads, by node id and input name."""
    changed = dict(graph)
    for (node_id, name), text in named.items():
        node = changed[node_id]
        inputs = node["inputs"]
        changed[node_id] = node | {"inputs": inputs | {name: wrapped_like(inputs[name], text)}}
    return changed
