"""Skies: gradient, clouds, stars, aurora, and a sun or moon."""

import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.noise import Size
from worker.standin.drawing.palettes import Color, Theme, mix


def draw_sky(size: Size, theme: Theme, chance: random.Random, horizon: float) -> tuple[Image.Image, float, float]:
    """Return a sky down to `horizon` with clouds and a sun or moon, and where that stands."""
    width, height = size
    palette = theme.palette
    sky = Image.new("RGB", size, palette.sky[-1])
    sky.paste(noise.gradient((width, max(2, round(horizon))), palette.sky), (0, 0))
    sun_x = width * chance.uniform(0.2, 0.8)
    sun_y = horizon * (chance.uniform(0.2, 0.45) if palette.night else chance.uniform(0.5, 0.88))
    if palette.night or "stars" in theme.things:
        noise.draw_stars(sky, chance, horizon, palette.light, 1.0 if palette.night else 0.4)
    if "aurora" in theme.things:
        _draw_aurora(sky, chance, horizon, palette.accent)
    _draw_clouds(sky, theme, chance, horizon)
    radius = min(width, height) * (chance.uniform(0.035, 0.06) if palette.night else chance.uniform(0.05, 0.1))
    noise.glow(sky, (sun_x, sun_y), radius * 11, palette.light, 0.5)
    noise.glow(sky, (sun_x, sun_y), radius * 4.2, palette.light, 0.8)
    _draw_disc(sky, (sun_x, sun_y), radius, palette.light, chance if palette.night else None)
    return sky, sun_x, sun_y


def _draw_clouds(sky: Image.Image, theme: Theme, chance: random.Random, horizon: float) -> None:
    """Add clouds that catch the light."""
    size = (sky.width, max(2, round(horizon)))
    across = chance.uniform(1.6, 3.0)
    field = noise.cloud_field(chance, size, (across, across * size[1] / size[0] * chance.uniform(2.0, 4.0)))
    cover = chance.uniform(0.42, 0.62) - (0.2 if "rain" in theme.things else 0.0)
    thick = 0.45 if theme.palette.night else 0.85
    mask = field.point(noise.ramp(cover, cover + 0.4, thick))
    lit = noise.gradient(size, [mix(color, theme.palette.light, 0.42) for color in theme.palette.sky])
    dark = noise.gradient(size, [mix(color, theme.palette.far, 0.5) for color in theme.palette.sky])
    offset = ImageChops.offset(field, 0, -max(1, size[1] // 40))
    body = Image.composite(dark, lit, offset.point(noise.ramp(cover + 0.12, cover + 0.55)))
    sky.paste(body, (0, 0), mask)


def _draw_aurora(sky: Image.Image, chance: random.Random, horizon: float, color: Color) -> None:
    """Add curtains of light."""
    width = sky.width
    for curtain in range(3):
        mask = Image.new("L", (width, round(horizon)), 0)
        pen = ImageDraw.Draw(mask)
        line = noise.ridge_line(chance, max(2, width // 3), 0.45, 2)
        base = horizon * chance.uniform(0.45, 0.8)
        for index, height in enumerate(line):
            bottom = base + height * horizon * 0.12
            tall = horizon * (0.35 + 0.12 * math.sin(index * 0.9) * line[-index - 1])
            pen.line((index * 3, bottom - tall, index * 3, bottom), fill=round(90 + 70 * abs(height)), width=3)
        mask = mask.filter(ImageFilter.BoxBlur(width / 60))
        tint = mix(color, (130, 90, 255), curtain * 0.3)
        noise.add_light(sky, mask, (0, 0), tint)


def _draw_disc(
    sky: Image.Image, center: tuple[float, float], radius: float, color: Color, moon: random.Random | None
) -> None:
    """Draw the sun, or a moon with its seas."""
    side = max(4, round(radius * 8))
    disc = Image.new("L", (side, side), 0)
    ImageDraw.Draw(disc).ellipse((side * 0.25, side * 0.25, side * 0.75, side * 0.75), fill=255)
    small = max(2, side // 2)
    disc = disc.resize((small, small), Image.Resampling.LANCZOS)
    corner = (round(center[0] - small / 2), round(center[1] - small / 2))
    face = Image.new("RGB", disc.size, mix(color, (255, 255, 255), 0.45))
    if moon is not None:
        seas = noise.cloud_field(moon, disc.size, (3, 3), 3)
        face.paste(mix(color, (120, 130, 160), 0.5), (0, 0), seas.point(noise.ramp(0.35, 1.0, 0.6)))
    sky.paste(face, corner, disc)
