"""Small pictures that jobs start from: each of one colour, by which the pictures that come of them are told apart."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

SHARED: Final = 5
"""So many pictures are used by many jobs; every other one has a job of its own."""
SIDE: Final = 64
"""Pixels."""
DENOISE: Final = 0.02
"""So little is painted over that a colour keeps within its step."""
_STEPS: Final = 16
"""Of each channel: so far are two colours apart, and each stands in the middle of its step."""


def own(number: int) -> int:
    """Return the picture that only the job of this number uses."""
    return SHARED + number % (_STEPS**3 - SHARED)


def color(picture: int) -> int:
    """Return its colour, as a number of 24 bits."""
    steps = (picture // _STEPS**2, picture // _STEPS % _STEPS, picture % _STEPS)
    red, green, blue = (step * _STEPS + _STEPS // 2 for step in steps)
    return red << 16 | green << 8 | blue


def png(picture: int) -> bytes:
    """Return it as a file."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), f"#{color(picture):06x}").save(file, "PNG")
    return file.getvalue()


def color_of(path: Path) -> int | None:
    """Return the colour of a kept picture's first pixel, None if it is no picture."""
    try:
        with Image.open(path) as image:
            red, green, blue = image.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    except OSError:
        return None
    return int(red << 16 | green << 8 | blue)


def picture_of(found: int) -> int:
    """Return which picture a colour comes from, though it may have been painted over."""
    red, green, blue = (found >> shift & 0xFF for shift in (16, 8, 0))
    return (red // _STEPS * _STEPS + green // _STEPS) * _STEPS + blue // _STEPS
