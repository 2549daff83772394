"""Which inputs a node class checks itself, in place of ComfyUI's own comparison with bounds and choices.

`/object_info` does not tell. Of ComfyUI's own classes it is known, and of others nothing is.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.domain.node_classes import NodeClass

_ALL: Final = "*"
_TYPES: Final = "input_types"
"""A class that asks for this checks the types of its links itself."""
_OF_COMFYUI: Final = {
    "CustomCombo": {_ALL},
    "FluxProUltraImageNode": {"aspect_ratio"},
    "KlingCameraControls": {"horizontal_movement", "vertical_movement", "pan", "tilt", "roll", "zoom"},
    "Load3D": {_ALL},
    "Load3DAdvanced": {_ALL},
    "LoadAudio": {"audio"},
    "LoadImage": {"image"},
    "LoadImageMask": {"image"},
    "LoadImageOutput": {"image"},
    "LoadLatent": {"latent"},
    "LoadVideo": {"file"},
    "ModelAttentionBackend": {"attention"},
    "SelectCLIPDevice": {"device"},
    "SelectModelDevice": {"device"},
    "SelectVAEDevice": {"device"},
    "TripoConversionNode": {_TYPES},
    "WebcamCapture": {"image"},
}
"""Class → inputs that its own check names, of 0.3.64 and 0.33.0 together."""


class Whose(Enum):
    """What checks an input of a node: ComfyUI itself, or the node's class; or it is unknown."""

    COMFYUI = auto()
    CLASS = auto()
    UNKNOWN = auto()


def checks_value(node_class: NodeClass, name: str) -> Whose:
    """Return who holds the value of this input against its bounds and choices."""
    if not node_class.is_core:
        return Whose.UNKNOWN
    own = _OF_COMFYUI.get(node_class.name, ())
    return Whose.CLASS if name in own or _ALL in own else Whose.COMFYUI


def checks_types(node_class: NodeClass) -> Whose:
    """Return who says whether what is linked to a node fits."""
    if not node_class.is_core:
        return Whose.UNKNOWN
    return Whose.CLASS if _TYPES in _OF_COMFYUI.get(node_class.name, ()) else Whose.COMFYUI
