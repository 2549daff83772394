"""Space: nebula, stars, a planet."""

import random

from PIL import Image, ImageChops, ImageDraw

from worker.standin.drawing import noise
from worker.standin.drawing.noise import Size
from worker.standin.drawing.palettes import Theme, mix


def draw_space(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw a nebula with stars and a planet."""
    width, height = size
    palette = theme.palette
    picture = noise.gradient(size, (palette.sky[0], mix(palette.sky[0], palette.sky[1], 0.6), palette.sky[0]))
    aspect = height / width
    for color, low in ((palette.sky[-1], 0.35), (palette.accent, 0.5), (palette.far, 0.42), (palette.light, 0.68)):
        field = noise.cloud_field(chance, size, (2.2, 2.2 * aspect), 6)
        veil = noise.cloud_field(chance, size, (1.3, 1.3 * aspect), 3)
        shape = ImageChops.multiply(field, veil).point(noise.ramp(low * 0.6, low * 0.6 + 0.5, 0.75))
        noise.add_light(picture, shape, (0, 0), color)
    noise.draw_stars(picture, chance, height, palette.light, 1.8)
    if chance.random() < 0.8:
        _draw_planet(picture, theme, chance)
    return picture


def _draw_planet(picture: Image.Image, theme: Theme, chance: random.Random) -> None:
    """Draw a banded planet lit from one side."""
    width, height = picture.size
    radius = min(width, height) * chance.uniform(0.14, 0.28)
    center = (width * chance.uniform(0.25, 0.75), height * chance.uniform(0.25, 0.75))
    side = max(8, round(radius * 2))
    bands = noise.cloud_field(chance, (side, side), (1.2, 9), 5)
    palette = theme.palette
    face = Image.composite(
        Image.new("RGB", (side, side), mix(palette.light, palette.accent, 0.35)),
        Image.new("RGB", (side, side), mix(palette.sky[-1], palette.far, 0.4)),
        bands,
    ).rotate(chance.uniform(-35, 35), Image.Resampling.BICUBIC)
    light = Image.radial_gradient("L").point(lambda value: round(255 * max(0, 1 - (value / 150) ** 1.6)))
    light = light.resize((side * 2, side * 2))
    x, y = side - round(side * chance.uniform(0.2, 0.4)), side - round(side * chance.uniform(0.2, 0.45))
    lit = light.crop((x, y, x + side, y + side))
    face = Image.composite(face, Image.new("RGB", (side, side), palette.near), lit)
    mask = Image.new("L", (side * 2, side * 2), 0)
    ImageDraw.Draw(mask).ellipse((2, 2, side * 2 - 3, side * 2 - 3), fill=255)
    noise.glow(picture, center, radius * 1.7, palette.accent, 0.55)
    picture.paste(face, (round(center[0] - side / 2), round(center[1] - side / 2)), mask.reduce(2))
