"""From a recipe to a picture of the exact size, and how it looks while it is being sampled."""

import hashlib
import math
import random
from collections.abc import Callable
from typing import Final

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from worker.standin.drawing import city, cosmos, landscapes, noise, studio
from worker.standin.drawing.palettes import Theme, theme_of
from worker.standin.values import Recipe

MOST_PIXELS: Final = 1_050_000
"""Larger pictures are drawn at this size and scaled up, so that none takes much longer than another."""

_SCENES: Final[dict[str, Callable[[tuple[int, int], Theme, random.Random], Image.Image]]] = {
    "hills": landscapes.draw_hills,
    "sea": landscapes.draw_sea,
    "forest": landscapes.draw_forest,
    "dunes": landscapes.draw_dunes,
    "city": city.draw_city,
    "space": cosmos.draw_space,
    "portrait": studio.draw_portrait,
    "flowers": studio.draw_flowers,
    "abstract": studio.draw_abstract,
}


def draw(recipe: Recipe, size: tuple[int, int], index: int = 0) -> Image.Image:
    """Return the picture of a recipe: the same one each time, and another for every other recipe or index."""
    chance = random.Random(_digest(recipe, index))
    theme = theme_of(recipe.positive, recipe.negative, chance)
    scale = min(1.0, math.sqrt(MOST_PIXELS / (size[0] * size[1])))
    canvas = (max(16, round(size[0] * scale)), max(16, round(size[1] * scale)))
    picture = _SCENES[theme.scene](canvas, theme, chance)
    picture = _graded(picture, recipe, chance)
    for name, strength in recipe.loras:
        picture = _restyled(picture, name, strength)
    picture = _with_grain(picture, chance)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def emerging(final: Image.Image, done: float, seed: int) -> Image.Image:
    """Return the picture as it looks when this part of the steps is done: from noise through blur to itself."""
    if done >= 1:
        return final
    chance = random.Random(f"{seed}|{round(done * 1000)}")
    width, height = final.size
    shape = final.filter(ImageFilter.GaussianBlur((1 - done) ** 1.5 * max(width, height) / 14 + 0.1))
    cells = (max(1, width // 2), max(1, height // 2))
    channels = [Image.frombytes("L", cells, chance.randbytes(cells[0] * cells[1])) for _ in range(3)]
    static = Image.merge("RGB", channels).resize(final.size, Image.Resampling.NEAREST)
    return Image.blend(shape, static, 0.92 * (1 - done) ** 1.6)


def _digest(recipe: Recipe, index: int) -> bytes:
    """Return what all chance in a picture starts from; cfg and LoRAs change its look, not what is in it."""
    parts = (recipe.positive, recipe.negative, recipe.seed, recipe.checkpoint, index)
    return hashlib.sha256(repr(parts).encode(errors="backslashreplace")).digest()


def _graded(picture: Image.Image, recipe: Recipe, chance: random.Random) -> Image.Image:
    """Give each checkpoint its own look, let cfg decide the contrast, and darken the corners."""
    look = random.Random(recipe.checkpoint)
    strength = min(1.25, 0.94 + recipe.cfg / 70)
    picture = ImageEnhance.Color(picture).enhance(strength * look.uniform(0.95, 1.15))
    picture = ImageEnhance.Contrast(picture).enhance(strength * look.uniform(0.96, 1.06))
    tables: list[int] = []
    for _ in range(3):
        gamma = look.uniform(0.94, 1.06)
        tables += [round(255 * (level / 255) ** gamma) for level in range(256)]
    picture = picture.point(tables)
    corners = Image.radial_gradient("L").point(noise.ramp(0.55, 1.3, 0.55)).resize(picture.size)
    return Image.composite(Image.new("RGB", picture.size, (4, 4, 10)), picture, corners)


def _restyled(picture: Image.Image, name: str, strength: float) -> Image.Image:
    """Return the picture as a LoRA changes it; the known ones by their name, any other by a tint."""
    share = max(0.0, min(1.0, abs(strength)))
    size = picture.size
    if "pixel" in name:
        cells = (max(8, size[0] // 7), max(8, size[1] // 7))
        blocks = ImageOps.posterize(picture.resize(cells, Image.Resampling.BOX), 5)
        styled = blocks.resize(size, Image.Resampling.NEAREST)
    elif "water" in name or "paint" in name:
        paper = noise.cloud_field(random.Random(name), size, (70, 70 * size[1] / size[0]), 3)
        third = (max(4, size[0] // 3), max(4, size[1] // 3))
        washed = picture.resize(third, Image.Resampling.BOX).filter(ImageFilter.ModeFilter(7))
        soft = washed.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.SMOOTH_MORE)
        light = Image.merge("RGB", [paper.point(lambda value: 226 + value // 9)] * 3)
        styled = ImageChops.multiply(ImageEnhance.Brightness(soft).enhance(1.12), light)
    elif "detail" in name or "sharp" in name:
        styled = picture.filter(ImageFilter.UnsharpMask(radius=max(1, size[0] // 300), percent=130))
    else:
        tint = random.Random(name)
        color = (tint.randint(60, 255), tint.randint(60, 255), tint.randint(60, 255))
        styled = ImageChops.soft_light(picture, Image.new("RGB", size, color))
    return Image.blend(picture, styled, share)


def _with_grain(picture: Image.Image, chance: random.Random) -> Image.Image:
    """Add fine grain, which also hides the steps of gradients."""
    width, height = picture.size
    grain = Image.frombytes("L", (width, height), chance.randbytes(width * height))
    grain = grain.point([121 + level * 14 // 255 for level in range(256)])
    return ImageChops.overlay(picture, Image.merge("RGB", (grain, grain, grain)))
