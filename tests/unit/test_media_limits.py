"""Pictures that are made to take memory or time: kept without being decoded, or decoded for a bounded price."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from unit.media_files import RGB, chunk, encoded, look, thumbnail

from app.domain.errors import OutputInvalid
from app.media.image_headers import Excerpt
from app.media.inspection import inspect
from app.settings import ROOT
from worker.outputs.shrinking import MOST_PREVIEW_PIXELS, small_picture, thumbnail_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def blank_png(width: int, height: int, *, interlaced: bool = False, colour: int = 2, extra: bytes = b"") -> bytes:
    """Make a PNG of nothing, of any size, without having it in memory."""
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour])
    packing = zlib.compressobj(9)
    parts = [packing.compress(row * 64) for _ in range(height // 64)]
    parts += [packing.compress(row * (height % 64)), packing.flush()]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", b"".join(parts)) + chunk(b"IEND", b"")


BOTH = "thumbnail_of(open(path, 'rb')) and None or inspect(open(path, 'rb'), 'a.png')"


def peak_mb(file: Path, call: str = BOTH) -> tuple[float, str]:
    """Return how many megabytes it took to look into a file, above what the program has anyway, and what was seen."""
    program = f"""
import resource, sys
from app.media.inspection import inspect
from worker.outputs.shrinking import small_picture, thumbnail_of
from app.domain.errors import OutputInvalid
path = sys.argv[1]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
thumbnail_of(open(sys.argv[2], "rb"))
before = peak()
try:
    seen = {call}
    print(getattr(seen, "warning", seen))
except OutputInvalid as error:
    print("refused", error)
