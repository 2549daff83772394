"""Pictures that a run sends through the event socket on purpose, as SaveImageWebsocket does: they are outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.output_folders import SENDERS
from worker.comfyui.node_outputs import SENT, OutputFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.catalog import Catalog
    from app.domain.workflow import Graph
    from worker.comfyui.answers import Picture
    from worker.outputs.downloads import Downloads

_ENDINGS: Final = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"RIFF", "webp"))
_MOST: Final = 1_000
"""Of a run; a film of as many pictures has a saver of its own."""
_MOST_UNSURE: Final = 64
"""Of a node, such as may be previews: the newest are kept until the node itself says whether it has sent any."""


class WebSocketPictures:
    """Takes what comes while the run goes on. Its methods wait for nothing."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._graph: Graph = {}
        self._catalog: Catalog | None = None
        self._sure: dict[str, list[OutputFile]] = {}
        self._unsure: dict[str, list[tuple[str, memoryview]]] = {}
        self._count = 0

    def follow(self, graph: Graph, catalog: Catalog) -> None:
        """Begin with the pictures of this graph's nodes."""
        self._graph, self._catalog = graph, catalog

    @property
    def are_wanted(self) -> bool:
        """Whether the graph has nodes whose pictures come in this way only, so that a lost one comes never again."""
        return any(node["class_type"] in SENDERS for node in self._graph.values())

    def take(self, picture: Picture, node_id: str) -> None:
        """Take a picture of the node, if it may be an output: on the wire it cannot be told from a preview.

        Previews are made by nodes that compute, and ComfyUI sends them as JPEG. So what an output node sends as PNG is
        an output; so is whatever is sent by a class that is known to do nothing else, or that lists it in its `ui`.
        """
        ending = next((name for head, name in _ENDINGS if picture.image[: len(head)] == head), None)
        if ending is None or self._count >= _MOST or not node_id:
            return
        node = self._graph.get(node_id)
        name = node["class_type"] if node is not None else ""
        known = self._catalog.nodes.get(name) if self._catalog is not None else None
        if name in SENDERS or (ending == "png" and (known is None or known.is_output)):
            self._keep(node_id, ending, picture.image)
        elif known is not None and known.is_output:
            unsure = self._unsure.setdefault(node_id, [])
            unsure.append((ending, picture.image))
            del unsure[:-_MOST_UNSURE]

    def told_in(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the history entry with a record of each picture among those of its node."""
        outputs = entry.get("outputs")
        outputs = dict(outputs) if isinstance(outputs, dict) else {}
        for node_id, pictures in self._unsure.items():
            said = len(_announced(outputs.get(node_id)))
            for ending, image in pictures[-said:] if said else ():
                self._keep(node_id, ending, image)
        self._unsure.clear()
        for node_id, files in self._sure.items():
            shown = outputs.get(node_id)
            shown = shown if isinstance(shown, dict) else {}
            images = shown.get("images")
            others = [each for each in images if not _is_announcement(each)] if isinstance(images, list) else []
            records = [{"filename": file.filename, "subfolder": file.subfolder, "type": SENT} for file in files]
            outputs[node_id] = {**shown, "images": [*others, *records]}
        return {**entry, "outputs": outputs}

    def _keep(self, node_id: str, ending: str, image: memoryview) -> None:
        files = self._sure.setdefault(node_id, [])
        self._count += 1
        # The node is part of the name, by which what has come is found again.
        file = OutputFile(node_id, f"picture_{len(files) + 1:05}.{ending}", node_id, SENT)
        files.append(file)
        self._downloads.sent(file, image)


def _announced(shown: Any) -> list[Any]:
    """Return the records by which a node says that it has sent pictures."""
    images = shown.get("images") if isinstance(shown, dict) else None
    return [each for each in images if _is_announcement(each)] if isinstance(images, list) else []


def _is_announcement(record: Any) -> bool:
    return isinstance(record, dict) and record.get("source") == "websocket" and "filename" not in record
