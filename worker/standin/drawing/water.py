"""Water that mirrors what is above it."""

import math
import random

from PIL import Image, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.palettes import Theme, mix


def draw_water(picture: Image.Image, theme: Theme, chance: random.Random, horizon: float, sun_x: float) -> None:
    """Mirror what is above the horizon in rippled water below it, in place."""
    width, height = picture.size
    top = round(horizon)
    depth = height - top
    if depth < 2:
        return
    mirrored = picture.crop((0, max(0, top - round(depth * 1.15)), width, top)).transpose(
        Image.Transpose.FLIP_TOP_BOTTOM
    )
    mirrored = mirrored.resize((width, depth), Image.Resampling.BILINEAR)
    blurred = mirrored.resize((max(1, width // 10), depth), Image.Resampling.BOX)
    mirrored = Image.blend(mirrored, blurred.resize((width, depth), Image.Resampling.BICUBIC), 0.6)
    rippled = mirrored.copy()
    phase = chance.uniform(0, 6.3)
    for y in range(depth):
        near = y / depth
        shift = math.sin(phase + 60 * math.sqrt(near + 0.01)) + 0.5 * math.sin(1.7 * phase + 131 * math.sqrt(near))
        offset = round(shift * width * (0.004 + 0.02 * near))
        rippled.paste(mirrored.crop((0, y, width, y + 1)), (offset, y))
    tint = noise.gradient((width, depth), (theme.palette.sky[-1], theme.palette.far, theme.palette.near))
    water = Image.blend(rippled, tint, 0.34)
    streaks = noise.cloud_field(chance, (width, depth), (3, max(4.0, 26 * depth / max(width, 1))), 4)
    water.paste(mix(theme.palette.near, (0, 0, 0), 0.3), (0, 0), streaks.point(noise.ramp(0.55, 0.95, 0.38)))
    picture.paste(water, (0, top))
    _draw_glitter(picture, theme, chance, top, sun_x)


def _draw_glitter(picture: Image.Image, theme: Theme, chance: random.Random, top: int, sun_x: float) -> None:
    """Add the path of light below sun or moon."""
    width, height = picture.size
    depth = height - top
    shine = Image.new("L", (width, depth), 0)
    pen = ImageDraw.Draw(shine)
    for _ in range(max(30, min(520, depth))):
        near = chance.random() ** 1.35
        spread = width * (0.012 + 0.13 * near)
        x, y = sun_x + chance.gauss(0, spread), near * depth
        length = width * (0.006 + 0.035 * near) * chance.uniform(0.4, 1.4)
        thickness = max(1, round(height / 520 * (0.5 + 2.2 * near)))
        pen.line((x - length, y, x + length, y), fill=chance.randint(60, 230), width=thickness)
    noise.add_light(picture, shine.filter(ImageFilter.GaussianBlur(height / 900)), (0, top), theme.palette.light)
