"""All node types of a stand-in, and the folders of models that it claims to have."""

from collections.abc import Mapping
from typing import Final

from worker.standin.acceptance_nodes import acceptance_node_types
from worker.standin.batch_nodes import batch_node_types
from worker.standin.custom_sampling_nodes import custom_sampling_node_types
from worker.standin.file_nodes import file_node_types
from worker.standin.files import Folders
from worker.standin.image_nodes import image_node_types
from worker.standin.input_nodes import input_node_types
from worker.standin.latent_nodes import latent_node_types
from worker.standin.loader_nodes import loader_node_types
from worker.standin.mask_nodes import mask_node_types
from worker.standin.media_nodes import media_node_types
from worker.standin.newer_nodes import newer_node_types
from worker.standin.nodes import NodeType
from worker.standin.options import StandinOptions
from worker.standin.own_nodes import own_node_types
from worker.standin.primitive_nodes import primitive_node_types
from worker.standin.sampling_nodes import sampling_node_types
from worker.standin.saver_nodes import saver_node_types
from worker.standin.scaling_nodes import scaling_node_types
from worker.standin.versions import GROWING_INPUTS, parse_version
from worker.standin.video_nodes import video_node_types

_NEWEST_FOLDERS: Final = (
    "background_removal",
    "frame_interpolation",
    "geometry_estimation",
    "optical_flow",
    "detection",
)


def node_types(options: StandinOptions, folders: Folders) -> dict[str, NodeType]:
    """Return name → node type."""
    types = [
        *loader_node_types(options),
        *sampling_node_types(),
        *image_node_types(options),
        *scaling_node_types(options),
        *media_node_types(),
        *acceptance_node_types(),
        *saver_node_types(),
        *batch_node_types(),
        *primitive_node_types(),
        *mask_node_types(),
        *custom_sampling_node_types(),
        *file_node_types(),
        *input_node_types(folders),
        *video_node_types(folders),
        *latent_node_types(),
        *newer_node_types(),
        *own_node_types(),
    ]
    version = parse_version(options.version)
    there = [one for one in types if version >= one.since and (one.gone is None or version < one.gone)]
    return {one.name: one for one in there}


def model_folders(options: StandinOptions) -> Mapping[str, tuple[str, ...]]:
    """Return folder → names of the model files in it."""
    newer = parse_version(options.version) >= GROWING_INPUTS
    return {
        "checkpoints": options.checkpoints,
        "configs": (),
        "loras": options.loras,
        "vae": options.vaes,
        "text_encoders": (),
        "diffusion_models": (),
        "clip_vision": (),
        "style_models": (),
        "embeddings": options.embeddings,
        "diffusers": (),
        "vae_approx": (),
        "controlnet": (),
        "gligen": (),
        "upscale_models": options.upscale_models,
        **({"latent_upscale_models": ()} if newer else {}),
        "custom_nodes": (),
        **({"datasets": ()} if newer else {}),
        "hypernetworks": (),
        "photomaker": (),
        "classifiers": (),
        "model_patches": (),
        "audio_encoders": (),
        **(dict.fromkeys(_NEWEST_FOLDERS, ()) if newer else {}),
    }
