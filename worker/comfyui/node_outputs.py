"""Reads the `ui` results of nodes as outputs: files, texts, and everything else as data."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import orjson

from app.domain.output_folders import own_path, random_file
from app.domain.text import word

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SENT: Final = "websocket"
"""Value of `folder` for a picture that came through the event socket and exists nowhere else."""
MOST_OUTPUTS: Final = 2_000
"""Maximum number of outputs kept of a run; each has a row, and possibly a thumbnail."""
MOST_NAME_CHARS: Final = 1_024
"""Maximum characters of a file's or folder's name; file systems allow a quarter of that for a name."""
_MOST_KEY_CHARS: Final = 100
_FEW_ITEMS: Final = 16
"""Maximum number of values under a key that become an output each; more, such as a curve's points, become one list."""
_MOST_DEPTH: Final = 200
"""Maximum nesting depth of data; deeper parts are cut off."""
_MARKS: Final = frozenset({"animated"})
"""Keys by which ComfyUI tells its own page something about the files next to them."""
_WHOLE_TEXTS: Final = frozenset({"PreviewAny", "SaveText"})
"""ComfyUI's own nodes that show a text; they never return it as a list of letters."""
_OF_FILES: Final = frozenset("images gifs audio video videos files 3d latents".split())
"""Keys under which a record with just a file name counts as a file."""
_FILES_AND_TEXTS: Final = frozenset({"files", "text"})
_TEXT_ENDINGS: Final = (".txt", ".csv", ".md", ".json")
_NUMBER: Final = re.compile(r"(\d{1,18})", re.ASCII)
_NOTHING: Final[tuple[Any, ...]] = (None, [], {})
"""Values that are no output when they are the only ones under a key."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that ComfyUI's history names, or a text or data that is in the history itself."""

    node_id: str
    filename: str
    subfolder: str = ""
    folder: str = "output"
    text: str | None = None
    """The text or JSON from the history; None for a file."""
    is_data: bool = False
    """Whether `text` is JSON."""
    key: str = ""
    """The key in the node's `ui`."""
    instead: OutputFile | None = None
    """The file's text, if the node also returned it; kept when the file cannot be."""

    @property
    def content(self) -> tuple[str | None, ...]:
        """Key of the content, the same whichever node names it."""
        return self.folder, self.subfolder, self.filename, self.text

    @property
    def preview(self) -> bool:
        """Whether it is a temporary file."""
        return self.text is None and self.folder == "temp"

    @property
    def source(self) -> dict[str, str]:
        """The name that ComfyUI gave it; texts and data have only the key."""
        if self.text is not None:
            return {"key": self.key}
        if self.folder == SENT:
            # ComfyUI gives such a picture no name.
            return {"type": SENT}
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.folder, "key": self.key}


def read_shown(found: Any, graph: Any = None, folder_id: str = "") -> tuple[list[OutputFile], list[str]]:
    """Return the outputs of all nodes, and warnings about those left out.

    They are in the order of the nodes in the graph, because servers return them in the order of their cache or of
    execution.
    """
    nodes = found.items() if isinstance(found, dict) else ()
    places = {word(key): place for place, key in enumerate(graph)} if isinstance(graph, dict) else {}
    placed = sorted(((word(node_id), shown) for node_id, shown in nodes), key=lambda node: _place(places, node[0]))
    read = list(chain.from_iterable(read_node(of, shown, class_of(graph, of), folder_id) for of, shown in placed))
    if len(read) <= MOST_OUTPUTS:
        return read, []
    # If not all can be kept, files that are not temporary come first.
    kept = sorted(sorted(range(len(read)), key=lambda index: read[index].preview)[:MOST_OUTPUTS])
    note = f"The run made {len(read):,} outputs; only {MOST_OUTPUTS:,} of them are kept."
    return [read[index] for index in kept], [note]


def read_node(node_id: str, shown: Any, class_type: str = "", folder_id: str = "") -> list[OutputFile]:
    """Return what one node shows, each file once.

    What is no file and no text is data: each value for itself, for ComfyUI makes lists of everything.
    """
    if not isinstance(shown, dict):
        return []
    reading = _Node(node_id, folder_id, spells=class_type not in _WHOLE_TEXTS)
    read = [each for key, value in shown.items() for each in reading.under(word(key, _MOST_KEY_CHARS), value)]
    files = dict.fromkeys(each.content for each in read if each.text is None)
    once = [each for each in read if each.text is not None or files.pop(each.content, True) is None]
    if any(each.text is None for each in once):
        once = [each for each in once if not (each.is_data and each.key in _MARKS)]
    return _told_once(once) if frozenset(shown) == _FILES_AND_TEXTS else once


