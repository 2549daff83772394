"""All node types of a stand-in, and the folders of models that it claims to have."""

from collections.abc import Mapping

from worker.standin.acceptance_nodes import acceptance_node_types
from worker.standin.batch_nodes import batch_node_types
from worker.standin.files import Folders
from worker.standin.image_nodes import image_node_types
from worker.standin.loader_nodes import loader_node_types
from worker.standin.media_nodes import media_node_types
from worker.standin.nodes import NodeType
from worker.standin.options import StandinOptions
from worker.standin.sampling_nodes import sampling_node_types
from worker.standin.saver_nodes import saver_node_types
from worker.standin.scaling_nodes import scaling_node_types


def node_types(options: StandinOptions, folders: Folders) -> dict[str, NodeType]:
    """Return name → node type."""
    types = [
        *loader_node_types(options),
        *sampling_node_types(),
        *image_node_types(options, folders),
        *scaling_node_types(options),
        *media_node_types(),
        *acceptance_node_types(),
        *saver_node_types(),
        *batch_node_types(),
    ]
    return {one.name: one for one in types}


def model_folders(options: StandinOptions) -> Mapping[str, tuple[str, ...]]:
    """Return folder → names of the model files in it."""
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
        "custom_nodes": (),
        "hypernetworks": (),
        "photomaker": (),
        "classifiers": (),
        "model_patches": (),
        "audio_encoders": (),
    }
