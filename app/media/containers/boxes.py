"""The boxes of ISO media files: MP4, MOV, M4A, 3GP, AVIF, HEIF, and JPEG XL in its container."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, Damaged, Form, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

JXL: Final = b"\0\0\0\x0cJXL \r\n\x87\n"
OLD_MOVIES: Final = (b"moov", b"mdat", b"wide")
"""Boxes that begin a QuickTime file of the days before brands."""
_STILLS: Final = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SOUNDS: Final = (b"M4A ", b"M4B ", b"M4P ")
_FILMS: Final = {b"qt  ": ("video/quicktime", "mov"), b"M4V ": ("video/x-m4v", "m4v"), b"3gp": ("video/3gpp", "3gp")}


_MOST_NAME_BYTES: Final = 1024
_A_COMMENT: Final = b"\xa9cmt"
COMMENT: Final = "comment"


def boxes(source: Source, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box with where its content begins and ends; raises `Damaged` for one that goes too far."""
    for _ in range(MOST_PARTS):
        if at >= end:
            return
        length, kind = struct.unpack(">I4s", source.at(at, 8))
        begin = at + 8
        if length == 1:
            length, begin = source.number(at + 8, 8), at + 16
        elif length == 0:
            length = end - at
        if length < begin - at or at + length > end:
            raise Damaged("a box is longer than what there is")
        yield kind, begin, at + length
        at += length


def media(source: Source) -> Form:
    """Check that the boxes of a video, sound or still picture are complete, and that one describes the rest."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, begin, end in boxes(source, 0, source.size):
        found.setdefault(kind, (begin, end))
    begin, end = found.get(b"ftyp", (0, 0))
    brands = source.most(begin, min(end - begin, 256))
    brand, others = brands[:4], {brands[at : at + 4] for at in range(8, len(brands), 4)}
    if brand in _STILLS:
        return _still(source, found, is_avif=bool({b"avif", b"avis"} & {brand, *others}))
    if b"moov" not in found or not {b"mdat", b"moof"} & found.keys():
        raise Damaged("it has no index, or nothing that it tells of")
    tracks = _tracks(source, *found[b"moov"])
    duration_s = _duration_s(source, *found[b"moov"])
    if brand in _SOUNDS or (b"soun" in tracks and b"vide" not in tracks):
        return Form("audio", "audio/mp4", "m4a", duration_s=duration_s)
    usual = ("video/mp4", "mp4") if b"ftyp" in found else _FILMS[b"qt  "]
    width, height = _frame(source, *found[b"moov"])
    return Form("video", *_FILMS.get(brand, _FILMS.get(brand[:3], usual)), width, height, duration_s)


def film_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of what the head of a film tells under names of its writer's choice, and its comment."""
    for kind, begin, end in boxes(source, 0, source.size):
        if kind == b"moov":
            for inner, at, stop in boxes(source, begin, end):
                if inner == b"meta":
                    yield from _told(source, at, stop)
                elif inner == b"udta":
                    yield from _user_data(source, at, stop)


def _user_data(source: Source, begin: int, end: int) -> Iterator[tuple[str, bytes]]:
    """Yield what a box of user data tells. QuickTime ends it with a zero, of four bytes."""
    if end - begin >= 4 and source.at(end - 4, 4) == bytes(4):
        end -= 4
    for kind, at, stop in boxes(source, begin, end):
        if kind == b"meta":
            yield from _told(source, at, stop)
        elif kind == _A_COMMENT and stop - at > 4:
            # Two bytes of its length and two of its language come first.
            yield COMMENT, source.at(at + 4, min(stop - at - 4, MOST_TEXT_BYTES + 1))


def _told(source: Source, begin: int, end: int) -> Iterator[tuple[str, bytes]]:
    """Yield the texts of a box of metadata: its list counts the names, from one, that stand in a box of their own."""
    names: list[str] = []
    # In QuickTime no version and flags come first.
    for kind, at, stop in boxes(source, begin if source.most(begin + 4, 4) == b"hdlr" else begin + 4, end):
        if kind == b"keys":
            # Four bytes of version and flags come first, and four of how many there are.
            names = list(_names(source, at + 8, stop))
        elif kind == b"ilst":
            for item, inner, inner_end in boxes(source, at, stop):
                number = int.from_bytes(item, "big")
                name = names[number - 1] if 0 < number <= len(names) else COMMENT if item == _A_COMMENT else None
                for value, place, last in boxes(source, inner, inner_end) if name is not None else ():
                    if value == b"data" and name is not None:
                        yield name, source.at(place + 8, min(last - place - 8, MOST_TEXT_BYTES + 1))


