"""What the words of a prompt name besides a scene: a lighthouse, a boat, a castle, birds, rain."""

import random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from worker.standin.drawing import noise
from worker.standin.drawing.palettes import Color, Theme, mix


def draw_things(picture: Image.Image, theme: Theme, chance: random.Random, horizon: float) -> None:
    """Draw what the words name besides the scene."""
    width, height = picture.size
    unit = min(width, height)
    dark = mix(theme.palette.near, (0, 0, 0), 0.35)
    if "lighthouse" in theme.things:
        _draw_lighthouse(picture, theme, chance, horizon, dark)
    if "boat" in theme.things:
        x, y = width * chance.uniform(0.25, 0.75), horizon + (height - horizon) * chance.uniform(0.15, 0.35)
        _draw_boat(picture, x, y, unit * 0.09, dark)
    if "birds" in theme.things or (not theme.palette.night and chance.random() < 0.3):
        pen = ImageDraw.Draw(picture)
        x, y = width * chance.uniform(0.2, 0.7), horizon * chance.uniform(0.25, 0.55)
        for _ in range(chance.randint(5, 9)):
            span = unit * chance.uniform(0.008, 0.02)
            bx, by = x + chance.gauss(0, unit * 0.08), y + chance.gauss(0, unit * 0.04)
            wings = [(bx - span, by - span * 0.5), (bx - span * 0.4, by - span * 0.35), (bx, by),
                     (bx + span * 0.4, by - span * 0.35), (bx + span, by - span * 0.5)]  # fmt: skip
            pen.line(wings, fill=dark, width=max(1, round(unit / 420)), joint="curve")
    if "rain" in theme.things:
        rain = Image.new("L", picture.size, 0)
        pen = ImageDraw.Draw(rain)
        for _ in range(max(40, width // 2)):
            x, y, length = chance.uniform(-20, width), chance.uniform(0, height), unit * chance.uniform(0.02, 0.06)
            pen.line((x, y, x + length * 0.2, y + length), fill=chance.randint(20, 80))
        noise.add_light(picture, rain, (0, 0), theme.palette.light)


def _draw_lighthouse(picture: Image.Image, theme: Theme, chance: random.Random, horizon: float, dark: Color) -> None:
    """Draw a lighthouse on a rock with its beam."""
    width, height = picture.size
    x = width * (0.24 if chance.random() < 0.5 else 0.76)
    tall = height * 0.3
    base = horizon + height * 0.13
    lamp = (x, base - tall)
    beam = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(beam)
    toward = 1 if x < width / 2 else -1
    for spread, level in ((0.1, 50), (0.06, 80), (0.03, 110)):
        pen.polygon(
            [lamp, (x + toward * width, lamp[1] - width * spread - width * 0.06),
             (x + toward * width, lamp[1] + width * spread - width * 0.06)], fill=level,
        )  # fmt: skip
    fading = Image.linear_gradient("L").rotate(90 if toward > 0 else 270).resize(picture.size)
    fading = fading.point(lambda value: max(0, value - 70))
    beam = ImageChops.multiply(beam.filter(ImageFilter.GaussianBlur(width / 120)), fading)
    noise.add_light(picture, beam, (0, 0), theme.palette.light)
    rock = noise.ridge_line(chance, 40, 0.6, 5)
    half = width * 0.46
    outline = []
    for index, value in enumerate(rock):
        away = (index - 19.5) / 19.5
        drop = max(0.0, abs(away) - 0.16) ** 1.25 * (height - base) * 1.35
        rough = height * 0.012 * min(1.0, abs(away) * 2 + 0.05)
        outline.append((x + away * half, base + height * 0.012 + drop - value * rough))
    mask = noise.polygon_mask(picture.size, [*outline, (x + half, height), (x - half, height)])
    stone = noise.gradient(picture.size, (mix(dark, theme.palette.far, 0.5), mix(dark, theme.palette.far, 0.3), dark))
    noise.roughen(stone, chance, dark, 1.0)
    picture.paste(stone, (0, 0), mask)
    foot, head = tall * 0.105, tall * 0.06
    body = [(x - foot, base + height * 0.02), (x - head, base - tall * 0.86), (x + head, base - tall * 0.86),
            (x + foot, base + height * 0.02)]  # fmt: skip
    tower = noise.polygon_mask(picture.size, body)
    stripes = Image.new("RGB", picture.size, mix((236, 230, 224), theme.palette.far, 0.35))
    pen = ImageDraw.Draw(stripes)
    for index in range(4):
        upper = base - tall * (0.86 - index * 0.25)
        pen.rectangle((0, upper, width, upper + tall * 0.125), fill=mix((178, 44, 44), theme.palette.near, 0.35))
    shade = Image.new("L", picture.size, 0)
    ImageDraw.Draw(shade).rectangle((x + foot * 0.15, 0, width, height), fill=110)
    stripes.paste(dark, (0, 0), shade.filter(ImageFilter.GaussianBlur(max(1.0, foot / 2))))
    picture.paste(stripes, (0, 0), tower)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((x - head * 1.5, base - tall * 0.88, x + head * 1.5, base - tall * 0.855), fill=dark)
    pen.rectangle((x - head * 0.75, base - tall * 0.97, x + head * 0.75, base - tall * 0.88), fill=theme.palette.light)
    pen.polygon([(x - head, base - tall * 0.965), (x, base - tall * 1.05), (x + head, base - tall * 0.965)], fill=dark)
    noise.glow(picture, (x, base - tall * 0.925), tall * 0.42, theme.palette.light, 0.9)


def _draw_boat(picture: Image.Image, x: float, y: float, size: float, dark: Color) -> None:
    """Draw a small sailing boat with its shadow in the water."""
    hull = [(x - size * 0.55, y - size * 0.12), (x + size * 0.6, y - size * 0.12), (x + size * 0.38, y + size * 0.1),
            (x - size * 0.4, y + size * 0.1)]  # fmt: skip
    main = [(x + size * 0.02, y - size * 1.2), (x + size * 0.02, y - size * 0.16), (x + size * 0.5, y - size * 0.16)]
    fore = [(x - size * 0.03, y - size * 1.1), (x - size * 0.03, y - size * 0.16), (x - size * 0.45, y - size * 0.16)]
    bright, grey = mix(dark, (255, 250, 240), 0.78), mix(dark, (255, 250, 240), 0.6)
    for outline, color in ((hull, dark), (main, bright), (fore, grey)):
        picture.paste(color, (0, 0), noise.polygon_mask(picture.size, outline))
        shadow = [(px, y + size * 0.12 + (y - py) * 0.55) for px, py in outline]
        mask = noise.polygon_mask(picture.size, shadow).filter(ImageFilter.GaussianBlur(size / 14))
        picture.paste(dark, (0, 0), mask.point(lambda value: round(value * 0.4)))


def draw_castle(
    picture: Image.Image, chance: random.Random, x: float, y: float, size: float, dark: Color, light: Color
) -> None:
    """Draw towers with lit windows."""
    pen = ImageDraw.Draw(picture)
    towers = ((-0.5, 0.6, 0.1), (-0.22, 0.95, 0.1), (0.0, 0.7, 0.2), (0.25, 1.15, 0.09), (0.5, 0.55, 0.11))
    for offset, tall, half in towers:
        cx, top = x + offset * size, y - tall * size
        pen.rectangle((cx - half * size, top, cx + half * size, y + size), fill=dark)
        pen.polygon([(cx - half * size * 1.25, top), (cx, top - size * 0.3), (cx + half * size * 1.25, top)], fill=dark)
        for _ in range(3):
            wx, wy = cx + chance.uniform(-0.5, 0.5) * half * size, y - chance.uniform(0.1, 0.85) * tall * size
            pen.rectangle((wx, wy, wx + size * 0.015, wy + size * 0.035), fill=light)
