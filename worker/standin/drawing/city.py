"""A skyline at night or day."""

import random

from PIL import Image, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.noise import Size
from worker.standin.drawing.palettes import Color, Theme, mix
from worker.standin.drawing.sky import draw_sky
from worker.standin.drawing.water import draw_water


def draw_city(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw a skyline with lit windows above wet ground."""
    width, height = size
    horizon = height * chance.uniform(0.66, 0.74)
    picture, sun_x, _ = draw_sky(size, theme, chance, horizon)
    for part in (0.15, 0.45, 0.8):
        _draw_buildings(picture, theme, chance, horizon, part)
    noise.glow(picture, (width / 2, horizon), width * 0.7, theme.palette.accent, 0.4)
    draw_water(picture, theme, chance, horizon, sun_x)
    _draw_light_trails(picture, theme, chance, horizon)
    return picture


def _draw_buildings(picture: Image.Image, theme: Theme, chance: random.Random, horizon: float, part: float) -> None:
    """Draw one row of buildings; `part` is how near it is."""
    width, height = picture.size
    palette = theme.palette
    color = mix(mix(palette.sky[-1], palette.far, 0.6), palette.near, part)
    pen = ImageDraw.Draw(picture)
    windows = (palette.light, palette.accent, mix(palette.light, (255, 190, 110), 0.7))
    x = -width * 0.02
    while x < width:
        wide = width * chance.uniform(0.035, 0.1) * (0.6 + 0.8 * part)
        tall = height * chance.uniform(0.1, 0.42) * (1.15 - 0.45 * part)
        top = horizon - tall
        pen.rectangle((x, top, x + wide, horizon + 1), fill=color)
        if chance.random() < 0.35:
            pen.rectangle((x + wide * 0.25, top - tall * 0.09, x + wide * 0.75, top), fill=color)
        if chance.random() < 0.3:
            pen.line((x + wide / 2, top - tall * 0.25, x + wide / 2, top), fill=color, width=max(1, width // 400))
        _draw_windows(pen, (x, top, wide, tall), windows, color, chance, part)
        if part > 0.3 and chance.random() < 0.4:
            sign = mix(chance.choice((palette.accent, palette.sky[-2], palette.light)), (255, 255, 255), 0.1)
            sx, sy, high = x + wide * chance.uniform(0.1, 0.7), top + tall * chance.uniform(0.1, 0.5), tall * 0.25
            pen.rectangle((sx, sy, sx + max(1.0, wide * 0.12), sy + high), fill=sign)
            noise.glow(picture, (sx, sy + high / 2), high * 0.9, sign, 0.6)
        x += wide * chance.uniform(0.75, 1.15)


def _draw_windows(
    pen: ImageDraw.ImageDraw,
    building: tuple[float, float, float, float],
    lights: tuple[Color, ...],
    wall: Color,
    chance: random.Random,
    part: float,
) -> None:
    """Light some windows of a building."""
    x, top, wide, tall = building
    columns, rows = max(2, round(5 * part + 3)), max(3, min(34, round(tall / wide * (5 * part + 4))))
    cell_x, cell_y = wide / columns, tall / rows
    if cell_x < 2 or cell_y < 2:
        return
    share = chance.uniform(0.12, 0.5)
    for row in range(1, rows):
        for column in range(columns):
            if chance.random() < share:
                left, upper = x + (column + 0.22) * cell_x, top + row * cell_y
                light = mix(wall, chance.choice(lights), chance.uniform(0.35, 0.95) * (0.4 + 0.6 * part))
                pen.rectangle((left, upper, left + cell_x * 0.5, upper + cell_y * 0.5), fill=light)


def _draw_light_trails(picture: Image.Image, theme: Theme, chance: random.Random, horizon: float) -> None:
    """Draw the reflections of lights as vertical streaks."""
    width, height = picture.size
    streaks = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(streaks)
    for _ in range(60):
        x, length = chance.uniform(0, width), chance.uniform(0.2, 0.9) * (height - horizon)
        pen.line((x, horizon, x, horizon + length), fill=chance.randint(30, 130), width=max(1, width // 260))
    blurred = streaks.filter(ImageFilter.BoxBlur(max(1, width // 300)))
    noise.add_light(picture, blurred, (0, 0), theme.palette.accent)