def _names(source: Source, at: int, end: int) -> Iterator[str]:
    while at + 8 <= end and (length := source.number(at, 4)) >= 8:
        yield source.most(at + 8, min(length - 8, _MOST_NAME_BYTES)).decode("utf-8", "replace")
        at += length


def jxl(source: Source) -> Form:
    """Look through the boxes of a JPEG XL file."""
    kinds = {kind for kind, _, _ in boxes(source, 0, source.size)}
    if not {b"jxlc", b"jxlp"} & kinds:
        raise Damaged("it has no picture")
    return Form("image", "image/jxl", "jxl")


def _still(source: Source, found: dict[bytes, tuple[int, int]], *, is_avif: bool) -> Form:
    index = found.get(b"meta") or found.get(b"moov")
    if index is None:
        raise Damaged("it has no index")
    if b"mdat" not in found and all(kind != b"idat" for kind, _, _ in boxes(source, index[0] + 4, index[1])):
        raise Damaged("it has nothing that its index tells of")
    width, height = max(_extents(source, found), key=lambda each: each[0] * each[1], default=(None, None))
    content_type, extension = ("image/avif", "avif") if is_avif else ("image/heic", "heic")
    return Form("image", content_type, extension, width or None, height or None)


def _extents(source: Source, found: dict[bytes, tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield width and height of each picture in a still."""
    if b"meta" not in found:
        return
    begin, end = found[b"meta"]
    # Four bytes of version and flags come first.
    for kind, inner, inner_end in boxes(source, begin + 4, end):
        if kind != b"iprp":
            continue
        for container, at, stop in boxes(source, inner, inner_end):
            if container == b"ipco":
                for name, place, _ in boxes(source, at, stop):
                    if name == b"ispe":
                        width, height = struct.unpack(">II", source.at(place + 4, 8))
                        yield width, height


def _duration_s(source: Source, begin: int, end: int) -> float | None:
    """Return how long a film is by its head, or, when it was written in fragments, by what the head says of them."""
    rate, count = 0, 0
    for kind, at, stop in boxes(source, begin, end):
        if kind == b"mvhd":
            long = source.at(at, 1) == b"\1"
            rate, count = source.number(at + (20 if long else 12), 4), _count(source, at + (24 if long else 16), long)
        elif kind == b"mvex" and not count:
            for inner, place, _ in boxes(source, at, stop):
                if inner == b"mehd":
                    count = _count(source, place + 4, source.at(place, 1) == b"\1")
    return seconds(count, rate)


def _count(source: Source, at: int, long: bool) -> int:
    count = source.number(at, 8 if long else 4)
    return 0 if count in (2**32 - 1, 2**64 - 1) else count


def _frame(source: Source, begin: int, end: int) -> tuple[int | None, int | None]:
    """Return width and height of the largest track of a film, as its heads say."""
    found = [(0, 0)]
    for kind, track, track_end in boxes(source, begin, end):
        if kind == b"trak":
            for name, at, stop in boxes(source, track, track_end):
                if name == b"tkhd" and stop - at >= 84:
                    # The last two fields, with 16 bits before the point.
                    found.append((source.number(stop - 8, 4) >> 16, source.number(stop - 4, 4) >> 16))
    width, height = max(found, key=lambda each: each[0] * each[1])
    return width or None, height or None


def _tracks(source: Source, begin: int, end: int) -> set[bytes]:
    """Return of what kinds the tracks of a film are."""
    found = set()
    for kind, track, track_end in boxes(source, begin, end):
        if kind != b"trak":
            continue
        for name, media_at, media_end in boxes(source, track, track_end):
            if name == b"mdia":
                for inner, at, _ in boxes(source, media_at, media_end):
                    if inner == b"hdlr":
                        found.add(source.at(at + 8, 4))
    return found
