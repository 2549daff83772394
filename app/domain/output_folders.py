"""Which files are a run's own: its savers get a folder that no other run has, and those that take none run alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.domain.values import unwrap

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.domain.catalog import Catalog
    from app.domain.node_classes import NodeClass
    from app.domain.workflow import Graph

PREFIX: Final = "filename_prefix"
"""The input by which ComfyUI's savers, and those written after them, take the name of a file and its folder."""
RUN: Final = "genonaut_run"
"""An input that no class has: ComfyUI does not hand it to the node, but takes another value for another graph, so that
the node runs and its answer does not come from the cache."""
FOLDER: Final = "genonaut"
"""Below it, in ComfyUI's output folder, each run has its own."""
PREVIEWS: Final = frozenset(
    {
        "CreateBoundingBoxes",
        "ImageCompare",
        "ImageCompositor",
        "MaskPreview",
        "Preview3D",
        "Preview3DAdvanced",
        "Preview3DAnimation",
        "PreviewAny",
        "PreviewAudio",
        "PreviewGaussianSplat",
        "PreviewImage",
        "PreviewPointCloud",
        "SAM3_TrackPreview",
        "SaveImageWebsocket",
    }
)
"""Output nodes of ComfyUI itself that save nothing, or below a random name among its temporary files."""
SHOWN_ON_THE_WAY: Final = frozenset({"CurveEditor", "GLSLShader", "ImageCropV2", "Painter"})
"""Nodes of ComfyUI itself that are no output nodes and show a temporary file all the same (`has_intermediate_output`).

Its name is given once while the server lives, it holds nothing of the graph, and an answer from the cache names that of
a run with the same inputs."""
_RANDOM_NAME: Final = re.compile(
    r"(?:(preview3d)|(?:temp/)?(?:bg|preview3d_advanced|preview_splat|preview_pointcloud))_[0-9a-f]{32}\.\w{1,8}",
    re.ASCII,
)
"""Files of which Preview3D and its kind tell no more than this; the first one lies in the output folder."""
SENDERS: Final = frozenset({"ETN_SendImageWebSocket", "SaveImageWebsocket"})
"""Output nodes that send their pictures through the event socket, and keep none: ComfyUI's own, and the one by which
Krita's plugin gets its pictures."""


@dataclass(frozen=True, slots=True)
class Separated:
    """A graph as it is sent."""

    graph: Graph
    alone: bool
    """Whether other runs may overwrite a file of one of its savers: no run may follow until the file is fetched."""


def separated(
    graph: Graph, catalog: Catalog, folder: str, run: str, careless: Collection[str] = frozenset()
) -> Separated:
    """Return a copy whose savers save below `folder`, a folder of this run's own, and whether all of them do.

    Without it ComfyUI answers a repeated graph from its cache and names the old file, even a deleted one; savers
    overwrite each other's; and saving slows down with the number of files in the folder (measured: manual,
    comfyui.md). `run` is a text that no other run has; `careless` are classes that are known to take a prefix and
    not to use it.
    """
    changed, alone = dict(graph), False
    for key, node in graph.items():
        inputs, known = node["inputs"], catalog.nodes.get(node["class_type"])
        own: dict[str, str] = {}
        if known is None:
            # It is not known what the backend offers: a class that looks like a saver is treated as one.
            alone = True
            if isinstance(unwrap(inputs.get(PREFIX)), str):
                own = {PREFIX: _below(folder, inputs[PREFIX])}
        elif known.is_output and _takes_prefix(known) and known.name not in careless:
            own = {PREFIX: _below(folder, inputs.get(PREFIX))}
        elif known.is_output:
            own = {RUN: run}
            alone = alone or known.name not in PREVIEWS | SENDERS
        if own:
            changed[key] = node | {"inputs": inputs | own}
    return Separated(changed, alone)


def own_folder(job_id: int, prompt_id: str) -> str:
    """Return the folder of a run, which no other has."""
    return f"{FOLDER}/{job_id}/{prompt_id}"


def own_path(path: str, prompt_id: str) -> str | None:
    """Return a path below ComfyUI's output folder; None unless it is that of a file in the run's own folder."""
    if not prompt_id or prompt_id not in path:
        return None
    match = re.fullmatch(rf"(?:.*/)?({FOLDER}/\d+/{re.escape(prompt_id)}/\S*\.\w{{1,8}})", path.replace("\\", "/"))
    return match[1] if match and ".." not in match[1] else None


def random_file(path: str) -> tuple[str, str] | None:
    """Return folder and name of a file that got a random name from ComfyUI itself; None for any other path."""
    match = _RANDOM_NAME.fullmatch(path)
    if match is None:
        return None
    return ("output", path) if match[1] else ("temp", path.removeprefix("temp/"))


def _takes_prefix(known: NodeClass) -> bool:
    spec = known.inputs.get(PREFIX)
    return spec is not None and spec.choices is None and spec.accepts_type("STRING")


def _below(folder: str, prefix: Any) -> str:
    """Return the prefix for a file in the folder; a prefix that comes by link is not known before the run."""
    given = unwrap(prefix)
    text = given if isinstance(given, str) else ""
    # Only letters, digits and -: a placeholder such as %date% or a path would leave our folder.
    name = re.sub(r"[^\w-]+", "_", text.replace("\\", "/").rpartition("/")[2]).strip("_")[:60]
    return f"{folder}/{name or 'output'}"
