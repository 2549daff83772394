"""A FLAC encoder that does not compress: every subframe is verbatim.

The format: https://www.rfc-editor.org/rfc/rfc9639
"""

import functools
import hashlib
import struct
import sys
from array import array
from typing import Final

from worker.standin.values import Sound

_BLOCK: Final = 4096
_BITS: Final = 16


def encode_flac(sound: Sound) -> bytes:
    """Return a mono sound as a FLAC stream."""
    frames = [
        _frame(index, sound.samples[start : start + _BLOCK])
        for index, start in enumerate(range(0, len(sound.samples), _BLOCK))
    ]
    return b"fLaC" + _stream_info(sound, frames) + b"".join(frames)


def _stream_info(sound: Sound, frames: list[bytes]) -> bytes:
    """Return the one metadata block."""
    sizes = [len(frame) for frame in frames] or [0]
    packed = sound.rate << 44 | 0 << 41 | (_BITS - 1) << 36 | len(sound.samples)
    body = struct.pack(">HH", _BLOCK, _BLOCK)
    body += min(sizes).to_bytes(3, "big") + max(sizes).to_bytes(3, "big") + packed.to_bytes(8, "big")
    little = array("h", sound.samples)
    if sys.byteorder == "big":
        little.byteswap()
    body += hashlib.md5(little.tobytes(), usedforsecurity=False).digest()
    return struct.pack(">I", 0x80 << 24 | len(body)) + body


def _frame(index: int, samples: "array[int]") -> bytes:
    """Return one frame: header, one verbatim subframe, checksum."""
    header = b"\xff\xf8" + bytes([0x70, 0x08]) + _coded_number(index) + struct.pack(">H", len(samples) - 1)
    header += bytes([_checksum(header, 8, 0x07)])
    big = array("h", samples)
    if sys.byteorder == "little":
        big.byteswap()
    whole = header + b"\x02" + big.tobytes()
    return whole + struct.pack(">H", _checksum(whole, 16, 0x8005))


def _coded_number(number: int) -> bytes:
    """Return a frame number in the extended UTF-8 that FLAC uses."""
    if number < 0x80:
        return bytes([number])
    tail = []
    limit = 0x3F
    while number > limit:
        tail.append(0x80 | number & 0x3F)
        number >>= 6
        limit >>= 1
    lead = ~(limit << 1 | 1) & 0xFF
    return bytes([lead | number, *reversed(tail)])


def _checksum(data: bytes, bits: int, polynomial: int) -> int:
    """Return the CRC of the format, most significant bit first."""
    table = _table(bits, polynomial)
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


@functools.cache
def _table(bits: int, polynomial: int) -> list[int]:
    """Return the CRC of every byte."""
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value >> bits - 1 else value << 1) & (1 << bits) - 1
        table.append(value)
    return table
