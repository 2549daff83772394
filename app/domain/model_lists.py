"""Files and settings that backends offer to choose from, such as checkpoints, each with the backends where it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.domain.catalog import Catalog

ModelKind = Literal[
    "checkpoints",
    "loras",
    "vaes",
    "upscalers",
    "controlnets",
    "diffusion_models",
    "text_encoders",
    "samplers",
    "schedulers",
]
MODEL_KINDS: Final[tuple[ModelKind, ...]] = get_args(ModelKind)
CHOSEN_IN: Final[Mapping[ModelKind, tuple[str, str]]] = {
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "loras": ("LoraLoader", "lora_name"),
    "vaes": ("VAELoader", "vae_name"),
    "upscalers": ("UpscaleModelLoader", "model_name"),
    "controlnets": ("ControlNetLoader", "control_net_name"),
    "diffusion_models": ("UNETLoader", "unet_name"),
    "text_encoders": ("CLIPLoader", "clip_name"),
    "samplers": ("KSampler", "sampler_name"),
    "schedulers": ("KSampler", "scheduler"),
}
"""Kind → the node class and the input whose choices are its names. Embeddings are no choices of any input."""


@dataclass(frozen=True, slots=True)
class Offering:
    """What one or several backends offer, all of them the same."""

    backends: tuple[str, ...]
    catalog: Catalog


def model_list(kind: ModelKind, offerings: Iterable[Offering]) -> list[tuple[str, list[str]]]:
    """Return the names of a kind, in order, each with the names of the backends where it is, in order."""
    places: dict[str, list[str]] = {}
    for offering in offerings:
        # A list may have a name twice.
        for name in dict.fromkeys(offering.catalog.choices(*CHOSEN_IN[kind])):
            places.setdefault(name, []).extend(offering.backends)
    return [(name, sorted(places[name])) for name in sorted(places, key=in_order)]


def in_order(name: str) -> tuple[str, str]:
    """Return the key by which names are sorted: as people look for them, and always the same."""
    return name.casefold(), name


def alike(sources: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return digest → the backends whose offer has it; `sources` are backends, each with the digest of its offer."""
    found: dict[str, tuple[str, ...]] = {}
    for backend, digest in sources:
        found[digest] = (*found.get(digest, ()), backend)
    return found
