"""Makes thumbnails and previews of pictures. Blocking: run in threads."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from typing import TYPE_CHECKING, Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from app.media.image_headers import Excerpt, read_head, read_orientation

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO

    from app.media.image_headers import Head

MOST_PREVIEW_BYTES: Final = 16 * 2**20
"""Maximum bytes of a preview."""
PREVIEW_PX: Final = 320
"""Maximum pixels of a published preview's longer side."""
MOST_PREVIEW_PIXELS: Final = 2**23
"""Maximum pixels of a preview that ComfyUI sends; full HD has a quarter of that."""
THUMBNAIL_PX: Final = 512
"""Maximum pixels of a thumbnail's longer side."""
_PLUGINS: Final = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
"""The formats that are decoded. Naming them keeps Pillow from importing all its plugins, which takes 0.2 s."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the operation that turns the picture upright."""
_ONE_AVIF: Final = threading.Lock()


def thumbnail_of(file: BinaryIO) -> bytes | None:
    """Return the thumbnail of an open picture file as WebP; None if none can be made."""
    try:
        head = read_head(file)
        if head is None or head.hindrance is not None:
            return None
        with _decoding(head), _opened(file, head) as image:
            if head.scaled:
                image.draft(None, (THUMBNAIL_PX, THUMBNAIL_PX))
            image.load()
            return _thumbnail(image, head)
    except Exception:  # noqa: BLE001 - decoders of broken files raise whatever they stumble over
        return None


def small_picture(image: memoryview) -> bytes | None:
    """Return a preview from ComfyUI as a small WebP; None if it is not a picture or is too large."""
    if len(image) > MOST_PREVIEW_BYTES:
        return None
    file = io.BytesIO(image)
    try:
        head = read_head(file)
        if head is None or head.hindrance is not None or head.pixels > MOST_PREVIEW_PIXELS:
            return None
        with _opened(file, head) as opened:
            # Lets the JPEG decoder decode at a reduced size.
            opened.draft("RGB", (PREVIEW_PX, PREVIEW_PX))
            opened.load()
            # Scaled first, so that the conversion has fewer pixels.
            opened.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.BILINEAR)
            small = opened.convert("RGB")
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=70, method=0)
    except Exception:  # noqa: BLE001 - decoders of broken files raise whatever they stumble over
        return None
    return buffer.getvalue()


def _opened(file: BinaryIO, head: Head) -> Image.Image:
    """Open a picture with Pillow, limited to the parts that the decoder may read."""
    file.seek(0)
    seen: Any = file if head.parts is None else Excerpt(file, head.parts)
    with warnings.catch_warnings() if head.scaled else contextlib.nullcontext():
        if head.scaled:
            # Pillow warns from half its size limit on.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(seen, formats=(head.form,))
    if image.size[0] * image.size[1] > head.pixels:
        raise ValueError("the size in the head differs from the decoder's")
    return image


def _decoding(head: Head) -> AbstractContextManager[Any]:
    """Return the lock for decoding: AVIFs one at a time, because their size is unknown before decoding."""
    return _ONE_AVIF if head.form == AvifImagePlugin.AvifImageFile.format else contextlib.nullcontext()


def _thumbnail(small: Image.Image, head: Head) -> bytes:
    """Return the thumbnail as WebP. Changes the picture in place: a copy would take as long as all other steps."""
    # `reducing_gap` averages blocks of pixels first: 40 dB from LANCZOS alone, in a fifth of the time.
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=1.0)
    if small.mode.startswith("I;16"):
        # A direct conversion would clip 16-bit greys to white.
        small = small.convert("I").point(lambda value: value / 257).convert("L")
    if small.mode not in ("RGB", "RGBA"):
        small = small.convert("RGBA" if "transparency" in small.info or small.mode in ("LA", "PA") else "RGB")
    turn = _TURNS.get(head.orientation if head.orientation != 1 else _orientation_of(small))
    if turn is not None:
        small = small.transpose(turn)
    file = io.BytesIO()
    # Methods above 2 take more than twice as long and save only 5 % of the size.
    small.save(file, "WEBP", quality=80, method=2)
    return file.getvalue()


def _orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation that the decoder found; 1 if none."""
    exif = image.info.get("exif")
    return read_orientation(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1
