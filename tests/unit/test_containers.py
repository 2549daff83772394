"""Files of each form that is known: kept when they are whole, refused when they are cut off or a checksum is wrong."""

from __future__ import annotations

import io
import json
import random
import struct
import wave
from typing import Any

import pytest
from PIL import Image
from unit.media_files import RAMP, RGB, encoded

from app.domain.errors import OutputInvalid
from app.media.inspection import Media, inspect
from app.settings import ROOT

STORED = ROOT / "tests" / "data" / "media"
SVG = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- drawn by hand --><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">
<svg xmlns="http://www.w3.org/2000/svg" width="64px" height="48"><g><path d="M0 0h9"/></g>
<text>&lt;words&gt;</text></svg>
"""
NOISE = Image.frombytes("RGB", (60, 40), random.Random(1).randbytes(7200))


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(random.Random(2).randbytes(2000))
    return file.getvalue()


def rf64() -> bytes:
    plain = wav()
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, len(plain) - 8 + 36, 2000, 1000, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + plain[12:36] + b"data\xff\xff\xff\xff" + plain[44:]


def aiff() -> bytes:
    sound = (
        struct.pack(">4sIhIh", b"COMM", 18, 1, 1000, 16) + bytes(10) + struct.pack(">4sI", b"SSND", 2008) + bytes(2008)
    )
    return b"FORM" + struct.pack(">I", len(sound) + 4) + b"AIFF" + sound


def half_tiff() -> bytes:
    """Make a TIFF of 16-bit floats, which Pillow does not read."""
    tags = [(256, 3, 8), (257, 3, 4), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1), (279, 4, 64)]
    entries = b"".join(
        struct.pack("<HHIHH" if kind == 3 else "<HHII", tag, kind, 1, *([value, 0] if kind == 3 else [value]))
        for tag, kind, value in [*tags, (339, 3, 3)]
    )
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + entries + bytes(4) + struct.pack("<32e", *([0.5] * 32))


def jxl() -> bytes:
    return (
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + struct.pack(">I", 108) + b"jxlc" + bytes(100)
    )


def tile(form: str, **options: Any) -> bytes:
    return encoded(NOISE, form, **options)


MADE = {
    "a.png": (tile("PNG"), "image/png", "png"),
    "apng.png": (tile("PNG", save_all=True, append_images=[RGB.resize((60, 40))]), "image/png", "png"),
    "deep.png": (encoded(RAMP.convert("I;16"), "PNG"), "image/png", "png"),
    "a.jpg": (tile("JPEG"), "image/jpeg", "jpg"),
    "progressive.jpg": (tile("JPEG", progressive=True), "image/jpeg", "jpg"),
    "a.webp": (tile("WEBP"), "image/webp", "webp"),
    "lossless.webp": (tile("WEBP", lossless=True), "image/webp", "webp"),
    "a.gif": (tile("GIF"), "image/gif", "gif"),
    "moving.gif": (tile("GIF", save_all=True, append_images=[RGB.resize((60, 40))]), "image/gif", "gif"),
    "a.tiff": (tile("TIFF"), "image/tiff", "tiff"),
    "packed.tif": (tile("TIFF", compression="tiff_lzw"), "image/tiff", "tiff"),
    "big.tiff": (tile("TIFF", big_tiff=True), "image/tiff", "tiff"),
    "float.tiff": (encoded(RAMP.convert("F"), "TIFF"), "image/tiff", "tiff"),
    "half.tiff": (half_tiff(), "image/tiff", "tiff"),
    "a.bmp": (tile("BMP"), "image/bmp", "bmp"),
    "a.avif": (tile("AVIF"), "image/avif", "avif"),
    "a.jxl": (jxl(), "image/jxl", "jxl"),
    "a.wav": (wav(), "audio/x-wav", "wav"),
    "rf64.wav": (rf64(), "audio/x-wav", "wav"),
    "a.aiff": (aiff(), "audio/x-aiff", "aiff"),
}
KEPT = {
    "a.aac": ("audio/aac", "aac"),
    "a.avi": ("video/x-msvideo", "avi"),
    "a.exr": ("image/x-exr", "exr"),
    "a.flac": ("audio/x-flac", "flac"),
    "a.latent": ("application/octet-stream", "latent"),
    "a.m4a": ("audio/mp4", "m4a"),
    "a.mkv": ("video/x-matroska", "mkv"),
    "a.mov": ("video/quicktime", "mov"),
    "a.mp3": ("audio/mpeg", "mp3"),
    "a.opus": ("audio/ogg", "ogg"),
    "a.webm": ("video/webm", "webm"),
    "anim.webp": ("image/webp", "webp"),
    "av.mp4": ("video/mp4", "mp4"),
    "frag.mp4": ("video/mp4", "mp4"),
    "live.webm": ("video/webm", "webm"),
    "realtime.webm": ("video/webm", "webm"),
    "scene.glb": ("model/gltf-binary", "glb"),
    "sound.mp4": ("audio/mp4", "m4a"),
    "sound.webm": ("audio/webm", "webm"),
    "stream.flac": ("audio/x-flac", "flac"),
}
FILES = MADE | {name: ((STORED / name).read_bytes(), *told) for name, told in KEPT.items()}
WITHOUT_COUNT = ("a.aac",)
"""A cut between two frames is not to be seen in these."""


def look(name: str, data: bytes) -> Media:
    return inspect(io.BytesIO(data), name)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_what_its_content_says(name: str) -> None:
    data, content_type, extension = FILES[name]
    kind = content_type.partition("/")[0].replace("model", "file").replace("application", "file")
    for called in (name, "nothing_00001_.bin", "wrong.png") if extension != "latent" else (name,):
        media = look(called, data)
        assert (media.kind, media.content_type, media.extension) == (kind, content_type, extension)
        assert media.warning is None
    if name in MADE and kind == "image" and name not in ("a.jxl", "deep.png", "float.tiff", "half.tiff"):
        assert (media.width, media.height) == (60, 40)


def test_the_table_has_every_stored_file() -> None:
    assert {path.name for path in STORED.iterdir()} == {*KEPT, "README.md"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_refused(name: str) -> None:
    data = FILES[name][0]
    size = len(data)
    chance = random.Random(name)
    places = [*range(12, 64), *(chance.randrange(64, size) for _ in range(60)), size - 4, size - 2, size - 1]
    kept = []
    for cut in places:
        if cut >= size:
            continue
        try:
            look(name, data[:cut])
        except OutputInvalid as error:
            assert "damaged" in str(error)  # noqa: PT017
        else:
            kept.append(cut)
    assert len(kept) <= (3 if name in WITHOUT_COUNT else 0), kept


@pytest.mark.parametrize("name", ["a.png", "apng.png", "deep.png", "a.opus"])
def test_where_a_form_has_checksums_one_wrong_bit_is_seen(name: str) -> None:
    data = FILES[name][0]
    chance = random.Random(name)
    for place in (chance.randrange(8, len(data)) for _ in range(200)):
        with pytest.raises(OutputInvalid):
            look(name, data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :])


def test_the_last_frame_of_a_flac_file_has_its_checksum() -> None:
    data = FILES["a.flac"][0]
    for place in (len(data) - 1, len(data) - 2, len(data) - 100):
        with pytest.raises(OutputInvalid):
            look("a.flac", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_what_somebody_has_put_behind_a_picture_does_not_matter() -> None:
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.tiff", "a.bmp", "a.wav", "a.webm", "a.mp3"):
        assert look(name, FILES[name][0] + b"more words, of whoever wrote it").warning is None


def test_any_bytes_are_kept_or_refused_and_nothing_else() -> None:
    chance = random.Random(7)
    names = sorted(FILES)
    for _ in range(4000):
        name = chance.choice(names)
        data = bytearray(FILES[name][0][: chance.choice((200, 10**6))])
        for _ in range(chance.randint(1, 5)):
            data[chance.randrange(min(len(data), chance.choice((40, 200, 10**6))))] = chance.choice(
                (0, 1, 127, 255, chance.randrange(256))
            )
        try:
            look(chance.choice(names), bytes(data))
        except OutputInvalid:
            continue


# Texts.


def test_an_svg_is_a_picture_with_the_size_that_it_states() -> None:
    for name in ("a.svg", "a.bin", "a.png"):
        media = look(name, SVG)
        assert (media.kind, media.content_type, media.extension) == ("image", "image/svg+xml", "svg")
        assert (media.width, media.height, media.thumbnail_due, media.warning) == (64, 48, False, None)
    other = look("a.svg", SVG.replace(b'width="64px" height="48"', b'width="100%" viewBox="0 0 9 9"'))
    assert (other.kind, other.width, other.height) == ("image", None, None)


@pytest.mark.parametrize("share", [0.85, 0.9, 0.95, 0.98])
def test_an_svg_that_is_cut_off_is_refused(share: float) -> None:
    with pytest.raises(OutputInvalid, match="cut off"):
        look("a.svg", SVG[: int(len(SVG.strip()) * share)])


def test_an_svg_with_entities_of_its_own_is_a_mere_file_and_is_not_blown_up() -> None:
    lots = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 100}">' for n in range(20))
    media = look("a.svg", f'<!DOCTYPE svg [{lots}]>\n<svg xmlns="http://www.w3.org/2000/svg">&e19;</svg>'.encode())
    assert (media.kind, media.content_type, media.extension) == ("file", "application/octet-stream", "svg")


def test_an_svg_with_a_document_type_of_its_own_and_no_entities_is_a_picture() -> None:
    begin = b'<!DOCTYPE svg [<!ATTLIST svg note CDATA "x">]>\n<svg xmlns="http://www.w3.org/2000/svg"'
    assert look("a.svg", begin + b"/>").content_type == "image/svg+xml"


def test_what_only_looks_like_an_svg_is_a_mere_file() -> None:
    assert look("a.svg", b"<svg><script>alert(1)</script></svg>").content_type == "application/octet-stream"


@pytest.mark.parametrize(
    "whole", ['{"a": [1, 2.5, "words", true, null], "b": {"c": "\\u00e9"}}', '[["Gr\u00fc\u00dfe"]]', '"text"']
)
def test_json_that_is_cut_off_is_refused(whole: str) -> None:
    data = whole.encode()
    media = look("a.json", data)
    assert (media.kind, media.content_type, media.extension) == ("text", "text/plain", "json")
    for cut in range(1, len(data)):
        with pytest.raises(OutputInvalid, match="cut off"):
            look("a.json", data[:cut])


@pytest.mark.parametrize(
    "text", ["{'python': True}", '{"a": 1}\n{"a": 2}\n', "not json at all, but words", '{"a": NaN}']
)
def test_a_text_called_json_is_kept_whatever_it_says(text: str) -> None:
    assert look("a.json", text.encode()).kind == "text"
    assert look("a.json", json.dumps("[" * 10_000).encode()).kind == "text"
    assert look("a.json", ("[" * 100_000 + "]" * 100_000).encode()).kind == "text"


# Films that are more than one file's form.


def test_a_sound_alone_is_a_sound_whatever_its_ending() -> None:
    for name in ("sound.webm", "sound.mp4", "a.m4a"):
        assert look("film.webm", FILES[name][0]).kind == "audio"


def test_a_film_without_its_index_is_refused() -> None:
    data = FILES["av.mp4"][0]
    at = data.index(b"moov") - 4
    with pytest.raises(OutputInvalid, match="no index"):
        look("a.mp4", data[:at])


@pytest.mark.parametrize(
    ("name", "size", "seconds"),
    [
        # As ffmpeg tells them; of MP3, AAC and Opus a frame more or less, which encoders fill up.
        ("av.mp4", (32, 32), 0.375),
        ("a.mov", (32, 32), 0.375),
        ("a.mkv", (32, 32), 0.375),
        ("a.webm", (32, 32), 0.375),
        ("a.avi", (32, 32), 0.375),
        ("frag.mp4", (32, 32), None),
        ("live.webm", (32, 32), None),
        ("sound.mp4", (None, None), 0.142),
        ("sound.webm", (None, None), 0.134),
        ("a.flac", (None, None), 0.12),
        ("a.mp3", (None, None), 0.168),
        ("a.aac", (None, None), 0.149),
        ("a.opus", (None, None), 0.127),
    ],
)
def test_how_large_and_how_long_it_is(name: str, size: tuple[int | None, int | None], seconds: float | None) -> None:
    with (STORED / name).open("rb") as file:
        media = inspect(file, name)
    assert (media.width, media.height) == size
    assert media.duration_s == (pytest.approx(seconds, abs=0.03) if seconds is not None else None)


@pytest.mark.parametrize(("made", "seconds"), [(wav(), 0.125), (rf64(), 0.125), (aiff(), None)])
def test_how_long_a_plain_sound_is(made: bytes, seconds: float | None) -> None:
    assert inspect(io.BytesIO(made), "a").duration_s == seconds


def test_a_duration_that_cannot_be_is_none() -> None:
    told = bytearray(wav())
    told[28:32] = bytes(4)
    assert inspect(io.BytesIO(told), "a.wav").duration_s is None
