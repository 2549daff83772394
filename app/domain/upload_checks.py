"""Whether the files that a graph refers to are of the kind that its inputs take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.errors import Fault
from app.domain.hints import pointer_to, shown
from app.domain.replacements import replaced
from app.domain.uploads import UploadKind, uploads_in
from app.domain.workflow import MAX_FAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.catalog import Catalog
    from app.domain.uploads import Upload
    from app.domain.workflow import Graph

_UNREAD: Final = frozenset({"image/svg+xml", "image/x-exr", "image/jxl", "image/heic"})
"""Pictures that ComfyUI's own loaders cannot read: they read what Pillow does."""
_MOVING: Final = frozenset({"image/gif", "image/webp", "image/png", "image/avif"})
"""Pictures of several frames, which loaders of videos take."""
_WORDS: Final = {
    "image": "a picture",
    "video": "a video",
    "audio": "a sound",
    UploadKind.SCENE.value: "a 3D model",
}


def wrong_kinds(
    graph: Graph, catalog: Catalog, uploads: Mapping[str, Upload], pointer: str = "/workflow"
) -> list[Fault]:
    """Return the faults of files that cannot be what their inputs take. The graph's classes are all known.

    `uploads` are those to which the graph refers, by id; what is still to be fetched is not among them.
    """
    faults: list[Fault] = []
    executed = replaced(graph, catalog)
    for node_id, name, upload_id in uploads_in(executed):
        node_class, upload = catalog.nodes.get(executed[node_id]["class_type"]), uploads.get(upload_id)
        if node_class is None or upload is None:
            continue
        spec = node_class.inputs_for(executed[node_id]["inputs"]).get(name)
        if spec is not None and not _fits(spec.uploads, upload, core=node_class.is_core):
            is_one = f"the upload is {_WORDS[upload.kind]} ({upload.content_type})"
            unread = " ComfyUI's loaders do not read this format." if spec.uploads == upload.kind.value else ""
            detail = f"{shown(name)!r} takes {_WORDS[spec.uploads]}, and {is_one}.{unread}"
            faults.append(Fault(pointer_to(pointer, node_id, "inputs", name), "wrong_kind_of_file", detail))
    return faults[:MAX_FAULTS]


def _fits(wanted: str, upload: Upload, *, core: bool) -> bool:
    """Whether an input that takes uploads of this kind can use the file; one that takes no kind takes any."""
    match wanted:
        case "image":
            return upload.kind is UploadKind.IMAGE and not (core and upload.content_type in _UNREAD)
        case "video":
            return upload.kind is UploadKind.VIDEO or upload.content_type in _MOVING
        case "audio":
            # The sound of a video is one too.
            return upload.kind in (UploadKind.AUDIO, UploadKind.VIDEO)
    return True
