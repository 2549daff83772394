"""Short pieces of music from a recipe: a scale and a rhythm that its words and seed decide."""

import hashlib
import math
import random
from array import array
from typing import Final

from worker.standin.values import Recipe, Sound

RATE: Final = 22_050
_LONGEST_SECONDS: Final = 20.0
_SCALES: Final = ((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 5, 7, 9), (0, 2, 3, 7, 8))


def compose(recipe: Recipe, seconds: float) -> Sound:
    """Return a melody of this length, at most 20 s; the same recipe gives the same one."""
    digest = hashlib.sha256(f"{recipe.positive}|{recipe.seed}|{recipe.checkpoint}".encode(errors="replace")).digest()
    chance = random.Random(digest)
    scale, root = chance.choice(_SCALES), chance.choice((196.0, 220.0, 246.9, 261.6))
    beat = chance.choice((0.25, 0.3, 0.4))
    count = max(1, int(min(seconds, _LONGEST_SECONDS) * RATE))
    samples = array("h", bytes(2 * count))
    step = int(beat * RATE)
    for start in range(0, count, step):
        if start and chance.random() < 0.15:
            continue
        pitch = root * 2 ** ((chance.choice(scale) + 12 * chance.choice((0, 0, 1))) / 12)
        _add_note(samples, start, pitch, min(count - start, step * 2))
    return Sound(samples, RATE)


def _add_note(samples: "array[int]", start: int, pitch: float, length: int) -> None:
    """Mix in a plucked note."""
    angle = 2 * math.pi * pitch / RATE
    decay = math.exp(-5.0 / max(1, length))
    level = 8000.0
    for offset in range(length):
        level *= decay
        attack = min(1.0, offset / 200)
        value = level * attack * (math.sin(angle * offset) + 0.3 * math.sin(2 * angle * offset))
        samples[start + offset] = max(-32768, min(32767, samples[start + offset] + int(value)))
