"""WebM and Matroska: nested elements; those of a live stream may have an unknown length."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, Damaged, Form, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

START: Final = b"\x1a\x45\xdf\xa3"
_HEAD, _SEGMENT, _CLUSTER, _TRACKS = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B
_DOCTYPE, _TRACK, _TRACK_TYPE = 0x4282, 0xAE, 0x83
_INFO, _SCALE, _DURATION, _PICTURE, _WIDTH, _HEIGHT = 0x1549A966, 0x2AD7B1, 0x4489, 0xE0, 0xB0, 0xBA
_TAGS, _TAG, _SIMPLE_TAG, _TAG_NAME, _TAG_STRING = 0x1254C367, 0x7373, 0x67C8, 0x45A3, 0x4487
_MOST_NAME_BYTES: Final = 1024
_USUAL_SCALE: Final = 1_000_000
"""Nanoseconds of a unit of time, where the file does not say."""
_OF_SEGMENT: Final = (_CLUSTER, _TRACKS, 0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367)
"""What may follow a cluster of unknown length: another one, or what else a segment has."""
_VIDEO, _AUDIO = 1, 2


def ebml(source: Source) -> Form | None:
    """Look through the elements of a WebM or Matroska file; None for another kind of document."""
    head, at, end = _element(source, 0)
    if head != _HEAD or end is None:
        raise Damaged("it has no head")
    told = {name: source.at(begin, stop - begin) for name, begin, stop in _known(source, at, end)}
    doctype = told.get(_DOCTYPE, b"").rstrip(b"\0")
    if doctype not in (b"webm", b"matroska"):
        return None
    kinds: set[int] = set()
    has_clusters = False
    duration_s: float | None = None
    size: tuple[int | None, int | None] = None, None
    at = end
    while at < source.size:
        name, begin, end = _element(source, at)
        if name == _SEGMENT:
            for inner, inner_at, inner_end in _children(source, begin, end):
                has_clusters = has_clusters or inner == _CLUSTER
                if inner == _TRACKS:
                    kinds |= set(_track_types(source, inner_at, inner_end))
                    size = _frame(source, inner_at, inner_end)
                elif inner == _INFO:
                    duration_s = _duration_s(source, inner_at, inner_end)
            # What follows it is no part of it.
            break
        at = source.size if end is None else end
    if not has_clusters or not kinds:
        raise Damaged("it has no tracks, or nothing in them")
    if _AUDIO in kinds and _VIDEO not in kinds:
        usual = ("audio/webm", "webm") if doctype == b"webm" else ("audio/x-matroska", "mka")
        return Form("audio", *usual, duration_s=duration_s)
    usual = ("video/webm", "webm") if doctype == b"webm" else ("video/x-matroska", "mkv")
    return Form("video", *usual, *size, duration_s)


def tags(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of each tag, as far as the first cluster of unknown length: a live stream has none behind."""
    at = 0
    while at < source.size:
        name, begin, end = _element(source, at)
        if name == _SEGMENT:
            at, stop_at = begin, source.size if end is None else end
            while at < stop_at:
                inner, inner_at, inner_end = _element(source, at)
                if inner_end is None:
                    return
                if inner == _TAGS:
                    yield from _simple_tags(source, inner_at, inner_end)
                at = inner_end
            return
        at = source.size if end is None else end


def _simple_tags(source: Source, at: int, end: int) -> Iterator[tuple[str, bytes]]:
    for name, begin, stop in _known(source, at, end):
        for inner, inner_at, inner_end in _known(source, begin, stop) if name == _TAG else ():
            if inner == _SIMPLE_TAG:
                told = {key: (a, b) for key, a, b in _known(source, inner_at, inner_end)}
                if _TAG_NAME in told and _TAG_STRING in told:
                    (a, b), (c, d) = told[_TAG_NAME], told[_TAG_STRING]
                    named = source.at(a, min(b - a, _MOST_NAME_BYTES)).rstrip(b"\0").decode("utf-8", "replace")
                    yield named, source.at(c, min(d - c, MOST_TEXT_BYTES + 1))


def _element(source: Source, at: int) -> tuple[int, int, int | None]:
    """Return an element's name, and where its content begins and ends; None for an end that is not told."""
    first = source.at(at, 1)[0]
    name_bytes = 9 - first.bit_length()
    if name_bytes > 4:
        raise Damaged("there is no element where one belongs")
    name = source.number(at, name_bytes)
    at += name_bytes
    first = source.at(at, 1)[0]
    length_bytes = 9 - first.bit_length()
    if length_bytes > 8:
        raise Damaged("there is no element where one belongs")
    mask = (1 << 7 * length_bytes) - 1
    length = source.number(at, length_bytes) & mask
    at += length_bytes
    if length == mask:
        return name, at, None
    source.require(at + length)
    return name, at, at + length


def _known(source: Source, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the elements between two places."""
    for _ in range(MOST_PARTS):
        if at >= end:
            return
        name, begin, stop = _element(source, at)
        if stop is None or stop > end:
            raise Damaged("an element is longer than what it is in")
        yield name, begin, stop
        at = stop


def _children(source: Source, at: int, end: int | None) -> Iterator[tuple[int, int, int]]:
    """Yield the elements of a segment: of a cluster of unknown length, what is in it is looked through as well."""
    stop_at = source.size if end is None else end
    for _ in range(MOST_PARTS):
        if at >= stop_at:
            return
        name, begin, stop = _element(source, at)
        if stop is None:
            if name != _CLUSTER:
                raise Damaged("an element has no end")
            stop = _end_of_cluster(source, begin, stop_at)
        if stop > stop_at:
            raise Damaged("an element is longer than what it is in")
        yield name, begin, stop
        at = stop


def _end_of_cluster(source: Source, at: int, end: int) -> int:
    for _ in range(MOST_PARTS):
        if at >= end:
            break
        name, _, stop = _element(source, at)
        if name in _OF_SEGMENT:
            break
        if stop is None:
            raise Damaged("an element has no end")
        at = stop
    return at


def _duration_s(source: Source, at: int, end: int) -> float | None:
    scale, count = _USUAL_SCALE, 0.0
    for name, begin, stop in _known(source, at, end):
        if name == _SCALE:
            scale = source.number(begin, stop - begin)
        elif name == _DURATION and stop - begin in (4, 8):
            (count,) = struct.unpack(">f" if stop - begin == 4 else ">d", source.at(begin, stop - begin))
    return seconds(count * scale, 1e9)


def _frame(source: Source, at: int, end: int) -> tuple[int | None, int | None]:
    """Return width and height of the first track that has pictures."""
    for name, begin, stop in _known(source, at, end):
        if name == _TRACK:
            for inner, inner_at, inner_end in _known(source, begin, stop):
                if inner == _PICTURE:
                    told = {key: source.number(a, min(b - a, 8)) for key, a, b in _known(source, inner_at, inner_end)}
                    return told.get(_WIDTH) or None, told.get(_HEIGHT) or None
    return None, None


def _track_types(source: Source, at: int, end: int) -> Iterator[int]:
    for name, begin, stop in _known(source, at, end):
        if name == _TRACK:
            for inner, inner_at, inner_end in _known(source, begin, stop):
                if inner == _TRACK_TYPE:
                    yield source.number(inner_at, inner_end - inner_at)
