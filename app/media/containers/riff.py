"""RIFF and what is built like it: WAV, RF64, AVI, WebP, AIFF, and binary glTF."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, Damaged, Form, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

STARTS: Final = (b"RIFF", b"RF64", b"BW64")
_UNTOLD: Final = 2**32 - 1
"""Value for a length that was unknown when the header was written, or that RF64 stores elsewhere."""


def riff(source: Source) -> Form | None:
    """Look through the chunks of a RIFF file; None for one of a kind that is not known here."""
    kind = source.most(8, 4)
    if kind == b"WEBP":
        return _webp(source)
    if kind == b"WAVE":
        return _wave(source)
    return _avi(source) if kind == b"AVI " else None


def aiff(source: Source) -> Form | None:
    """Look whether an AIFF file is as long as it says; None for another kind of IFF file."""
    if source.most(8, 4) not in (b"AIFF", b"AIFC"):
        return None
    end = 8 + source.number(4, 4)
    source.require(end)
    return Form("audio", "audio/x-aiff", "aiff", duration_s=_aiff_duration_s(source, end))


def _aiff_duration_s(source: Source, end: int) -> float | None:
    for kind, at, _ in _chunks(source, 12, end, order=">"):
        if kind == b"COMM":
            # The rate is a number of 80 bits: 15 of its exponent, and 64 of its digits.
            frames, exponent, digits = source.number(at + 2, 4), source.number(at + 8, 2), source.number(at + 10, 8)
            return seconds(frames, digits * 2.0 ** ((exponent & 0x7FFF) - 16446)) if exponent & 0x7FFF < 16500 else None
    return None


def glb(source: Source) -> Form:
    """Look through the chunks of a binary glTF."""
    length = source.number(8, 4, "little")
    source.require(length)
    at = 12
    kinds: list[bytes] = []
    while at < length and len(kinds) < MOST_PARTS:
        chunk, kind = struct.unpack("<I4s", source.at(at, 8))
        kinds.append(kind)
        at += 8 + chunk
        if at > length:
            raise Damaged("a chunk is longer than what it is in")
    if kinds[:1] != [b"JSON"]:
        raise Damaged("it has no scene")
    return Form("file", "model/gltf-binary", "glb")


def glb_scene(source: Source) -> bytes:
    """Return what describes the scene of a binary glTF, a JSON text, cut off behind `MOST_TEXT_BYTES` and one more."""
    length, kind = struct.unpack("<I4s", source.at(12, 8))
    if kind != b"JSON":
        raise Damaged("it has no scene")
    source.require(20 + length)
    return source.at(20, min(length, MOST_TEXT_BYTES + 1))


def webp_exif(source: Source) -> bytes | None:
    """Return the EXIF data of a WebP, a file of their own."""
    if source.most(8, 4) == b"WEBP":
        for kind, at, length in _chunks(source, 12, min(8 + source.number(4, 4, "little"), source.size)):
            if kind == b"EXIF":
                return source.at(at, length).removeprefix(b"Exif\0\0")
    return None


def _chunks(source: Source, at: int, end: int, order: str = "<") -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk with where its content begins, and how long it says that it is."""
    for _ in range(MOST_PARTS):
        if at + 8 > end:
            return
        kind, length = struct.unpack(f"{order}4sI", source.at(at, 8))
        yield kind, at + 8, length
        at += 8 + length + length % 2


def _avi(source: Source) -> Form:
    """Look whether all parts of an AVI are there: one of more than a gigabyte has several."""
    at = 0
    while source.most(at, 4) == b"RIFF" and (length := source.number(at + 4, 4, "little")) != _UNTOLD:
        at += 8 + length + length % 2
        source.require(at - length % 2)
    width = height = duration_s = None
    if source.most(12, 4) == b"LIST" and source.most(24, 4) == b"avih":
        duration_s = seconds(source.number(48, 4, "little") * source.number(32, 4, "little"), 1e6)
        width, height = source.number(64, 4, "little") or None, source.number(68, 4, "little") or None
    return Form("video", "video/x-msvideo", "avi", width, height, duration_s)


def _webp(source: Source) -> Form:
    end = 8 + source.number(4, 4, "little")
    source.require(end)
    width = height = 0
    has_picture = False
    for kind, at, length in _chunks(source, 12, end):
        if at + length > end:
            raise Damaged("a chunk is longer than what it is in")
        if kind == b"VP8X":
            width, height = (1 + source.number(place, 3, "little") for place in (at + 4, at + 7))
        elif kind == b"VP8L" and not width:
            bits = source.number(at + 1, 4, "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 " and not width:
            width, height = (source.number(place, 2, "little") & 0x3FFF for place in (at + 6, at + 8))
        has_picture = has_picture or kind in (b"VP8 ", b"VP8L", b"ANMF")
    if not width or not height or not has_picture:
        raise Damaged("it has no picture")
    return Form("image", "image/webp", "webp", width, height)


def _wave(source: Source) -> Form:
    """Look whether the samples are all there. The lengths of RF64 are in a chunk of their own."""
    is_large = source.start[:4] != b"RIFF"
    long_end = long_data = 0
    end = 8 + source.number(4, 4, "little")
    if end in (8, 8 + _UNTOLD):
        end = source.size
    # A chunk of odd length may lack the byte that fills it up.
    source.require(end - 1)
    bytes_a_second = 0
    for kind, at, length in _chunks(source, 12, source.size):
        if kind == b"fmt ":
            source.require(at + length)
            bytes_a_second = source.number(at + 8, 4, "little")
        elif kind == b"ds64":
            long_end, long_data = struct.unpack("<QQ", source.at(at, 16))
            source.require(8 + long_end - 1)
        elif kind == b"data":
            if length == _UNTOLD:
                length = long_data if is_large else 0
            source.require(at + length)
            return Form("audio", "audio/x-wav", "wav", duration_s=seconds(length, bytes_a_second))
        else:
            source.require(at + length)
    raise Damaged("it has no samples")
