"""Which colours and which scene the words of a prompt call for."""

import colorsys
import random
import re
from dataclasses import dataclass, replace
from typing import Final

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a picture."""

    sky: tuple[Color, ...]
    """From the top down to the horizon."""
    light: Color
    """Sun, moon, windows."""
    far: Color
    near: Color
    accent: Color
    night: bool = False


@dataclass(frozen=True, slots=True)
class Theme:
    """What a prompt calls for: a scene, its colours, and things in it."""

    scene: str
    palette: Palette
    things: frozenset[str]


PALETTES: Final[dict[str, Palette]] = {
    "sunset": Palette(
        ((38, 25, 77), (129, 48, 110), (232, 93, 86), (255, 177, 98), (255, 222, 150)),
        (255, 236, 190), (176, 84, 116), (31, 18, 44), (255, 140, 90),
    ),
    "dusk": Palette(
        ((16, 22, 58), (50, 52, 112), (123, 87, 145), (222, 130, 130), (252, 196, 150)),
        (255, 226, 184), (112, 92, 146), (15, 16, 38), (255, 186, 120),
    ),
    "dawn": Palette(
        ((91, 134, 189), (150, 180, 214), (233, 204, 208), (255, 219, 186), (255, 238, 214)),
        (255, 250, 228), (166, 172, 204), (52, 66, 92), (255, 190, 160),
    ),
    "day": Palette(
        ((34, 102, 180), (84, 150, 214), (146, 196, 232), (205, 228, 238)),
        (255, 252, 232), (148, 178, 204), (34, 66, 62), (255, 214, 110),
    ),
    "ocean": Palette(
        ((10, 70, 120), (26, 122, 170), (92, 182, 204), (188, 226, 222), (240, 240, 214)),
        (255, 250, 220), (70, 130, 156), (8, 40, 62), (120, 240, 224),
    ),
    "forest": Palette(
        ((92, 134, 128), (150, 182, 152), (206, 216, 170), (240, 236, 196)),
        (255, 250, 208), (134, 164, 134), (14, 38, 30), (214, 220, 110),
    ),
    "night": Palette(
        ((4, 7, 24), (9, 18, 52), (24, 42, 92), (54, 78, 132)),
        (236, 240, 255), (40, 58, 104), (4, 8, 22), (140, 190, 255), night=True,
    ),
    "aurora": Palette(
        ((3, 8, 26), (8, 24, 52), (14, 52, 74), (34, 92, 96)),
        (230, 255, 244), (26, 60, 76), (3, 10, 20), (96, 255, 180), night=True,
    ),
    "snow": Palette(
        ((104, 140, 182), (164, 190, 216), (212, 224, 236), (244, 240, 240)),
        (255, 250, 236), (184, 200, 220), (58, 78, 108), (255, 206, 190),
    ),
    "fire": Palette(
        ((18, 6, 10), (64, 12, 14), (150, 30, 16), (236, 92, 20), (255, 190, 70)),
        (255, 220, 120), (120, 30, 20), (14, 5, 8), (255, 120, 30),
    ),
    "desert": Palette(
        ((62, 110, 150), (148, 168, 172), (236, 200, 150), (252, 224, 172)),
        (255, 246, 210), (222, 168, 116), (112, 56, 32), (250, 180, 90),
    ),
    "autumn": Palette(
        ((96, 116, 142), (176, 164, 150), (232, 190, 132), (250, 216, 156)),
        (255, 240, 196), (190, 130, 84), (62, 28, 20), (236, 112, 36),
    ),
    "spring": Palette(
        ((116, 158, 214), (178, 198, 230), (240, 208, 224), (255, 232, 230)),
        (255, 250, 240), (202, 176, 206), (70, 62, 92), (255, 150, 190),
    ),
    "neon": Palette(
        ((8, 4, 28), (30, 8, 66), (92, 16, 110), (214, 40, 140), (255, 120, 130)),
        (120, 240, 255), (66, 28, 104), (8, 6, 24), (40, 230, 255), night=True,
    ),
    "space": Palette(
        ((3, 3, 14), (12, 8, 36), (40, 16, 70), (90, 34, 104)),
        (255, 244, 230), (90, 60, 150), (4, 4, 16), (90, 190, 255), night=True,
    ),
    "storm": Palette(
        ((26, 32, 42), (58, 68, 80), (104, 114, 122), (168, 172, 166)),
        (230, 236, 240), (88, 98, 106), (18, 24, 30), (190, 214, 230),
    ),
    "gold": Palette(
        ((24, 20, 24), (70, 50, 40), (160, 110, 60), (240, 196, 120)),
        (255, 232, 170), (140, 100, 66), (18, 14, 16), (255, 206, 100),
    ),
}  # fmt: skip

_PALETTE_WORDS: Final[dict[str, str]] = {
    "sunset": "sunset sundown golden evening orange",
    "dusk": "dusk twilight purple violet lighthouse dream dreamy",
    "dawn": "dawn sunrise morning pastel mist misty fog foggy",
    "day": "day sky blue sunny summer noon cloud clouds",
    "ocean": "ocean sea beach wave waves tropical island coral underwater turquoise lagoon",
    "forest": "forest jungle tree trees wood woods green moss meadow valley fern",
    "night": "night midnight moon moonlit moonlight stars starry dark",
    "aurora": "aurora borealis northern lights emerald",
    "snow": "snow snowy winter ice icy frozen glacier arctic alpine",
    "fire": "fire lava volcano flame flames dragon inferno ember hell red",
    "desert": "desert dune dunes sand canyon savanna sahara mesa",
    "autumn": "autumn fall leaves harvest pumpkin rust",
    "spring": "spring flower flowers blossom blossoms cherry sakura rose roses garden pink tulip lotus",
    "neon": "neon cyberpunk synthwave futuristic vaporwave retrowave city cyber blade",
    "space": "space galaxy nebula cosmos cosmic planet planets universe astronaut alien star spaceship",
    "storm": "storm stormy rain rainy thunder lightning grey gray monochrome gloomy",
    "gold": "gold luxury royal king queen baroque temple ancient steampunk portrait",
}

_SCENE_WORDS: Final[dict[str, str]] = {
    "space": "space galaxy nebula cosmos cosmic planet planets universe star spaceship alien",
    "city": "city skyline cyberpunk street tokyo york neon skyscraper skyscrapers buildings synthwave urban",
    "portrait": "portrait woman man girl boy face person warrior knight astronaut wizard queen king princess samurai",
    "flowers": "flower flowers blossom blossoms rose roses tulip lotus bouquet garden sakura cherry petals",
    "abstract": "abstract pattern flow fractal geometry swirl swirls marble ink smoke energy texture generative",
    "sea": "ocean sea beach wave waves island lagoon lake water river lighthouse boat ship harbor harbour coast bay",
    "forest": "forest jungle tree trees woods wood pine pines fern",
    "dunes": "desert dune dunes sand sahara",
    "hills": "mountain mountains hills valley landscape canyon volcano cabin castle meadow alpine snow winter field",
}

_THINGS: Final[dict[str, str]] = {
    "lighthouse": "lighthouse",
    "boat": "boat ship sail sailing sailboat",
    "birds": "bird birds seagull seagulls eagle crow beach summer",
    "stars": "stars starry night midnight galaxy space moon",
    "aurora": "aurora borealis northern",
    "snow": "snow snowy winter alpine glacier ice icy frozen",
    "rain": "rain rainy storm stormy",
    "castle": "castle palace temple tower",
    "water": "water lake river reflection reflections ocean sea",
    "mist": "mist misty fog foggy dreamy forest",
}


def theme_of(positive: str, negative: str, chance: random.Random) -> Theme:
    """Return what the words call for; what they leave open is left to chance."""
    unwanted = set(_words(negative))
    words = [word for word in _words(positive) if word not in unwanted]
    scene = _first(words, _SCENE_WORDS) or chance.choice(("hills", "hills", "sea", "forest", "abstract", "dunes"))
    name = _first(words, _PALETTE_WORDS) or chance.choice([*PALETTES])
    if scene == "space" and not PALETTES[name].night:
        name = "space"
    things = frozenset(thing for thing, named in _THINGS.items() if set(named.split()) & set(words))
    return Theme(scene, _shifted(PALETTES[name], chance), things)


def mix(one: Color, other: Color, share: float) -> Color:
    """Return a colour between two; `share` is the second one's."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _first(words: list[str], known: dict[str, str]) -> str | None:
    """Return the name that most words stand for; of several the one named first."""
    counts: dict[str, int] = {}
    for word in words:
        for name, named in known.items():
            if word in named.split():
                counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else None


def _shifted(palette: Palette, chance: random.Random) -> Palette:
    """Return the palette with its hue turned a little, so that no two seeds look alike."""
    turn = chance.uniform(-0.035, 0.035)
    lift = chance.uniform(0.92, 1.08)

    def shift(color: Color) -> Color:
        hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
        shifted = colorsys.hls_to_rgb((hue + turn) % 1, min(1.0, lightness * lift), saturation)
        return (round(shifted[0] * 255), round(shifted[1] * 255), round(shifted[2] * 255))

    return replace(
        palette,
        sky=tuple(shift(color) for color in palette.sky),
        far=shift(palette.far),
        near=shift(palette.near),
        accent=shift(palette.accent),
    )
