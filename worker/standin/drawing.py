"""Pictures from a recipe."""

import hashlib
import random

from PIL import Image, ImageFilter

from worker.standin.values import Recipe


def draw(recipe: Recipe, size: tuple[int, int], index: int = 0) -> Image.Image:
    """Return the picture of a recipe."""
    digest = hashlib.sha256(f"{recipe}|{index}".encode(errors="replace")).digest()
    chance = random.Random(digest)
    small = Image.new("RGB", (4, 5))
    small.putdata([(chance.randrange(256), chance.randrange(256), chance.randrange(256)) for _ in range(20)])
    return small.resize(size, Image.Resampling.BICUBIC)


def emerging(final: Image.Image, done: float, seed: int) -> Image.Image:
    """Return the picture as it looks when this part of the steps is done."""
    noise = Image.effect_noise(final.size, 90).convert("RGB")
    blurred = final.filter(ImageFilter.GaussianBlur(max(0.0, (1 - done) * 12)))
    return Image.blend(noise, blurred, min(1.0, 0.15 + 0.85 * done))
