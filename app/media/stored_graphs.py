"""Reads the graph that ComfyUI has written into a file: nothing is decoded, and little is read. Blocking: for threads.

Where its savers write it: text chunks of PNG, attributes of OpenEXR, EXIF of WebP, comments of FLAC and Ogg, the tag of
MP3, names and texts in the head of MP4, tags of Matroska and WebM, `metadata` of SVG, `extras` of binary glTF.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from app.domain.envelopes import is_graph, is_ui_format
from app.domain.hints import shown
from app.media.containers import boxes, ebml, pictures, riff, sounds, texts, tiff
from app.media.containers.source import MOST_TEXT_BYTES, Bounded, Damaged, Source, TooMuch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

MOST_VALUES: Final = 500_000
"""Commas, colons and opening brackets of all texts of a file that are read: `app.web.bodies` takes as many."""
MOST_OTHERS_BYTES: Final = 16 * 2**20
"""Of all members besides prompt and workflow together."""
MOST_TEXTS: Final = 1_000
"""Of a file; ComfyUI writes a few, other programs some tens."""
_MOST_TOLD_BYTES: Final = 64 * 2**20
"""Of all texts of a file, unpacked."""
_MOST_READ_BYTES: Final = 128 * 2**20
_FEWEST_READS: Final = 20_000
_READS_PER_MIB: Final = 6_000
_MOST_READS: Final = 400_000
"""Pieces of a file that are read, of a microsecond each. Real files have some hundreds in each MiB."""
_MOST_DIGITS: Final = 500
_MOST_NAME_CHARS: Final = 200
_PROMPT, _WORKFLOW = "prompt", "workflow"
_COMMENTS: Final = ("comment", "description", "usercomment")
"""Names under which other programs keep one JSON object of all."""
_OF_SERVER: Final = "is_changed"
"""What the server notes at a node while a graph runs, and writes into files with it. If it is sent again, the server
believes it, and does not ask the node whether its files have changed."""
_EXIF_MARKS: Final = (b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8))


class UnreadableGraph(ValueError):
    """A file carries a graph that cannot be read, or more than is read; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """What a file carries, each a JSON text: NaN, which is no JSON, has become null."""

    prompt: str | None
    """The graph in API format; None when there is one in UI format only."""
    workflow: str | None
    """The graph in UI format, as ComfyUI's page has it."""
    others: Mapping[str, str]
    """What else was in `extra_pnginfo`."""


