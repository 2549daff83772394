"""Files told by their content: pictures of every kind, what only pretends to be one, videos, sounds and texts."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import wave
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from app.domain.errors import OutputInvalid
from app.settings import ROOT
from worker.media import THUMBNAIL_PX, Media, inspect

if TYPE_CHECKING:
    from pathlib import Path

RAMP = Image.linear_gradient("L").resize((64, 48))
RGB = Image.merge("RGB", (RAMP, RAMP.transpose(Image.Transpose.ROTATE_180), RAMP))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def look(folder: Path, name: str, data: bytes) -> Media:
    path = folder / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        from_disk = inspect(file, name)
    assert inspect(io.BytesIO(data), name) == from_disk
    return from_disk


def thumbnail(media: Media) -> Image.Image:
    assert media.thumbnail is not None
    image = Image.open(io.BytesIO(media.thumbnail))
    assert image.format == "WEBP"
    return image


@pytest.mark.parametrize(
    ("form", "content_type", "extension"),
    [
        ("PNG", "image/png", "png"),
        ("JPEG", "image/jpeg", "jpg"),
        ("WEBP", "image/webp", "webp"),
        ("GIF", "image/gif", "gif"),
        ("TIFF", "image/tiff", "tiff"),
        ("BMP", "image/bmp", "bmp"),
    ],
)
def test_a_picture_is_told_by_its_content_whatever_its_name(
    tmp_path: Path, form: str, content_type: str, extension: str
) -> None:
    media = look(tmp_path, "anything.txt", encoded(RGB, form))
    assert (media.kind, media.content_type, media.extension) == ("image", content_type, extension)
    assert (media.width, media.height, media.warning) == (64, 48, None)
    assert thumbnail(media).size == (64, 48)


def test_a_thumbnail_has_at_most_512_pixels_a_side_and_keeps_the_shape(tmp_path: Path) -> None:
    media = look(tmp_path, "a.png", encoded(RGB.resize((1600, 800)), "PNG"))
    assert (media.width, media.height) == (1600, 800)
    assert thumbnail(media).size == (THUMBNAIL_PX, 256)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_reaches_the_thumbnail(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (64, 48), (200, 10, 10, 0))
    clear.paste((200, 10, 10, 255), (0, 0, 32, 48))
    form = "TIFF" if mode == "PA" else "PNG"
    media = look(tmp_path, "a.png", encoded(clear if mode == "PA" else clear.convert(mode), form))
    assert thumbnail(media).convert("RGBA").getpixel((60, 20))[3] == 0  # type: ignore[index]
    assert thumbnail(media).convert("RGBA").getpixel((5, 20))[3] == 255  # type: ignore[index]


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (RAMP.convert("RGB").convert("CMYK"), "JPEG"),
        (RAMP, "PNG"),
        (RAMP.convert("1"), "PNG"),
        (RAMP.convert("F"), "TIFF"),
        (RAMP.convert("I"), "TIFF"),
        (RAMP.convert("RGB").convert("YCbCr"), "JPEG"),
    ],
    ids=lambda value: getattr(value, "mode", value),
)
def test_unusual_colours_are_seen(tmp_path: Path, image: Image.Image, form: str) -> None:
    media = look(tmp_path, "a", encoded(image, form))
    dark, bright = thumbnail(media).convert("L").getextrema()
    assert dark < 40 < 215 < bright  # type: ignore[operator]


def test_16_bits_of_grey_become_8_and_not_white(tmp_path: Path) -> None:
    deep = Image.frombytes("I;16", (64, 48), b"".join(struct.pack("<H", 65535 * x // 63) for x in range(64)) * 48)
    greys = thumbnail(look(tmp_path, "a.png", encoded(deep, "PNG"))).convert("L")
    assert [round(greys.getpixel((x, 20)) / 64) for x in (2, 16, 32, 48, 61)] == [0, 1, 2, 3, 4]  # type: ignore[operator]


def test_the_thumbnail_stands_upright_and_the_picture_stays_as_it_is(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    media = look(tmp_path, "a.jpg", encoded(RGB, "JPEG", exif=turned))
    assert (media.width, media.height) == (64, 48)
    assert thumbnail(media).size == (48, 64)


def test_an_animation_is_a_picture(tmp_path: Path) -> None:
    frames = [RGB, RGB.transpose(Image.Transpose.ROTATE_180)]
    for form in ("GIF", "WEBP", "PNG"):
        media = look(tmp_path, "a", encoded(frames[0], form, save_all=True, append_images=frames[1:]))
        assert (media.kind, thumbnail(media).size) == ("image", (64, 48))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_picture_that_is_cut_off_is_refused(tmp_path: Path, form: str, share: float) -> None:
    data = encoded(RGB.resize((300, 300)), form)
    with pytest.raises(OutputInvalid):
        look(tmp_path, f"a.{form.lower()}", data[: int(len(data) * share)])


@pytest.mark.parametrize("name", ["a.txt", "a.JSON"])
def test_an_empty_text_is_a_text(tmp_path: Path, name: str) -> None:
    assert look(tmp_path, name, b"").kind == "text"


@pytest.mark.parametrize("name", ["a.png", "a", ""])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputInvalid, match="empty"):
        look(tmp_path, name, b"")


@pytest.mark.parametrize("ending", ["png", "JPG", "webp", "mp4", "wav", "flac", "mp3", "webm", "avif"])
@pytest.mark.parametrize("data", [b"Not Found", b"<html><body>502 Bad Gateway</body></html>", b"\0" * 100, b"\x89PNG"])
def test_a_file_that_is_nothing_of_what_its_name_claims_is_refused(tmp_path: Path, ending: str, data: bytes) -> None:
    with pytest.raises(OutputInvalid):
        look(tmp_path, f"a.{ending}", data)


def test_a_refusal_names_the_file_and_no_folder_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(OutputInvalid) as refused:
        look(tmp_path, "/home/bob/out/a.png", b"x")
    assert "a.png" in str(refused.value)
    assert "bob" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    with pytest.raises(OutputInvalid, match="too many pixels"):
        look(tmp_path, "a.png", bomb)


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(800))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "content_type", "extension"),
    [
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(64), "video", "video/mp4", "mp4"),
        (
            b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm" + bytes(64),
            "video",
            "video/webm",
            "webm",
        ),
        (wav(), "audio", "audio/x-wav", "wav"),
        (b"fLaC\0\0\0\x22" + bytes(64), "audio", "audio/x-flac", "flac"),
        (b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\x64" + bytes(64), "audio", "audio/mpeg", "mp3"),
    ],
    ids=["mp4", "webm", "wav", "flac", "mp3"],
)
def test_videos_and_sounds_are_told_by_their_heads(
    tmp_path: Path, data: bytes, kind: str, content_type: str, extension: str
) -> None:
    media = look(tmp_path, "named_00001_.bin", data)
    assert (media.kind, media.content_type, media.extension) == (kind, content_type, extension)
    assert (media.width, media.thumbnail) == (None, None)


def test_a_text_is_one_only_if_it_is_utf_8(tmp_path: Path) -> None:
    words = ("日本語 🎨 " * 200_000).encode()
    media = look(tmp_path, "words.TXT", words)
    assert (media.kind, media.content_type, media.extension) == ("text", "text/plain", "txt")
    binary = look(tmp_path, "words.txt", words + b"\xff\xfe")
    assert (binary.kind, binary.content_type) == ("file", "application/octet-stream")


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("scene.glb", "glb"),
        ("page.html", "html"),
        ("drawing.svg", "svg"),
        ("noending", "noending"),
        ("", "bin"),
        ("a.", "bin"),
        ("a.<b>", "bin"),
        ("a.../../x", "bin"),
        ("a.日本", "bin"),
        ("a." + "x" * 17, "bin"),
    ],
)
def test_what_is_unknown_is_served_as_a_mere_file_with_a_safe_ending(tmp_path: Path, name: str, extension: str) -> None:
    media = look(tmp_path, name, b"<script>alert(1)</script>")
    assert (media.kind, media.content_type, media.extension) == ("file", "application/octet-stream", extension)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds in broken files
def test_a_damaged_picture_is_refused_or_taken_and_never_a_crash(tmp_path: Path) -> None:
    chance = random.Random(1)
    turned = Image.Exif()
    turned[0x0112] = 6
    sound = [encoded(RGB, form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")]
    sound.append(encoded(RGB, "JPEG", exif=turned))
    for _ in range(700):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(min(len(data), chance.choice((64, 200, 10**6))))] = chance.randrange(256)
        try:
            media = look(tmp_path, "a.png", bytes(data))
        except OutputInvalid:
            continue
        assert media.thumbnail or media.warning or media.kind != "image"


def test_the_first_picture_imports_no_decoder_that_is_never_used() -> None:
    # Pillow has seventy, and imports them all when it is asked for one that it does not know yet.
    program = """
import io, sys
from PIL import Image
from worker.media import inspect, small_picture
drawn = io.BytesIO()
Image.new("RGB", (600, 400)).save(drawn, "PNG")
assert inspect(drawn, "a.png").thumbnail
assert small_picture(memoryview(drawn.getvalue()))
assert inspect(io.BytesIO(b"RIFF0000AVI LIST" + bytes(100)), "a.avi").kind == "video"
print("PIL.PsdImagePlugin" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
