"""What flows along the links of a graph."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from array import array

Images = tuple[Image.Image, ...]
"""A batch, each of mode RGB."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint with LoRAs applied; stands for MODEL, CLIP and VAE alike."""

    checkpoint: str
    loras: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded text."""

    text: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how a sampled picture looks."""

    positive: str
    negative: str = ""
    seed: int = 0
    cfg: float = 7.0
    checkpoint: str = ""
    loras: tuple[tuple[str, float], ...] = ()
    denoise: float = 1.0


@dataclass(frozen=True, slots=True)
class Latent:
    """A latent image or sound: its size, and how it was sampled or what it was encoded from."""

    width: int
    height: int
    batch_size: int
    recipe: Recipe | None = None
    source: Images = ()
    seconds: float = 0.0
    """Length, if it is a sound."""
    first: Image.Image | None = None
    """The first picture of the batch, if it was drawn for the previews."""
    mask: Images = ()
    """What a sampler may change from now on: what is white; everything, if there is none."""
    painted: Images = ()
    """Where the recipe is drawn over the source: what is white; everywhere, if there is none."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A mono sound of 16-bit samples."""

    samples: "array[int]" = field(repr=False)
    rate: int = 44_100


@dataclass(frozen=True, slots=True)
class Video:
    """A video, frame by frame."""

    frames: Images
    fps: float
    sound: Sound | None = None
