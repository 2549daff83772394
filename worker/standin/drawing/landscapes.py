"""Scenes under a sky: hills, sea, forest, dunes."""

import math
import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.noise import Size
from worker.standin.drawing.palettes import Theme, mix
from worker.standin.drawing.sky import draw_sky
from worker.standin.drawing.things import draw_castle, draw_things
from worker.standin.drawing.water import draw_water


def draw_hills(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw layered ridges that fade into the distance, with a lake if there is water."""
    width, height = size
    lake = "water" in theme.things or chance.random() < 0.35
    horizon = height * chance.uniform(0.56, 0.66)
    picture, sun_x, _ = draw_sky(size, theme, chance, horizon)
    layers = chance.randint(3, 4) if lake else chance.randint(5, 6)
    for layer in range(layers):
        part = layer / max(1, layers - 1)
        top = horizon - height * (0.2 - 0.17 * part) if lake else horizon + height * (part**1.3 * 0.42 - 0.12)
        if "castle" in theme.things and layer == layers // 2:
            dark = mix(theme.palette.far, theme.palette.near, 0.75)
            x, size_of_castle = width * chance.uniform(0.3, 0.7), min(width, height) * 0.24
            draw_castle(picture, chance, x, top, size_of_castle, dark, theme.palette.light)
        _draw_ridge(picture, theme, chance, top, part, bottom=horizon if lake else height)
    if lake:
        draw_water(picture, theme, chance, horizon, sun_x)
        _draw_ridge(picture, theme, chance, height * 0.95, 1.0, bottom=height, swell=0.5)
    draw_things(picture, theme, chance, horizon)
    return picture


def draw_sea(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw a sea with a distant coast, and what stands on the near one."""
    height = size[1]
    horizon = height * chance.uniform(0.52, 0.6)
    picture, sun_x, _ = draw_sky(size, theme, chance, horizon)
    for part in (0.1, 0.4):
        if chance.random() < 0.75:
            _draw_ridge(picture, theme, chance, horizon - height * 0.03 * (1 - part), part, bottom=horizon, swell=0.5)
    draw_water(picture, theme, chance, horizon, sun_x)
    draw_things(picture, theme, chance, horizon)
    if "lighthouse" not in theme.things:
        _draw_shore(picture, theme, chance)
    return picture


def draw_forest(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw rows of conifers in the mist."""
    height = size[1]
    horizon = height * chance.uniform(0.5, 0.6)
    picture, sun_x, sun_y = draw_sky(size, theme, chance, horizon)
    _draw_ridge(picture, theme, chance, horizon - height * 0.1, 0.05, bottom=height)
    layers = 5
    for layer in range(layers):
        part = (layer + 1) / layers
        base = horizon + height * (part**1.5 * 0.46 - 0.06)
        _draw_trees(picture, theme, chance, base, part)
    if not theme.palette.night:
        rays = noise.light_rays(size, (sun_x, sun_y), chance, 26).filter(ImageFilter.GaussianBlur(size[0] / 80))
        fading = noise.gradient(size, ((255, 255, 255), (150, 150, 150), (0, 0, 0))).convert("L")
        noise.add_light(picture, ImageChops.multiply(rays, fading).point(lambda v: v // 2), (0, 0), theme.palette.light)
    return picture


def draw_dunes(size: Size, theme: Theme, chance: random.Random) -> Image.Image:
    """Draw dunes with a lit and a shaded side."""
    width, height = size
    horizon = height * chance.uniform(0.5, 0.58)
    picture, _, _ = draw_sky(size, theme, chance, horizon)
    layers = 6
    for layer in range(layers):
        part = layer / (layers - 1)
        base = horizon + height * (part**1.4 * 0.45 - 0.03)
        swell = height * (0.02 + 0.07 * part)
        phase, waves = chance.uniform(0, 6.3), chance.uniform(0.7, 1.8)
        points = [
            base - swell * (math.sin(phase + x / width * waves * 6.3) + 0.35 * math.sin(2.3 * phase + x / width * 9))
            for x in range(0, width + 2, 2)
        ]
        outline = [(x * 2.0, y) for x, y in enumerate(points)] + [(width + 2.0, height), (0.0, height)]
        mask = noise.polygon_mask(size, outline)
        lit = mix(mix(theme.palette.sky[-1], theme.palette.far, 0.25 + 0.6 * part), theme.palette.accent, 0.12)
        dark = mix(theme.palette.far, theme.palette.near, 0.15 + 0.6 * part)
        picture.paste(noise.gradient(size, (lit, lit, mix(lit, dark, 0.5), dark)), (0, 0), mask)
        shade = noise.polygon_mask(size, _shaded_side(points, width, height, phase))
        strength = 0.35 + 0.3 * part
        picture.paste(dark, (0, 0), ImageChops.multiply(mask, shade).point(lambda v, s=strength: round(v * s)))
    draw_things(picture, theme, chance, horizon)
    return picture


def _draw_ridge(
    picture: Image.Image, theme: Theme, chance: random.Random, top: float, part: float, bottom: float, swell: float = 1
) -> None:
    """Draw one ridge; `part` is how near it is, from 0 to 1."""
    width, height = picture.size
    step = max(1, width // 420)
    line = noise.ridge_line(chance, width // step + 2, 0.5 - 0.06 * part, chance.uniform(1.5, 3.2))
    amplitude = height * (0.075 + 0.02 * part) * swell
    points = [(index * step, top - value * amplitude) for index, value in enumerate(line)]
    mask = noise.polygon_mask(picture.size, [*points, (width, bottom), (0, bottom)])
    palette = theme.palette
    color = mix(mix(palette.sky[-1], palette.far, 0.45 + 0.5 * part), palette.near, part**1.25)
    haze = mix(color, palette.sky[-1], (0.5 if "mist" in theme.things else 0.34) * (1 - part * 0.75))
    body = Image.new("RGB", picture.size, haze)
    start = max(0, round(top - amplitude * 1.6))
    reach = max(2, round(amplitude * 4.2))
    body.paste(noise.gradient((width, reach), (color, mix(color, haze, 0.4), haze)), (0, start))
    if part > 0:
        noise.roughen(body, chance, color, part)
    picture.paste(body, (0, 0), mask)
    if "snow" in theme.things and part < 0.95:
        melt = noise.ridge_line(chance, len(points), 0.62, 9)
        cap = []
        for (x, y), value in zip(points, melt, strict=True):
            tall = max(0.0, min(1.0, 0.5 - (y - top) / amplitude * 0.6))
            cap.append((x, y + amplitude * tall * max(0.05, 0.55 + 0.3 * value)))
        snow = ImageChops.multiply(noise.polygon_mask(picture.size, [*points, *reversed(cap)]), mask)
        picture.paste(mix((248, 250, 255), palette.sky[-1], 0.2 + 0.3 * (1 - part)), (0, 0), snow)


def _draw_trees(picture: Image.Image, theme: Theme, chance: random.Random, base: float, part: float) -> None:
    """Draw one row of conifers on uneven ground."""
    width, height = picture.size
    mask = Image.new("L", (width * 2, height * 2), 0)
    pen = ImageDraw.Draw(mask)
    line = noise.ridge_line(chance, 64, 0.5, 2)
    tall = height * (0.045 + 0.2 * part**1.6)
    gap = tall * 0.2
    ground = [(index / 63 * width * 2, (base - line[index] * height * 0.02) * 2) for index in range(64)]
    pen.polygon([*ground, (width * 2, height * 2), (0, height * 2)], fill=255)
    x = -gap
    while x < width + gap:
        size = tall * chance.uniform(0.5, 1.15)
        y = base - line[min(63, max(0, int(x / width * 63)))] * height * 0.02 + size * 0.24
        _draw_conifer(pen, x * 2, y * 2, size * 2, chance)
        x += gap * chance.uniform(0.5, 1.7)
    palette = theme.palette
    color = mix(mix(palette.sky[-1], palette.far, 0.5 + 0.4 * part), palette.near, part**1.2)
    fog = mix(color, palette.sky[-1], 0.5 * (1 - part * 0.8))
    body = Image.new("RGB", picture.size, fog)
    start, reach = round(base - tall * 1.3), max(2, round(tall * 2.1))
    body.paste(noise.gradient((width, reach), (color, color, fog)), (0, start))
    picture.paste(body, (0, 0), mask.reduce(2))


def _draw_conifer(pen: ImageDraw.ImageDraw, x: float, y: float, tall: float, chance: random.Random) -> None:
    """Draw one tree in tiers."""
    tiers = 5
    lean = chance.uniform(-0.03, 0.03) * tall
    outline_left, outline_right = [], []
    for tier in range(tiers):
        top, low = tier / tiers, (tier + 1.25) / tiers
        half = tall * 0.035 + tall * 0.16 * low * chance.uniform(0.8, 1.1)
        outline_left += [(x + lean - half * 0.35, y - tall * (1 - top)), (x - half, y - tall * max(0, 1 - low))]
        outline_right += [(x + lean + half * 0.35, y - tall * (1 - top)), (x + half, y - tall * max(0, 1 - low))]
    pen.polygon([(x + lean, y - tall * 1.08), *outline_right, *reversed(outline_left)], fill=255)
    pen.rectangle((x - tall * 0.015, y - tall * 0.1, x + tall * 0.015, y + tall * 0.04), fill=255)


def _draw_shore(picture: Image.Image, theme: Theme, chance: random.Random) -> None:
    """Draw a strip of dark land in one lower corner."""
    width, height = picture.size
    left = chance.random() < 0.5
    line = noise.ridge_line(chance, 80, 0.5, 3)
    points = []
    for index, value in enumerate(line):
        part = index / 79
        fall = 1 - part if left else part
        points.append((part * width, height * (1.02 - 0.12 * fall**1.6) - value * height * 0.008 * (fall + 0.2)))
    mask = noise.polygon_mask(picture.size, [*points, (width, height), (0, height)])
    picture.paste(mix(theme.palette.near, (0, 0, 0), 0.35), (0, 0), mask)


def _shaded_side(points: list[float], width: int, height: int, phase: float) -> list[tuple[float, float]]:
    """Return the outline of the side of a dune that the light does not reach."""
    start = points.index(min(points))
    crest = [(index * 2.0, points[index]) for index in range(start, len(points))]
    top = points[start]
    foot = []
    for step in range(24, -1, -1):
        part = step / 24
        bend = math.sin(part * 4.2 + phase * 0.3) * 0.07 * math.sqrt(part) + 0.16 * part
        foot.append((start * 2.0 + width * bend, top + (height - top) * part))
    return [*crest, (width + 2.0, height), *foot]
