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
"""Maximum number of pictures of a run."""
_MOST_UNSURE: Final = 64
"""Maximum number of a node's pictures that may be previews; the newest are held until the node reports its own."""


class WebSocketPictures:
    """Collects the pictures during the run. Its methods never wait."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._graph: Graph = {}
        self._catalog: Catalog | None = None
        self._sure: dict[str, list[OutputFile]] = {}
        self._unsure: dict[str, list[tuple[str, memoryview]]] = {}
        self._count = 0

    def follow(self, graph: Graph, catalog: Catalog) -> None:
        """Set the graph whose pictures are collected."""
        self._graph, self._catalog = graph, catalog

    @property
    def are_wanted(self) -> bool:
        """Whether the graph has nodes whose pictures come only through the event socket, and can be lost with it."""
        return any(node["class_type"] in SENDERS for node in self._graph.values())

    def take(self, picture: Picture, node_id: str) -> None:
        """Take a picture of the node, if it may be an output: its frame looks the same as a preview's.

        Previews come from nodes that compute, as JPEG. So a PNG from an output node is an output, as is any picture
        from a class in `SENDERS`, or one that the node lists in its `ui`.
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

    def added_to(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the history entry, with a record of each picture added to its node's outputs."""
        outputs = entry.get("outputs")
        outputs = dict(outputs) if isinstance(outputs, dict) else {}
        for node_id, pictures in self._unsure.items():
            count = len(_announced(outputs.get(node_id)))
            for ending, image in pictures[-count:] if count else ():
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
        # The node is part of the key under which the downloads find the picture.
        file = OutputFile(node_id, f"picture_{len(files) + 1:05}.{ending}", node_id, SENT)
        files.append(file)
        self._downloads.sent(file, image)


def _announced(shown: Any) -> list[Any]:
    """Return the records in which a node reports pictures that it has sent."""
    images = shown.get("images") if isinstance(shown, dict) else None
    return [each for each in images if _is_announcement(each)] if isinstance(images, list) else []


def _is_announcement(record: Any) -> bool:
    return isinstance(record, dict) and record.get("source") == "websocket" and "filename" not in record
