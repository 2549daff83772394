"""Gradients, noise and light: the material that scenes are made of."""

import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageOps

from worker.standin.drawing.palettes import Color, mix

Size = tuple[int, int]


def gradient(size: Size, colors: Sequence[Color]) -> Image.Image:
    """Return a smooth vertical gradient."""
    steps = 64
    column = bytearray()
    for step in range(steps):
        place = step / (steps - 1) * (len(colors) - 1)
        index = min(int(place), len(colors) - 2)
        part = place - index
        column += bytes(mix(colors[index], colors[index + 1], part * part * (3 - 2 * part) * 0.5 + part * 0.5))
    return Image.frombytes("RGB", (1, steps), bytes(column)).resize(size, Image.Resampling.BICUBIC)


def cloud_field(chance: random.Random, size: Size, cells: tuple[float, float], octaves: int = 5) -> Image.Image:
    """Return fractal noise from black to white; `cells` is how many of the largest blobs fit across and down."""
    small = (max(2, size[0] // 2), max(2, size[1] // 2))
    total = Image.new("L", small, 128)
    for octave in range(octaves):
        width = max(2, min(small[0], round(cells[0] * 2**octave)))
        height = max(2, min(small[1], round(cells[1] * 2**octave)))
        layer = Image.frombytes("L", (width, height), chance.randbytes(width * height))
        layer = layer.resize(small, Image.Resampling.BICUBIC)
        total = layer if octave == 0 else Image.blend(total, layer, 0.52 ** (octave + 0.35))
    return ImageOps.autocontrast(total, cutoff=2).resize(size, Image.Resampling.BICUBIC)


def ramp(low: float, high: float, top: float = 1.0) -> Callable[[int], int]:
    """Return a table function: 0 up to `low`, `top` from `high` on, both in parts of 1."""

    def level(value: int) -> int:
        part = min(1.0, max(0.0, (value / 255 - low) / (high - low)))
        return round(255 * top * part * part * (3 - 2 * part))

    return level


def glow(picture: Image.Image, center: tuple[float, float], radius: float, color: Color, strength: float) -> None:
    """Add light around a point, in place."""
    side = max(2, round(2 * radius))
    shape = Image.radial_gradient("L").point(lambda value: round(255 * strength * max(0, 1 - value / 178) ** 2))
    shape = shape.resize((side, side), Image.Resampling.BILINEAR)
    add_light(picture, shape, (round(center[0] - radius), round(center[1] - radius)), color)


def add_light(picture: Image.Image, shape: Image.Image, corner: tuple[int, int], color: Color) -> None:
    """Brighten a picture with a colour where `shape` is bright, in place; parts outside are cut off."""
    box = (
        max(0, corner[0]),
        max(0, corner[1]),
        min(picture.width, corner[0] + shape.width),
        min(picture.height, corner[1] + shape.height),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return
    part = shape.crop((box[0] - corner[0], box[1] - corner[1], box[2] - corner[0], box[3] - corner[1]))
    tinted = Image.merge("RGB", [part.point([level * channel // 255 for level in range(256)]) for channel in color])
    picture.paste(ImageChops.screen(picture.crop(box), tinted), box[:2])


def ridge_line(chance: random.Random, points: int, roughness: float, waves: float) -> list[float]:
    """Return a skyline: heights between about -1 and 1, in `points` steps."""
    heights = [0.0] * points
    amplitude = 1.0
    for octave in range(7):
        cells = waves * 2**octave
        values = [chance.uniform(-1, 1) for _ in range(int(cells) + 3)]
        for index in range(points):
            place = index / max(1, points - 1) * cells
            left = int(place)
            part = place - left
            smooth = part * part * (3 - 2 * part)
            heights[index] += amplitude * (values[left] + (values[left + 1] - values[left]) * smooth)
        amplitude *= roughness
        if cells > points / 2:
            break
    return heights


def polygon_mask(size: Size, outline: Sequence[tuple[float, float]]) -> Image.Image:
    """Return an antialiased mask of a polygon."""
    mask = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(mask).polygon([(x * 2, y * 2) for x, y in outline], fill=255)
    return mask.reduce(2)


def draw_stars(picture: Image.Image, chance: random.Random, bottom: float, light: Color, density: float = 1.0) -> None:
    """Add stars of different brightness, fewer towards `bottom`."""
    width, height = picture.size
    sky = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(sky)
    unit = max(width, height) / 1000
    for _ in range(round(420 * density)):
        x, y = chance.uniform(0, width), bottom * chance.random() ** 1.4
        brightness = chance.random() ** 3
        radius = unit * (0.35 + 1.3 * brightness)
        level = round(60 + 195 * brightness)
        if radius < 0.7:
            pen.point((x, y), level)
        else:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=level)
    add_light(picture, sky, (0, 0), light)
    for _ in range(round(7 * density)):
        x, y = chance.uniform(0, width), bottom * chance.random()
        glow(picture, (x, y), unit * chance.uniform(6, 16), light, 0.9)


def light_rays(size: Size, source: tuple[float, float], chance: random.Random, count: int) -> Image.Image:
    """Return a mask of rays that start at a point."""
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    reach = 2.0 * max(size)
    for _ in range(count):
        angle, width = chance.uniform(0, 2 * math.pi), chance.uniform(0.01, 0.05)
        ends = [(source[0] + reach * math.cos(a), source[1] + reach * math.sin(a)) for a in (angle, angle + width)]
        pen.polygon([source, *ends], fill=chance.randint(30, 90))
    return mask


def roughen(body: Image.Image, chance: random.Random, color: Color, part: float) -> None:
    """Give a slope some texture."""
    size = body.size
    field = cloud_field(chance, size, (7, 12), 4)
    body.paste(mix(color, (0, 0, 0), 0.45), (0, 0), field.point(ramp(0.45, 0.95, 0.30 * part)))
