"""Graphs whose right answer is known, as ComfyUI of each age gave it, and the files that they read."""

import json
import struct
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from harness import StandinServer

DATA: Final = Path(__file__).parents[1] / "data"
AGES: Final = {"0.3.64": "comfyui_0_3_64", "0.33.0": "comfyui_0_33_0"}
MEASURED: Final = json.loads((DATA / "case-verdicts" / "0.33.0.json").read_text())
"""What 0.33.0 did with graphs of which it is not said there."""

UNPLAYABLE: Final[Mapping[str, str]] = {}
"""Graphs that the stand-in cannot play, and why."""

CACHED_BEFORE: Final[Mapping[str, str]] = {"extra_input_link_bad_slot": "3"}
"""Graphs with which 0.33 does what was recorded only if this node's result is kept from the prompt before."""

TOLD_TOGETHER: Final[Mapping[str, list[str]]] = {
    # A text, and as one piece of data a number, nothing and an object.
    "ui_mixed": ["1.text", "1.text"],
    # Two numbers, which are one piece of data.
    "v33_bboxes_wrapped": ["2.dims"],
}
"""What is kept of nodes of which each value was counted when they were recorded."""

TWICE_TOLD: Final = frozenset({"animated"})
"""Keys of `ui` that only tell how others are to be shown."""


@dataclass(frozen=True)
class Case:
    """A graph, what was run before it, and what ComfyUI did."""

    name: str
    graph: dict[str, Any]
    first: dict[str, Any] | None
    overrides: dict[str, Any]
    truth: dict[str, Any]

    @property
    def end(self) -> str:
        """How ComfyUI ended it: refused, success, error or dead."""
        if not self.truth["accepted"]:
            return "refused"
        return "dead" if "NO HISTORY" in self.truth["end"] else str(self.truth["end"])

    @property
    def outputs(self) -> list[str]:
        """What was shown, as node and key."""
        shown = (f"{node}.{key}" for node, key in self.truth.get("outputs", ()) if key not in TWICE_TOLD)
        return TOLD_TOGETHER.get(self.name) or sorted(shown)

    @property
    def sending_nodes(self) -> set[str]:
        """The nodes that send pictures by the WebSocket, which no history tells of."""
        return {
            node
            for node, one in self.graph.items()
            if isinstance(one, dict) and one.get("class_type") == "SaveImageWebsocket"
        }

    @property
    def sent(self) -> list[str]:
        """What they send, as node and word: a picture for each of the batch."""
        batch = next((one["inputs"].get("batch_size", 1) for one in self.graph.values() if "EmptyImage" in str(one)), 1)
        return [f"{node}.sent" for node in self.sending_nodes for _ in range(batch)]

    @property
    def has_custom_nodes(self) -> bool:
        """Whether there is a node that is not ComfyUI's own."""
        classes = [str(node.get("class_type")) for node in self.graph.values() if isinstance(node, dict)]
        return any(name.startswith(("Own", "Test")) for name in classes)

    def overridden(self) -> dict[str, Any]:
        """Return the graph as it is once the overrides are done."""
        graph: dict[str, Any] = json.loads(json.dumps(self.graph))
        for name, value in self.overrides.items():
            node = max((node for node in graph if name.startswith(f"{node}.")), key=len)
            graph[node]["inputs"][name[len(node) + 1 :]] = value
        return graph


def cases_of(age: str) -> list[Case]:
    """Return the cases that were measured with this age."""
    found = []
    for path in sorted((DATA / "cases").glob("graphs*/*.json")):
        data = json.loads(path.read_text())
        name = data["name"]
        truth = (MEASURED.get(name) if age == "0.33.0" else None) or data.get(AGES[age])
        if truth is not None and name not in UNPLAYABLE:
            first = data.get("first") or kept_by(data["graph"], CACHED_BEFORE.get(name))
            found.append(Case(name, data["graph"], first, data.get("overrides", {}), truth))
    return found


def kept_by(graph: dict[str, Any], node: str | None) -> dict[str, Any] | None:
    """Return a graph that leaves the result of this node in the cache."""
    if node is None:
        return None
    saver = {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": "first"}}
    return {node: graph[node], "99": saver}


def fill(standin: StandinServer) -> None:
    """Put the files into the input folder that the graphs read."""
    folder = standin.state.folders.inside("input", "")
    for name in ("example.png", "only_a.png"):
        Image.new("RGBA", (64, 64), (10, 20, 30, 128)).save(folder / name)
    with wave.open(str(folder / "tone.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"".join(struct.pack("<h", (97 * index) % 20_000 - 10_000) for index in range(8000)))
    header = json.dumps({"latent_tensor": {"dtype": "F32", "shape": [1, 4, 8, 8], "data_offsets": [0, 1024]}}).encode()
    (folder / "fresh.latent").write_bytes(struct.pack("<Q", len(header)) + header + bytes(1024))