print(peak() - before)
"""
    warm = file.parent / "warm.png"
    warm.write_bytes(encoded(RGB, "PNG"))
    arguments = [sys.executable, "-c", program, str(file), str(warm)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    seen, taken = done.stdout.splitlines()
    return float(taken), seen


def test_a_picture_too_large_to_be_decoded_is_looked_through_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(blank_png(13_300, 13_300))
    taken, seen = peak_mb(file)
    assert "13300 x 13300 pixels are too many to be decoded" in seen
    assert taken < 64
    with file.open("rb") as opened:
        media = inspect(opened, "large.png")
    assert (media.kind, media.content_type, media.width, media.height) == ("image", "image/png", 13_300, 13_300)
    assert not media.thumbnail_due


def test_the_largest_picture_that_is_decoded_takes_four_bytes_a_pixel(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(blank_png(7680, 4320))
    taken, seen = peak_mb(file)
    assert seen == "None"
    assert taken < 4 * 7680 * 4320 / 2**20 + 48


@pytest.mark.parametrize(("progressive", "decoded"), [(False, True), (True, False)])
def test_a_large_jpeg_is_decoded_small_if_that_is_possible(tmp_path: Path, progressive: bool, decoded: bool) -> None:
    file = tmp_path / "large.jpg"
    Image.new("RGB", (9000, 9000), (200, 30, 90)).save(file, "JPEG", progressive=progressive)
    taken, seen = peak_mb(file)
    assert taken < 64
    assert ("too many to be decoded" in seen) is not decoded
    with file.open("rb") as opened:
        media = inspect(opened, "large.jpg")
    assert (media.width, media.height) == (9000, 9000)
    assert media.thumbnail_due is decoded
    if decoded:
        assert thumbnail(file.read_bytes()).size == (512, 512)


@pytest.mark.parametrize("how", ["cut", "checksum", "no picture"])
def test_a_large_picture_that_is_damaged_is_refused_without_being_decoded(how: str) -> None:
    sound = blank_png(6000, 6000)
    assert inspect(io.BytesIO(sound), "a.png").warning
    at = sound.index(b"IDAT") + 100
    damaged = {
        "cut": sound[: len(sound) // 2],
        "checksum": sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :],
        "no picture": sound[: sound.index(b"IDAT") - 4] + chunk(b"IEND", b""),
    }
    with pytest.raises(OutputInvalid, match="damaged"):
        inspect(io.BytesIO(damaged[how]), "a.png")


def test_what_an_encoder_has_packed_wrong_between_right_checksums_is_kept_and_has_no_thumbnail() -> None:
    sound = encoded(RGB, "PNG")
    at = sound.index(b"IDAT") - 4
    wrong = sound[:at] + chunk(b"IDAT", b"no deflate stream") + chunk(b"IEND", b"")
    media = inspect(io.BytesIO(wrong), "a.png")
    assert (media.kind, media.width, media.warning) == ("image", 64, None)
    assert thumbnail_of(io.BytesIO(wrong)) is None


def test_what_a_png_has_besides_its_picture_reaches_no_decoder(tmp_path: Path) -> None:
    texts = b"".join(chunk(b"zTXt", b"a%d\0\0" % number + zlib.compress(bytes(2**20))) for number in range(70))
    exif = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    extra = texts + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**24))) + chunk(b"tEXt", b"a\0" + bytes(10**7))
    file = tmp_path / "a.png"
    file.write_bytes(blank_png(64, 48, extra=extra + chunk(b"eXIf", exif)))
    taken, seen = peak_mb(file)
    assert (seen, taken < 8) == ("None", True)
    assert thumbnail(file.read_bytes()).size == (48, 64)


def jpeg_with(segments: bytes, **options: Any) -> bytes:
    data = encoded(RGB, "JPEG", **options)
    return data[:2] + segments + data[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def exif_bomb(size: int) -> bytes:
    """Make EXIF data of many tags that each refer to nearly all of them."""
    count = (size - 14) // 12
    entries = b"".join(struct.pack("<HHII", 0x1000 + number, 7, size - 8, 0) for number in range(count))
    return (struct.pack("<2sHIH", b"II", 42, 8, count) + entries).ljust(size, b"\0")


def test_what_a_jpeg_has_besides_its_picture_reaches_no_decoder(tmp_path: Path) -> None:
    bomb = exif_bomb(60_000)
    segments = segment(0xE1, b"Exif\0\0" + bomb) + segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 200
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg_with(segments + segment(0xFE, bytes(60_000)) * 50))
    taken, seen = peak_mb(file)
    assert (seen, taken < 16) == ("None", True)


def test_a_jpeg_of_endless_scans_is_not_decoded(tmp_path: Path) -> None:
    data = encoded(RGB.resize((1024, 1024)), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    scans = data[at:-2]
    media = look(tmp_path, "a.jpg", data[:-2] + scans * 200 + data[-2:])
    assert media.warning is not None
    assert "decoders are spared" in media.warning


def test_a_gif_of_endless_comments_is_not_decoded(tmp_path: Path) -> None:
    data = encoded(RGB, "GIF")
    at = data.index(b",")
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 40_000 + b"\0"
    media = look(tmp_path, "a.gif", data[:at] + comment + data[at:])
    assert "decoders are spared" in str(media.warning)
    small = b"!\xfe" + (b"\xff" + b"x" * 255) * 4 + b"\0"
    assert look(tmp_path, "a.gif", data[:at] + small + data[at:]).thumbnail_due


def tiff_bomb() -> bytes:
    data = bytearray(encoded(RGB, "TIFF"))
    (at,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[at : at + 2])
    own = data[at + 2 : at + 2 + 12 * count]
    more = b"".join(struct.pack("<HHII", 40_000 + number, 7, 8_000, 8) for number in range(20_000))
    struct.pack_into("<I", data, 4, len(data))
    return bytes(data) + struct.pack("<H", count + 20_000) + bytes(own) + more + bytes(4)


def test_a_tiff_of_endless_tags_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "a.tiff"
    file.write_bytes(tiff_bomb())
    taken, seen = peak_mb(file)
    assert "decoders are spared" in seen
    assert taken < 16


def test_a_bmp_that_python_would_decode_is_decoded_if_it_is_small() -> None:
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54 + 1024, 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 256, 0)
    header = header[:34] + struct.pack("<I", 2000) + header[38:]
    media = inspect(io.BytesIO(header + bytes(1024) + b"\1\1" * 1000), "a.bmp")
    assert "too many to be decoded" in str(media.warning)


@pytest.mark.parametrize(("form", "size"), [("WEBP", (5000, 4000)), ("AVIF", (5000, 4000)), ("GIF", (6000, 6000))])
def test_formats_that_take_more_have_lower_limits(tmp_path: Path, form: str, size: tuple[int, int]) -> None:
    media = look(tmp_path, "a", encoded(Image.new("RGB", size, (1, 2, 3)), form))
    assert not media.thumbnail_due
    assert "too many to be decoded" in str(media.warning)
    assert (media.width, media.height) == size


def test_a_head_that_hides_the_size_is_seen_through() -> None:
    png = blank_png(64, 48)
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 8_000, 8, 2, 0, 0, 0))
    with pytest.raises(OutputInvalid, match="damaged"):
        inspect(io.BytesIO(png[:33] + second + png[33:]), "a.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_preview_of_any_size_takes_little(tmp_path: Path, form: str) -> None:
    side = 9000 if form != "WEBP" else 6000
    assert side**2 > MOST_PREVIEW_PIXELS
    data = encoded(Image.new("RGB", (side, side), (1, 2, 3)), form)
    assert small_picture(memoryview(data)) is None
    file = tmp_path / "a"
    file.write_bytes(encoded(Image.new("RGB", (2048, 2048), (1, 2, 3)), form))
    taken, seen = peak_mb(file, "bool(small_picture(memoryview(open(path, 'rb').read())))")
    assert (seen, taken < 100) == ("True", True)


def test_an_excerpt_reads_as_its_parts() -> None:
    chance = random.Random(3)
    data = bytes(chance.randrange(256) for _ in range(1000))
    parts = ((10, 20), (40, 1), (100, 0), (500, 300))
    whole = b"".join(data[offset : offset + length] for offset, length in parts)
    excerpt = Excerpt(io.BytesIO(data), parts)
    assert excerpt.read() == whole
    assert excerpt.read(5) == b""
    for _ in range(200):
        at, count = chance.randrange(330), chance.randrange(330)
        assert excerpt.seek(at) == excerpt.tell() == at
        assert excerpt.read(count) == whole[at : at + count]
    assert excerpt.seek(-1, io.SEEK_END) == len(whole) - 1


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds in broken files
def test_a_head_of_any_bytes_is_told_or_refused() -> None:
    chance = random.Random(5)
    sound = [encoded(RGB, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "TIFF")]
    for _ in range(3000):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(min(len(data), 200))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        try:
            inspect(io.BytesIO(data[: chance.randrange(4, len(data) + 1)]), "a.bin")
        except OutputInvalid:
            continue
