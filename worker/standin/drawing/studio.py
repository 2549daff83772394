"""Scenes without a place: portraits, flowers, abstract flows."""

import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.noise import Size
from worker.standin.drawing.palettes import Color, Theme, mix


def draw_portrait(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw a figure against a large disc of light, like a poster."""
    width, height = size
    palette = theme.palette
    picture = noise.gradient(size, (*palette.sky, mix(palette.sky[-1], palette.near, 0.5)))
    field = noise.cloud_field(chance, size, (2, 2 * height / width), 5)
    picture.paste(mix(palette.far, palette.sky[0], 0.4), (0, 0), field.point(noise.ramp(0.4, 0.9, 0.55)))
    unit = min(width, height)
    x, y = width * chance.uniform(0.46, 0.54), height * 0.44
    rays = noise.light_rays(size, (x, y), chance, 40).filter(ImageFilter.GaussianBlur(unit / 150))
    noise.add_light(picture, rays.point(lambda value: value // 2), (0, 0), palette.light)
    _draw_halo(picture, theme, (x, y), unit * 0.36)
    _draw_bokeh(picture, theme, chance, 16)
    _draw_figure(picture, theme, chance, x, y, unit)
    _draw_bokeh(picture, theme, chance, 6)
    return picture


def draw_flowers(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw blossoms in front of a blurred garden."""
    width, height = size
    palette = theme.palette
    leaf = mix((64, 112, 70), palette.far, 0.4)
    shades = (mix(palette.sky[0], leaf, 0.35), palette.sky[-1], leaf, mix(leaf, palette.near, 0.6))
    picture = noise.gradient(size, shades)
    field = noise.cloud_field(chance, size, (3, 3 * height / width), 4)
    picture.paste(mix(leaf, (10, 30, 20), 0.5), (0, 0), field.point(noise.ramp(0.45, 0.85, 0.7)))
    _draw_bokeh(picture, theme, chance, 22)
    unit = min(width, height)
    for depth in range(4):
        near = (depth + 1) / 4
        for _ in range(7 - depth):
            radius = unit * (0.05 + 0.12 * near) * chance.uniform(0.8, 1.2)
            center = (chance.uniform(0.02, 0.98) * width, height * chance.uniform(0.25, 1.0))
            _draw_stem(picture, center, radius, leaf, chance)
            _draw_blossom(picture, center, radius, theme, chance)
        if depth < 3:
            picture = picture.filter(ImageFilter.GaussianBlur(unit / 120 * (3 - depth) / 2))
    noise.glow(picture, (width * chance.uniform(0.1, 0.9), 0), unit * 0.9, palette.light, 0.5)
    return picture


def draw_abstract(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw lines that follow a field of directions, over soft colours."""
    width, height = size
    palette = theme.palette
    shades = (mix(palette.near, palette.sky[0], 0.5), palette.near, mix(palette.near, palette.far, 0.4))
    picture = noise.gradient(size, shades)
    for color in (palette.far, palette.accent, palette.sky[len(palette.sky) // 2]):
        field = noise.cloud_field(chance, size, (1.6, 1.6 * height / width), 3)
        noise.add_light(picture, field.point(noise.ramp(0.5, 1.0, 0.45)), (0, 0), color)
    _draw_flow(picture, theme, chance)
    _draw_bokeh(picture, theme, chance, 9)
    return picture


def _draw_flow(picture: Image.Image, theme: Theme, chance: random.Random) -> None:
    """Draw the lines of a flow."""
    width, height = picture.size
    grid = (48, max(2, round(48 * height / width)))
    angles = noise.cloud_field(chance, grid, (2.2, 2.2 * height / width), 3).load()
    turn, swing = chance.uniform(0, 6.3), chance.uniform(1.2, 2.6)
    shades = [*theme.palette.sky[1:], theme.palette.accent, theme.palette.light]
    lines = Image.new("RGB", picture.size, (0, 0, 0))
    mask = Image.new("L", picture.size, 0)
    pen, mask_pen = ImageDraw.Draw(lines), ImageDraw.Draw(mask)
    unit = max(width, height) / 1000
    length = max(2.0, unit * 11)
    for _ in range(round(min(900, 120 + width * height / 900))):
        x, y = chance.uniform(-0.1, 1.1) * width, chance.uniform(-0.1, 1.1) * height
        color = mix(chance.choice(shades), (255, 255, 255), chance.uniform(0, 0.15))
        points = []
        for _ in range(chance.randint(10, 30)):
            points.append((x, y))
            column = min(grid[0] - 1, max(0, int(x / width * grid[0])))
            row = min(grid[1] - 1, max(0, int(y / height * grid[1])))
            value = angles[column, row] if angles is not None else 0
            angle = turn + (value if isinstance(value, int) else 0) / 255 * 6.3 * swing / 2
            x, y = x + length * math.cos(angle), y + length * math.sin(angle)
        thickness = max(1, round(unit * chance.uniform(0.8, 5.5)))
        pen.line(points, fill=color, width=thickness, joint="curve")
        mask_pen.line(points, fill=chance.randint(110, 235), width=thickness, joint="curve")
    soft = max(0.5, unit * 0.9)
    shadow = ImageChops.offset(mask, round(unit * 4), round(unit * 6)).filter(ImageFilter.GaussianBlur(unit * 5))
    picture.paste(mix(theme.palette.near, (0, 0, 0), 0.5), (0, 0), shadow.point(lambda value: value // 2))
    picture.paste(lines, (0, 0), mask.filter(ImageFilter.GaussianBlur(soft)))


def _draw_halo(picture: Image.Image, theme: Theme, center: tuple[float, float], radius: float) -> None:
    """Draw a bright disc with a ring around it."""
    noise.glow(picture, center, radius * 2.2, theme.palette.light, 0.7)
    outline = [
        (center[0] + radius * math.cos(step / 60 * math.tau), center[1] + radius * math.sin(step / 60 * math.tau))
        for step in range(60)
    ]
    disc = noise.polygon_mask(picture.size, outline)
    warm = noise.gradient(picture.size, (theme.palette.light, theme.palette.accent, theme.palette.far))
    picture.paste(warm, (0, 0), disc.point(lambda value: round(value * 0.85)))


def _draw_figure(picture: Image.Image, theme: Theme, chance: random.Random, x: float, y: float, unit: float) -> None:
    """Draw head, hair and shoulders as one dark shape with a lit edge."""
    height = picture.height
    head = unit * 0.125
    turn = chance.choice((-1, 1))
    face = [
        (x + turn * head * dx, y + head * dy)
        for dx, dy in ((-0.85, -0.9), (-0.3, -1.32), (0.35, -1.28), (0.72, -0.85), (0.78, -0.35), (0.98, 0.02),
                       (0.82, 0.14), (0.86, 0.3), (0.78, 0.42), (0.8, 0.62), (0.6, 0.84), (0.2, 0.86), (0.16, 1.35),
                       (-0.75, 1.35), (-0.95, 0.3))
    ]  # fmt: skip
    hair_length = chance.uniform(0.6, 2.2)
    hair = [
        (x + turn * head * dx, y + head * dy)
        for dx, dy in ((0.72, -0.9), (0.3, -1.5), (-0.5, -1.55), (-1.15, -1.0), (-1.35, 0.0), (-1.3, hair_length),
                       (-0.7, hair_length + 0.3), (-0.5, 0.5), (-0.1, -0.1), (0.2, -0.7))
    ]  # fmt: skip
    half = [(3.3, 4.2), (2.75, 3.0), (2.25, 2.25), (1.5, 1.85), (0.75, 1.55), (0.42, 1.2), (0.4, 0.7)]
    right = [(x + head * dx, y + head * dy) for dx, dy in half]
    left = [(2 * x - px, py) for px, py in reversed(right)]
    shoulders = [(x + head * 3.3, height * 1.5), *right, *left, (x - head * 3.3, height * 1.5)]
    mask = Image.new("L", picture.size, 0)
    for outline in (shoulders, face, hair):
        mask = ImageChops.lighter(mask, noise.polygon_mask(picture.size, _rounded(outline)))
    dark = mix(theme.palette.near, (0, 0, 0), 0.2)
    body = noise.gradient(picture.size, (mix(dark, theme.palette.far, 0.25), dark, mix(dark, (0, 0, 0), 0.4)))
    picture.paste(body, (0, 0), mask)
    shifted = ImageChops.offset(mask, -turn * max(1, round(unit / 130)), max(1, round(unit / 200)))
    edge = ImageChops.subtract(mask, shifted)
    rim = edge.filter(ImageFilter.GaussianBlur(unit / 300))
    noise.add_light(picture, rim, (0, 0), mix(theme.palette.light, theme.palette.accent, 0.4))


def _rounded(outline: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return an outline with its corners cut twice."""
    for _ in range(2):
        following = [*outline[1:], outline[0]]
        outline = [
            (one[0] + (other[0] - one[0]) * part, one[1] + (other[1] - one[1]) * part)
            for one, other in zip(outline, following, strict=True)
            for part in (0.25, 0.75)
        ]
    return outline


def _draw_bokeh(picture: Image.Image, theme: Theme, chance: random.Random, count: int) -> None:
    """Add soft discs of light."""
    width, height = picture.size
    unit = min(width, height)
    for _ in range(count):
        radius = unit * chance.uniform(0.012, 0.07)
        side = max(4, round(radius * 2))
        disc = Image.new("L", (side, side), 0)
        pen = ImageDraw.Draw(disc)
        pen.ellipse((1, 1, side - 2, side - 2), fill=chance.randint(25, 85), outline=chance.randint(70, 130))
        corner = (round(chance.uniform(0, width) - radius), round(chance.uniform(0, height) - radius))
        color = mix(theme.palette.light, theme.palette.accent, chance.random())
        noise.add_light(picture, disc.filter(ImageFilter.GaussianBlur(radius * 0.12)), corner, color)


def _draw_stem(
    picture: Image.Image, center: tuple[float, float], radius: float, leaf: Color, chance: random.Random
) -> None:
    """Draw a stem down to the bottom."""
    bend = chance.uniform(-1, 1) * radius
    points = [
        (center[0] + bend * math.sin(step / 12 * 2), center[1] + step / 12 * (picture.height - center[1] + radius))
        for step in range(13)
    ]
    ImageDraw.Draw(picture).line(points, fill=mix(leaf, (14, 40, 24), 0.45), width=max(1, round(radius * 0.09)))


def _draw_blossom(
    picture: Image.Image, center: tuple[float, float], radius: float, theme: Theme, chance: random.Random
) -> None:
    """Draw one blossom of several rings of petals."""
    palette = theme.palette
    base = mix(chance.choice((palette.accent, palette.sky[-2], palette.light)), palette.accent, 0.35)
    side = max(8, round(radius * 4))
    blossom = Image.new("RGB", (side, side), base)
    mask = Image.new("L", (side, side), 0)
    pen, mask_pen = ImageDraw.Draw(blossom), ImageDraw.Draw(mask)
    petals = chance.choice((5, 6, 8, 10))
    squash = chance.uniform(0.65, 1.0)
    middle = side / 2
    for ring, reach in enumerate((1.0, 0.74, 0.48)):
        for petal in range(petals):
            angle = math.tau * (petal + ring * 0.5) / petals + chance.uniform(-0.1, 0.1)
            shade = mix(mix(base, (255, 250, 245), 0.25 * ring), palette.near, chance.uniform(0.0, 0.28))
            outline = _petal(middle, radius * 2 * reach * 0.98, angle, math.pi / petals * 1.15, squash)
            pen.polygon(outline, fill=shade, outline=mix(shade, palette.near, 0.3))
            mask_pen.polygon(outline, fill=255)
    heart = radius * 0.3
    pen.ellipse((middle - heart, middle - heart * squash, middle + heart, middle + heart * squash),
                fill=mix((250, 200, 80), palette.near, 0.15))  # fmt: skip
    small = (max(4, side // 2), max(4, side // 2))
    corner = (round(center[0] - small[0] / 2), round(center[1] - small[1] / 2))
    picture.paste(blossom.resize(small, Image.Resampling.BOX), corner, mask.resize(small, Image.Resampling.BOX))


def _petal(middle: float, reach: float, angle: float, half: float, squash: float) -> list[tuple[float, float]]:
    """Return the outline of a petal that points from the middle outwards."""
    outline = []
    for step in range(13):
        part = step / 12
        away = math.sin(part * math.pi) ** 0.55
        direction = angle + half * (part - 0.5) * 2 * (0.35 + 0.65 * away)
        distance = reach * (0.12 + 0.88 * away) * (0.94 if step == 6 else 1.0)
        outline.append((middle + distance * math.cos(direction), middle + distance * math.sin(direction) * squash))
    return outline
