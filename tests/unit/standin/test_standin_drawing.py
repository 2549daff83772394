"""The pictures: exact size, the same for the same recipe, different for any other."""

import dataclasses
import hashlib
import os
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

from worker.standin.drawing import draw, emerging
from worker.standin.values import Recipe

RECIPE = Recipe("a lighthouse at dusk", "blurry", seed=7, checkpoint="dreamshaper_8.safetensors")
SIZE = (96, 64)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return how much two pictures differ, from 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3


@pytest.mark.parametrize("size", [(64, 64), (832, 1216), (8, 8), (16, 512), (1000, 24), (1536, 1536)])
def test_a_picture_has_exactly_the_size_asked_for(size: tuple[int, int]) -> None:
    assert draw(RECIPE, size).size == size


def test_the_same_recipe_gives_the_same_picture_in_every_process() -> None:
    # Python's own hash of a text depends on the process: a picture that is drawn from it would be another each time.
    drawing = (
        "import hashlib\n"
        "from worker.standin.drawing import draw\nfrom worker.standin.values import Recipe\n"
        f"print(hashlib.sha256(draw({RECIPE!r}, {SIZE}).tobytes()).hexdigest())"
    )
    here = hashlib.sha256(draw(RECIPE, SIZE).tobytes()).hexdigest()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        there = subprocess.run([sys.executable, "-c", drawing], env=environment, capture_output=True, check=True)
        assert there.stdout.decode().strip() == here


@pytest.mark.parametrize(
    "change",
    [
        {"positive": "a lighthouse at dawn"},
        {"negative": "sharp"},
        {"seed": 8},
        {"seed": 2**64 - 1},
        {"cfg": 12.0},
        {"checkpoint": "sd_xl_base_1.0.safetensors"},
        {"loras": (("pixel-art-xl.safetensors", 0.8),)},
    ],
)
def test_every_part_of_the_recipe_changes_the_picture(change: dict[str, object]) -> None:
    other = dataclasses.replace(RECIPE, **change)  # type: ignore[arg-type]
    assert difference(draw(RECIPE, SIZE), draw(other, SIZE)) > 0.5


def test_the_pictures_of_a_batch_differ() -> None:
    assert difference(draw(RECIPE, SIZE, 0), draw(RECIPE, SIZE, 1)) > 0.5


@pytest.mark.parametrize(
    "text",
    [
        "snowy mountains by a lake", "stormy ocean with a ship", "pine forest in the mist", "sahara dunes",
        "neon city in the rain", "galaxy and planets", "portrait of a queen", "garden of roses", "abstract swirls",
        "castle under the aurora", "", "完全に未知の言葉", "\ud800 surrogate", "x" * 20_000,
    ],
)  # fmt: skip
def test_any_text_can_be_drawn(text: str) -> None:
    for seed in range(3):
        picture = draw(Recipe(text, seed=seed), (64, 64))
        assert picture.mode == "RGB"
        assert max(ImageStat.Stat(picture).stddev) > 4, "a picture is not one flat colour"


def test_words_decide_the_colours() -> None:
    def mean(text: str) -> list[float]:
        pictures = [draw(Recipe(text, seed=seed), (64, 64)) for seed in range(5)]
        return [sum(ImageStat.Stat(picture).mean[band] for picture in pictures) for band in range(3)]

    fire, ocean, night = mean("fire and lava mountains"), mean("ocean"), mean("mountains at night")
    assert fire[0] > fire[2]
    assert ocean[2] > ocean[0]
    assert sum(night) < sum(ocean)


def test_a_word_in_the_negative_prompt_is_not_drawn() -> None:
    bright = [draw(Recipe("day mountains, night", "night", seed=seed), (64, 64)) for seed in range(4)]
    dark = [draw(Recipe("night mountains", seed=seed), (64, 64)) for seed in range(4)]
    assert sum(ImageStat.Stat(one).mean[2] for one in bright) > sum(ImageStat.Stat(one).mean[2] for one in dark)


def test_the_picture_emerges_from_noise() -> None:
    final = draw(RECIPE, (160, 160))
    distances = [difference(final, emerging(final, done, 7)) for done in (0.05, 0.35, 0.7, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == 0
