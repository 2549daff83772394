"""FLAC, Ogg, MP3 and AAC: their frames and pages."""

from __future__ import annotations

import functools
import re
import struct
import zlib
from typing import TYPE_CHECKING, Final

from app.media.containers.source import MOST_PARTS, MOST_TEXT_BYTES, STEP_BYTES, Damaged, Form, TooMuch, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.media.containers.source import Source

_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_SYNC: Final = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SAMPLES: Final = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}
_MOST_FRAME_BYTES: Final = STEP_BYTES
_LEAST_FRAME_BYTES: Final = 10
"""Of a FLAC frame of silence: six of its head, two of its one value, two of its checksum. ComfyUI's has eleven."""
_BIT_RATES: Final = {
    (3, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""MPEG's version (3: 1, else 2) and layer (3: I, 1: III), as its head has them → kilobits a second."""
_RATES: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_AAC_RATES: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_OGG_HEADS: Final = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ", b"\x80theora")
_OGG_COMMENTS: Final = (b"OpusTags", b"\x03vorbis", b"\x81theora")
_MOST_TAG_BYTES: Final = 4 * MOST_TEXT_BYTES
"""Of all texts of a sound together, its picture among them."""
_MOST_FRAMES: Final = 10_000
"""Of a tag."""
_ENCODINGS: Final = ("latin-1", "utf-16", "utf-16-be", "utf-8")
"""Of a text in a tag, by their number."""
_FRAMES_IN_A_ROW: Final = 3
"""Number of frames that must follow each other at the beginning: two bytes alone may begin any file."""


def flac(source: Source) -> Form:
    """Look through the heads of a FLAC file, and whether it ends with a whole frame: the last one, if it says how many.

    The length of a frame is not known before it is decoded, so the others are not checked.
    """
    at, last, streaminfo = 4, False, b""
    while not last:
        lead = source.number(at, 4)
        last, kind, length = bool(lead >> 31), lead >> 24 & 127, lead & 0xFFFFFF
        if kind == 0:
            streaminfo = source.at(at + 4, length)
        at += 4 + length
        source.require(at)
    if len(streaminfo) < 34:
        raise Damaged("it has no head")
    block, longest = struct.unpack(">H", streaminfo[2:4])[0], int.from_bytes(streaminfo[7:10], "big")
    total = int.from_bytes(streaminfo[13:18], "big") & (1 << 36) - 1
    end = source.size
    if end - at > 128 and source.at(end - 128, 3) == b"TAG":
        end -= 128
    begin = max(at, end - (longest or _MOST_FRAME_BYTES))
    tail = source.at(begin, end - begin)
    for found in reversed(list(_SYNC.finditer(tail))):
        frame = tail[found.start() :]
        ended_at = _flac_frame(frame, block)
        if ended_at is not None and _crc(frame, 0x8005, 16) == 0:
            if total and ended_at < total:
                break
            rate = int.from_bytes(streaminfo[10:13], "big") >> 4
            return Form("audio", "audio/x-flac", "flac", duration_s=seconds(total or ended_at, rate))
    raise Damaged("it is cut off")


def flac_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of each comment of a FLAC file."""
    at, last = 4, False
    while not last:
        lead = source.number(at, 4)
        last, kind, length = bool(lead >> 31), lead >> 24 & 127, lead & 0xFFFFFF
        if kind == 4:
            yield from _comments(source.at(at + 4, length))
        at += 4 + length


def ogg_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of each comment of the first sound or film in an Ogg file, in the second of its packets."""
    at, serial, packet = 0, None, bytearray()
    while at < source.size:
        head = source.at(at, 27)
        if head[:4] != b"OggS":
            raise Damaged("there is no page where one belongs")
        table = source.at(at + 27, head[26])
        begin, length = at + 27 + len(table), sum(table)
        if head[5] & 2:
            if serial is None and source.most(begin, 8).startswith(_OGG_HEADS):
                serial = head[14:18]
        elif head[14:18] == serial:
            # A piece of fewer than 255 bytes is the last one of a packet.
            last = next((place for place, piece in enumerate(table) if piece < 255), None)
            packet += source.at(begin, length if last is None else sum(table[: last + 1]))
            if last is not None:
                yield from _comments(_without_mark(bytes(packet)))
                return
            if len(packet) > _MOST_TAG_BYTES:
                raise TooMuch
        at = begin + length


def _without_mark(packet: bytes) -> bytes:
    for mark in _OGG_COMMENTS:
        packet = packet.removeprefix(mark)
    # FLAC has the head of its block there, of four bytes.
    return (
        packet[4:] if packet[:1] in (b"\4", b"\x84") and packet[1:4] == (len(packet) - 4).to_bytes(3, "big") else packet
    )


def _comments(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of each of Vorbis' comments."""
    at = 4 + int.from_bytes(data[:4], "little")
    (count,) = struct.unpack_from("<I", data, at)
    for _ in range(count):
        at += 4
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            raise Damaged("a comment is longer than what it is in")
        name, _, text = data[at + 4 : at + 4 + length].partition(b"=")
        yield name.decode("utf-8", "replace"), text
        at += length


def id3_texts(source: Source) -> Iterator[tuple[str, bytes]]:
    """Yield name and text, in UTF-8, of each text of the writer's own in the tag before an MP3 or AAC file."""
    version, flags = source.at(3, 1)[0], source.at(5, 1)[0]
    body = source.most(10, min(_synchsafe(source.at(6, 4)), _MOST_TAG_BYTES))
    if flags & 0x80 and version < 4:
        body = body.replace(b"\xff\0", b"\xff")
    at = 0
    if flags & 0x40:
        at = _synchsafe(body[:4]) if version == 4 else 4 + int.from_bytes(body[:4], "big")
    for _ in range(_MOST_FRAMES):
        name, size = body[at : at + 4], body[at + 4 : at + 8]
        if len(size) < 4 or not name.strip(b"\0"):
            return
        length = _synchsafe(size) if version == 4 else int.from_bytes(size, "big")
        if name == b"TXXX":
            yield from _own_text(body[at + 10 : at + 10 + length], version, body[at + 9])
        at += 10 + length
    raise TooMuch


def _own_text(data: bytes, version: int, flags: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and text of a frame; nothing of one that is packed or encrypted."""
    if flags & (0x0C if version == 4 else 0xC0):
        return
    if version == 4:
        data = data[4:] if flags & 1 else data
        data = data.replace(b"\xff\0", b"\xff") if flags & 2 else data
    if not data or data[0] >= len(_ENCODINGS):
        return
    encoding = _ENCODINGS[data[0]]
    # Of UTF-16 each text has its own mark of the order, which is gone when the first one has been decoded.
    name, _, text = data[1:].decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace").partition("\0")
    text = text.removeprefix("\ufeff").rstrip("\0")
    yield name, text.encode("utf-8", "surrogateescape")


def _synchsafe(sizes: bytes) -> int:
    return sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(sizes)))


def _flac_frame(frame: bytes, block: int) -> int | None:
    """Return with which sample a frame ends, by its head; None for what is no head."""
    if len(frame) < _LEAST_FRAME_BYTES or frame[2] >> 4 == 0 or frame[3] & 1:
        return None
    lead = frame[4]
    extra = 0 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length() - 1
    if extra < 0 or extra > 6 or (lead >= 0x80 and extra == 0):
        return None
    number = lead & (0x7F if not extra else 0x3F >> extra)
    for byte in frame[5 : 5 + extra]:
        number = number << 6 | byte & 0x3F
    at, size, rate = 5 + extra, frame[2] >> 4, frame[2] & 15
    samples = _BLOCK_SAMPLES.get(size)
    if samples is None:
        samples = 1 + int.from_bytes(frame[at : at + size - 5], "big")
        at += size - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(frame) or _crc(frame[: at + 1], 0x07, 8) != 0:
        return None
    return number + samples if frame[1] & 1 else number * block + samples


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Return the checksum of data, most significant bit first; that of data with their own checksum is 0."""
    mask, table, found = (1 << bits) - 1, _table(polynomial, bits), 0
    for byte in data:
        found = (found << 8 & mask) ^ table[found >> bits - 8 ^ byte]
    return found


@functools.cache
def _table(polynomial: int, bits: int) -> list[int]:
    mask, top = (1 << bits) - 1, 1 << bits - 1
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


def ogg(source: Source) -> Form:
    """Look through the pages of an Ogg file, their checksums, and whether each stream comes to its end."""
    at, kind = 0, "audio"
    open_streams: set[bytes] = set()
    rates: dict[bytes, tuple[int, int]] = {}
    duration_s = 0.0
    for _ in range(MOST_PARTS):
        if at >= source.size:
            break
        head = source.at(at, 27)
        if head[:4] != b"OggS":
            if open_streams or not at:
                raise Damaged("there is no page where one belongs")
            break
        flags, serial, segments = head[5], head[14:18], head[26]
        table = source.at(at + 27, segments)
        body = source.at(at + 27 + segments, sum(table))
        if _ogg_checksum(head[:22] + bytes(4) + head[26:] + table + body) != head[22:26]:
            raise Damaged("a checksum is wrong")
        if flags & 2:
            open_streams.add(serial)
            kind = "video" if body.startswith((b"\x80theora", b"BBCD\0", b"\x01video")) else kind
            rates[serial] = _ogg_rate(body)
        if flags & 4:
            open_streams.discard(serial)
            before, rate = rates.get(serial, (0, 0))
            duration_s = max(duration_s, seconds(int.from_bytes(head[6:14], "little") - before, rate) or 0.0)
        at += 27 + segments + len(body)
    if open_streams:
        raise Damaged("it is cut off")
    return Form(kind, f"{kind}/ogg", "ogv" if kind == "video" else "ogg", duration_s=duration_s or None)


def _ogg_rate(head: bytes) -> tuple[int, int]:
    """Return how many samples come before the sound, and how many make a second, by the first page; 0: not known."""
    if head.startswith(b"OpusHead") and len(head) >= 12:
        return int.from_bytes(head[10:12], "little"), 48_000
    if head.startswith(b"\x01vorbis") and len(head) >= 16:
        return 0, int.from_bytes(head[12:16], "little")
    return 0, 0


def _ogg_checksum(page: bytes) -> bytes:
    """Return the checksum of a page: zlib's own, but for the order of the bits and what it begins with."""
    found = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found.to_bytes(4, "big").translate(_MIRRORED)


def mpeg(source: Source) -> Form | None:
    """Look through the frames of an MP3 or AAC file to the last one; None where none follow each other."""
    at = 0
    if source.start[:3] == b"ID3":
        at = 10 + _synchsafe(source.at(6, 4))
        at += 10 if source.at(5, 1)[0] & 16 else 0
        source.require(at)
        while source.most(at, 1) == b"\0":
            at += 1
    is_aac, first, count = _adts(source, at) > 0, at, 0
    length_at, duration_s = _adts if is_aac else _mp3, 0.0
    while count < MOST_PARTS and (length := length_at(source, at)):
        if at + length > source.size:
            if count or source.start[:3] == b"ID3":
                raise Damaged("it is cut off")
            return None
        duration_s += (_adts_s if is_aac else _mp3_s)(source.at(at, 4))
        at += length
        count += 1
    if count < _FRAMES_IN_A_ROW and source.start[:3] != b"ID3" and (not count or at < source.size):
        return None
    if not count:
        raise Damaged("it has no frames")
    if not is_aac:
        source.require(first + _told_bytes(source, first))
    usual = ("audio/aac", "aac") if is_aac else ("audio/mpeg", "mp3")
    return Form("audio", *usual, duration_s=seconds(duration_s, 1))


def begins_a_frame(source: Source) -> bool:
    """Whether a file begins like an MP3 or AAC file, however it goes on."""
    return max(_mp3(source, 0), _adts(source, 0)) > 0


def _told_bytes(source: Source, at: int) -> int:
    """Return how many bytes all frames have together, if the first one tells."""
    frame = source.most(at, 64)
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    if place < 0 or place + 8 > len(frame) or not frame[place + 7] & 2:
        return 0
    return source.number(at + place + (12 if frame[place + 7] & 1 else 8), 4)


def _mp3(source: Source, at: int) -> int:
    """Return the length of an MPEG frame; 0 where there is none."""
    head = source.most(at, 4)
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, frequency, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 0 or rate in (0, 15) or frequency == 3:
        return 0
    bits = _BIT_RATES[3 if version == 3 else 2, layer][rate] * 1000
    hertz = _RATES[version][frequency]
    if layer == 3:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 1 and version != 3 else 144) * bits // hertz + padding


def _mp3_s(head: bytes) -> float:
    """Return the seconds of an MPEG frame."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
    return samples / _RATES[version][head[2] >> 2 & 3]


def _adts_s(head: bytes) -> float:
    """Return the seconds of an AAC frame, which has 1024 samples."""
    rate = head[2] >> 2 & 15
    return 1024 / _AAC_RATES[rate] if rate < len(_AAC_RATES) else 0.0


def _adts(source: Source, at: int) -> int:
    """Return the length of an AAC frame; 0 where there is none."""
    head = source.most(at, 7)
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else 0