class _Node:
    """Reads one node's `ui`. `spells`: whether a list of letters may be a text that ComfyUI has split."""

    def __init__(self, node_id: str, folder_id: str, *, spells: bool) -> None:
        self._node_id = node_id
        self._folder_id = folder_id
        self._spells = spells

    def under(self, key: str, value: Any) -> list[OutputFile]:
        """Return the outputs under a key, in order; many data values become one output, which comes first."""
        items = value if isinstance(value, list) else [value]
        if self._spells and _is_spelled(items):
            items = ["".join(items)]
        read = [(item, self._read(key, item)) for item in items]
        rest = [item for item, found in read if not found]
        says = any(item not in _NOTHING for item in rest)
        if len(rest) <= _FEW_ITEMS:
            each_data = ([self._data(key, item)] if says else [] for item, found in read if not found)
            return list(chain.from_iterable(found or next(each_data) for _, found in read))
        together = [self._data(key, rest)] if says else []
        return together + list(chain.from_iterable(found for _, found in read))

    def _data(self, key: str, value: Any) -> OutputFile:
        return OutputFile(self._node_id, "data.json", text=_json(value), is_data=True, key=key)

    def _read(self, key: str, item: Any) -> list[OutputFile]:
        """Return the files or the text that an item is; nothing of one that is data."""
        if isinstance(item, str):
            text = OutputFile(self._node_id, "text.txt", text=item, key=key)
            return [self._path(text, item) or text]
        if isinstance(item, dict):
            file = _file(self._node_id, key, item)
            return [file] if file is not None else []
        if isinstance(item, list) and item and all(isinstance(each, dict) for each in item):
            files = [_file(self._node_id, key, each) for each in item]
            return [file for file in files if file is not None] if None not in files else []
        return []

    def _path(self, told: OutputFile, text: str) -> OutputFile | None:
        """Return the file whose path is this text; None for a text that is not the path of a file of this run.

        Save3DAdvanced and similar nodes report only the path, so the file would otherwise not be found.
        """
        if len(text) > MOST_NAME_CHARS or not _can_be_asked_for(text):
            return None
        if (found := random_file(text)) is not None:
            return OutputFile(self._node_id, found[1], folder=found[0], key=told.key, instead=told)
        path = own_path(text, self._folder_id)
        if path is None:
            return None
        subfolder, _, name = path.rpartition("/")
        return OutputFile(self._node_id, name, subfolder, key=told.key, instead=told)


def _is_spelled(items: list[Any]) -> bool:
    """Whether a list is a text split into letters: ComfyUI makes a list of each value that a node shows, even a text.

    A list of one-letter texts looks the same. It is far rarer, and joining it loses only the separation.
    """
    return len(items) > 1 and all(isinstance(item, str) and len(item) == 1 for item in items)


def _told_once(read: list[OutputFile]) -> list[OutputFile]:
    """Return only the files if there are as many texts, their contents, as `SaveText` shows; else return all."""
    files = [each for each in read if each.text is None]
    texts = [each for each in read if each.text is not None and not each.is_data]
    if len(files) != len(texts) or len(read) != 2 * len(files):
        return read
    if not all(file.filename.lower().endswith(_TEXT_ENDINGS) for file in files):
        return read
    return [replace(file, instead=text) for file, text in zip(files, texts, strict=True)]


def _file(node_id: str, key: str, item: Mapping[str, Any]) -> OutputFile | None:
    """Return the file that a record names; None for one that names none, or none that there can be."""
    if key not in _OF_FILES and item.keys().isdisjoint(("subfolder", "type")):
        return None
    name, *where = item.get("filename"), item.get("subfolder") or "", item.get("type") or "output"
    parts = [part for part in (name, *where) if isinstance(part, str) and _can_be_asked_for(part)]
    if not name or len(parts) != 1 + len(where):
        return None
    filename, subfolder, folder = parts
    return OutputFile(node_id, filename, subfolder, folder, key=key)


def _can_be_asked_for(part: str) -> bool:
    try:
        return len(part) <= MOST_NAME_CHARS and "\0" not in part and bool(part.encode() or True)
    except UnicodeEncodeError:
        return False


def class_of(graph: Any, node_id: str) -> str:
    """Return the class of a graph's node; empty where there is none, as of one that another node has put in."""
    node = graph.get(node_id) if isinstance(graph, dict) else None
    return word(node.get("class_type")) if isinstance(node, dict) else ""


def _place(places: Mapping[str, int], node_id: str) -> tuple[int, list[tuple[bool, int, str]]]:
    """Return the sort key of a node. A node that another one has added (`3.0.0.1`) comes after that one.

    Nodes without a place in the graph come last; numbers in their ids are compared as numbers.
    """
    of, dot = node_id, "."
    while of not in places and dot:
        of, dot, _ = of.rpartition(".")
    parts = [part for part in _NUMBER.split(node_id) if part]
    named = [(False, int(part), "") if _NUMBER.fullmatch(part) else (True, 0, part) for part in parts]
    return places.get(of, len(places)), [] if node_id in places else named


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # An integer of more than 64 bits, half a character, or deeper than it goes.
        return json.dumps(_plain(value, 0))


def _plain(value: Any, depth: int) -> Any:
    """Return the value without NaN and infinity, cut off at the maximum depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if depth == _MOST_DEPTH and isinstance(value, dict | list):
        return None
    if isinstance(value, dict):
        return {key: _plain(each, depth + 1) for key, each in value.items()}
    return [_plain(each, depth + 1) for each in value] if isinstance(value, list) else value


def saved(files: Iterable[OutputFile]) -> list[OutputFile]:
    """Return the files among them that were saved to last."""
    return [file for file in files if file.folder == "output" and file.text is None]
