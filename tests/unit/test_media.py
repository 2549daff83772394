"""Files told by their content: pictures of every kind, what only pretends to be one, videos, sounds and texts."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from unit.media_files import RAMP, RGB, chunk, encoded, look, thumbnail

from app.domain.errors import OutputInvalid
from app.settings import ROOT
from worker.outputs.shrinking import THUMBNAIL_PX, thumbnail_of

if TYPE_CHECKING:
    from pathlib import Path


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
    data = encoded(RGB, form)
    media = look(tmp_path, "anything.txt", data)
    assert (media.kind, media.content_type, media.extension) == ("image", content_type, extension)
    assert (media.width, media.height, media.thumbnail_due, media.warning) == (64, 48, True, None)
    assert thumbnail(data).size == (64, 48)


def test_a_thumbnail_has_at_most_512_pixels_a_side_and_keeps_the_shape(tmp_path: Path) -> None:
    data = encoded(RGB.resize((1600, 800)), "PNG")
    media = look(tmp_path, "a.png", data)
    assert (media.width, media.height) == (1600, 800)
    assert thumbnail(data).size == (THUMBNAIL_PX, 256)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_reaches_the_thumbnail(mode: str) -> None:
    clear = Image.new("RGBA", (64, 48), (200, 10, 10, 0))
    clear.paste((200, 10, 10, 255), (0, 0, 32, 48))
    form = "TIFF" if mode == "PA" else "PNG"
    small = thumbnail(encoded(clear if mode == "PA" else clear.convert(mode), form)).convert("RGBA")
    assert small.getpixel((60, 20))[3] == 0  # type: ignore[index]
    assert small.getpixel((5, 20))[3] == 255  # type: ignore[index]


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
    data = encoded(image, form)
    assert look(tmp_path, "a", data).thumbnail_due
    dark, bright = thumbnail(data).convert("L").getextrema()
    assert dark < 40 < 215 < bright  # type: ignore[operator]


def test_16_bits_of_grey_become_8_and_not_white() -> None:
    deep = Image.frombytes("I;16", (64, 48), b"".join(struct.pack("<H", 65535 * x // 63) for x in range(64)) * 48)
    greys = thumbnail(encoded(deep, "PNG")).convert("L")
    assert [round(greys.getpixel((x, 20)) / 64) for x in (2, 16, 32, 48, 61)] == [0, 1, 2, 3, 4]  # type: ignore[operator]


def test_the_thumbnail_stands_upright_and_the_picture_stays_as_it_is(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(RGB, "JPEG", exif=turned)
    media = look(tmp_path, "a.jpg", data)
    assert (media.width, media.height) == (64, 48)
    assert thumbnail(data).size == (48, 64)


def test_an_animation_is_a_picture(tmp_path: Path) -> None:
    frames = [RGB, RGB.transpose(Image.Transpose.ROTATE_180)]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert (look(tmp_path, "a", data).kind, thumbnail(data).size) == ("image", (64, 48))


@pytest.mark.parametrize("name", ["a.txt", "a.JSON"])
def test_an_empty_text_is_a_text(tmp_path: Path, name: str) -> None:
    assert look(tmp_path, name, b"").kind == "text"


@pytest.mark.parametrize("name", ["a.png", "a", ""])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputInvalid, match="empty"):
        look(tmp_path, name, b"")


@pytest.mark.parametrize("ending", ["png", "JPG", "webp", "mp4", "wav", "flac", "mp3", "webm", "avif"])
@pytest.mark.parametrize("data", [b"Not Found", b"<html><body>502 Bad Gateway</body></html>", b"\0" * 100])
def test_a_message_or_nothing_under_the_name_of_a_picture_is_refused(tmp_path: Path, ending: str, data: bytes) -> None:
    with pytest.raises(OutputInvalid, match="not the picture"):
        look(tmp_path, f"a.{ending}", data)


@pytest.mark.parametrize("ending", ["png", "JPG", "mp4", "mp3", "exr", "glb"])
def test_what_is_of_no_known_form_is_kept_whatever_its_name_claims(tmp_path: Path, ending: str) -> None:
    data = b"\x93NUMPY\x01\0v\0{'descr'" + bytes(range(256)) * 8
    media = look(tmp_path, f"a.{ending}", data)
    assert (media.kind, media.content_type, media.extension) == ("file", "application/octet-stream", ending.lower())
    assert media.warning == f"The output a.{ending} has an unknown format and is kept as it is."
    assert look(tmp_path, "a.npy", data).warning is None


@pytest.mark.parametrize(
    ("name", "data"), [("a.png", b"\x89PNG"), ("a.jpg", b"\xff"), ("a.mp4", b"\0\0\0\x20fty"), ("a.webm", b"\x1a\x45")]
)
def test_the_mere_beginning_of_what_a_name_claims_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(OutputInvalid, match="cut off"):
        look(tmp_path, name, data)


@pytest.mark.parametrize(
    "text", ["BMW, and other words that begin like files", "ID3 tags", "RIFF", "FORM", "GIF89a", "{"]
)
def test_a_text_that_begins_like_a_file_of_another_form_is_a_text(tmp_path: Path, text: str) -> None:
    assert look(tmp_path, "text.txt", text.encode()).kind == "text"


def test_a_refusal_names_the_file_and_no_folder_of_the_server(tmp_path: Path) -> None:
    with pytest.raises(OutputInvalid) as refused:
        look(tmp_path, "/home/bob/out/a.png", encoded(RGB, "PNG")[:-20])
    assert "a.png" in str(refused.value)
    assert "bob" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_a_picture_that_would_fill_the_memory_is_kept_and_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    media = look(tmp_path, "a.png", bomb)
    assert (media.kind, media.width, media.thumbnail_due) == ("image", 60_000, False)
    assert "too many to be decoded" in str(media.warning)
    assert thumbnail_of(io.BytesIO(bomb)) is None


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
        small = thumbnail_of(io.BytesIO(data))
        assert small is None or media.thumbnail_due


def test_the_first_picture_imports_no_decoder_that_is_never_used() -> None:
    # Pillow has seventy, and imports them all when it is asked for one that it does not know yet.
    program = """
import io, sys
from PIL import Image
from app.media.inspection import inspect
from worker.outputs.shrinking import small_picture, thumbnail_of
drawn = io.BytesIO()
Image.new("RGB", (600, 400)).save(drawn, "PNG")
assert inspect(drawn, "a.png").thumbnail_due
assert thumbnail_of(drawn)
assert small_picture(memoryview(drawn.getvalue()))
assert inspect(io.BytesIO(b"RIFF" + bytes([100, 0, 0, 0]) + b"AVI LIST" + bytes(100)), "a.avi").kind == "video"
print("PIL.PsdImagePlugin" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