def stored_graph(file: BinaryIO) -> StoredGraph | None:
    """Return the graph that an open file carries; None when it has none, or is of a kind that carries none.

    Raises
    ------
    UnreadableGraph
    """
    source = _bounded(file)
    read = _reader(source)
    if read is None:
        return None
    members = _Members()
    try:
        # All that the readers of containers raise for damaged files, as in `forms.read_form`.
        for name, text in read(source):
            members.add(name, text)
    except TooMuch as error:
        raise UnreadableGraph("the file has too many parts or texts to be looked through") from error
    except Damaged as error:
        raise UnreadableGraph(f"the file is damaged: {error}") from error
    except (struct.error, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableGraph("the structure of the file is invalid") from error
    return members.graph()


def _bounded(file: BinaryIO) -> Bounded:
    size = file.seek(0, io.SEEK_END)
    reads = min(_FEWEST_READS + _READS_PER_MIB * (size >> 20), _MOST_READS)
    return Bounded(file, reads=reads, read_bytes=_MOST_READ_BYTES)


class _Members:
    """The members of `extra_pnginfo`, and the prompt, as they are found."""

    def __init__(self) -> None:
        self._named: dict[str, bytes] = {}
        self._told: dict[str, bytes] = {}
        """What stands in a comment: a member of its own counts for more."""
        self._texts = self._told_bytes = self._other_bytes = self._values = 0

    def add(self, name: str, text: bytes) -> None:
        """Take a text if it may be a member: all of them are JSON, and most texts of a file are none."""
        self._texts += 1
        self._told_bytes += len(text)
        if self._texts > MOST_TEXTS or self._told_bytes > _MOST_TOLD_BYTES:
            raise TooMuch
        is_long = len(text) > MOST_TEXT_BYTES
        text = text.strip(b"\0 \t\r\n\xef\xbb\xbf")
        if text[:1] not in (b"{", b"[", b'"') or not 0 < len(name) <= _MOST_NAME_CHARS:
            return
        if (key := name.lower()) in _COMMENTS:
            self._open(text, is_long=is_long)
            return
        if key not in (_PROMPT, _WORKFLOW):
            if not is_long:
                self._add_other(name, text)
            return
        if is_long:
            raise UnreadableGraph(f"its {key} is larger than {MOST_TEXT_BYTES >> 20} MiB")
        if self._named.setdefault(key, text) != text:
            raise UnreadableGraph(f"it has two of them, and which {key} is meant cannot be known")

    def add_all(self, told: Any) -> None:
        """Take the members of an object that holds them all."""
        for name, value in told.items() if isinstance(told, dict) else ():
            name = name.lower() if name.lower() in (_PROMPT, _WORKFLOW) else name
            is_text = isinstance(value, str) and name in (_PROMPT, _WORKFLOW)
            text = value if is_text else _text(value)
            if text is not None:
                self._told.setdefault(name, text.encode("utf-8", "surrogatepass"))

    def read(self, text: bytes) -> Any:
        """Return what a JSON text says; raises `UnreadableGraph`."""
        self._values += sum(map(text.count, (b",", b":", b"[", b"{")))
        if self._values > MOST_VALUES:
            raise UnreadableGraph(f"it holds more than {MOST_VALUES} names and values")
        try:
            return _DECODER.decode(text.decode())
        except UnicodeDecodeError as error:
            raise UnreadableGraph("it is not UTF-8") from error
        except json.JSONDecodeError as error:
            raise UnreadableGraph(f"it is no JSON: {error.msg} at character {error.pos}") from error
        except UnreadableGraph:
            raise
        except (ValueError, RecursionError) as error:
            raise UnreadableGraph("a number in it is too long, or it nests too deep") from error

    def graph(self) -> StoredGraph | None:
        """Return what was found."""
        found = self._told | self._named
        prompt, workflow = (self._value(found.get(name), name) for name in (_PROMPT, _WORKFLOW))
        if not is_graph(prompt):
            # Some programs keep the one under the name of the other.
            workflow = prompt if is_ui_format(prompt) else workflow
            prompt, workflow = (workflow, None) if is_graph(workflow) else (None, workflow)
        if prompt is None and not is_ui_format(workflow):
            return None
        for node in prompt.values() if prompt is not None else ():
            if isinstance(node, dict):
                node.pop(_OF_SERVER, None)
        others = {name: self._other(text) for name, text in found.items() if name not in (_PROMPT, _WORKFLOW)}
        return StoredGraph(
            _text(prompt),
            _text(workflow),
            MappingProxyType({name: text for name, text in others.items() if text is not None}),
        )

    def _value(self, text: bytes | None, name: str) -> Any:
        try:
            return self.read(text) if text is not None else None
        except UnreadableGraph:
            if name == _WORKFLOW and _PROMPT in self._told | self._named:
                # It is for ComfyUI's page only: the graph runs without it.
                return None
            raise

    def _other(self, text: bytes) -> str | None:
        try:
            return _text(self.read(text))
        except UnreadableGraph:
            # It was some program's text that only begins like JSON.
            return None

    def _add_other(self, name: str, text: bytes) -> None:
        self._other_bytes += len(text)
        if self._other_bytes <= MOST_OTHERS_BYTES:
            self._named.setdefault(name, text)

    def _open(self, text: bytes, *, is_long: bool) -> None:
        if b'"prompt"' not in text and b'"workflow"' not in text:
            return
        if is_long:
            raise UnreadableGraph(f"the comment with it is larger than {MOST_TEXT_BYTES >> 20} MiB")
        self.add_all(self.read(text))


def _text(value: Any) -> str | None:
    """Return the value as JSON text, in ASCII as ComfyUI's own: half a character has no other form."""
    try:
        return json.dumps(value, separators=(",", ":")) if value is not None else None
    except (ValueError, RecursionError) as error:
        raise UnreadableGraph("it nests too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UnreadableGraph(f"it has the name {shown(twice)!r} twice")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _fraction(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("too large a number")
    return value


def _no_number(told: str) -> None:
    """NaN and infinity become null, as when ComfyUI's page reads such a file."""
    del told


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=_no_number
)


def _of_exif(exif: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what texts of EXIF data tell: ComfyUI writes `name:text`, and other programs one JSON object of all."""
    for _, text in tiff.exif_texts(Source(io.BytesIO(exif))):
        text = text[8:] if text[:8] in _EXIF_MARKS else text
        if text[:2] in (b"\0{", b"{\0"):
            yield "usercomment", _from_utf16(text)
        elif text.startswith(b"{"):
            yield "usercomment", text
        else:
            name, colon, _ = text[: 4 * _MOST_NAME_CHARS].partition(b":")
            yield name.decode("utf-8", "replace") if colon else "", text[len(name) + 1 :]


def _from_utf16(text: bytes) -> bytes:
    return text.decode("utf-16-le" if text[1:2] == b"\0" else "utf-16-be", "replace").encode()


def _webp(source: Source) -> Iterator[tuple[str, bytes]]:
    if (exif := riff.webp_exif(source)) is not None:
        yield from _of_exif(exif)


def _jpeg(source: Source) -> Iterator[tuple[str, bytes]]:
    for is_exif, data in pictures.jpeg_texts(source):
        if is_exif:
            yield from _of_exif(data)
        else:
            yield "comment", data


def _matroska(source: Source) -> Iterator[tuple[str, bytes]]:
    # Names of tags are in capitals there, whatever they were.
    return ((name.lower(), text) for name, text in ebml.tags(source))


def _svg(source: Source) -> Iterator[tuple[str, bytes]]:
    if (told := texts.svg_metadata(source)) is not None:
        yield "comment", told.encode("utf-8", "surrogatepass")


def _glb(source: Source) -> Iterator[tuple[str, bytes]]:
    scene = riff.glb_scene(source)
    if b'"extras"' not in scene or (b'"prompt"' not in scene and b'"workflow"' not in scene):
        return
    if len(scene) > MOST_TEXT_BYTES:
        raise UnreadableGraph(f"the description of the scene is larger than {MOST_TEXT_BYTES >> 20} MiB")
    try:
        asset = _Members().read(scene)["asset"]
    except UnreadableGraph as error:
        raise UnreadableGraph(f"the description of the scene cannot be read: {error}") from error
    for name, text in (asset.get("extras") or {}).items():
        if isinstance(text, str):
            yield name, text.encode("utf-8", "surrogatepass")


_READERS: Final[tuple[tuple[tuple[bytes, ...], Callable[[Any], Iterable[tuple[str, bytes]]]], ...]] = (
    ((pictures.PNG,), pictures.png_texts),
    ((b"\xff\xd8\xff",), _jpeg),
    ((pictures.EXR,), pictures.exr_texts),
    (riff.STARTS, _webp),
    ((b"glTF",), _glb),
    ((ebml.START,), _matroska),
    ((b"fLaC",), sounds.flac_texts),
    ((b"OggS\0",), sounds.ogg_texts),
    ((b"ID3\3", b"ID3\4"), sounds.id3_texts),
)
"""First bytes of a format → what reads its texts."""


def _reader(source: Source) -> Callable[[Any], Iterable[tuple[str, bytes]]] | None:
    for starts, read in _READERS:
        if source.start.startswith(starts):
            return read
    if source.start[4:8] == b"ftyp" or source.start[4:8] in boxes.OLD_MOVIES:
        return boxes.film_texts
    return _svg if texts.is_svg(source.most(0, 2**14)) else None
