"""Removed node types and their replacements; later versions of ComfyUI replace them in a prompt before validation."""

from collections.abc import Mapping
from typing import Any, Final

from worker.standin.caching import is_link
from worker.standin.nodes import NodeType

Mapped = list[dict[str, Any]]


def _replaced(
    old: str, new: str, inputs: Mapped | None = None, outputs: Mapped | None = None, widgets: list[str] | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """Return one entry of the table, as it is told."""
    told = {
        "new_node_id": new,
        "old_node_id": old,
        "old_widget_ids": widgets,
        "input_mapping": inputs,
        "output_mapping": outputs,
    }
    return old, [told]


def _renamed(**names: str) -> Mapped:
    """Return inputs of which only the name is another: old → new."""
    return [{"new_id": new, "old_id": old} for old, new in names.items()]


REPLACEMENTS: Final[Mapping[str, list[dict[str, Any]]]] = dict(
    (
        _replaced(
            "ResizeImagesByLongerEdge",
            "ImageScaleToMaxDimension",
            [
                *_renamed(images="image", longer_edge="largest_size"),
                {"new_id": "upscale_method", "set_value": "lanczos"},
            ],
            [{"new_idx": 0, "old_idx": 0}],
            ["longer_edge"],
        ),
        _replaced("ImageBatch", "BatchImagesNode", _renamed(image1="images.image0", image2="images.image1")),
        _replaced(
            "ImageScaleBy",
            "ResizeImageMaskNode",
            [
                *_renamed(image="input"),
                {"new_id": "resize_type", "set_value": "scale by multiplier"},
                *_renamed(scale_by="resize_type.multiplier", upscale_method="scale_method"),
            ],
            widgets=["upscale_method", "scale_by"],
        ),
        _replaced("T2IAdapterLoader", "ControlNetLoader", _renamed(t2i_adapter_name="control_net_name")),
        _replaced("Load3DAnimation", "Load3D"),
        _replaced("Preview3DAnimation", "Preview3D"),
        _replaced("SDV_img2vid_Conditioning", "SVD_img2vid_Conditioning"),
        _replaced("ConditioningAverage ", "ConditioningAverage"),
    )
)
"""Old name → what `GET /node_replacements` tells of it; only the first entry is used."""


def replace_nodes(graph: dict[str, Any], types: Mapping[str, NodeType]) -> None:
    """Put the new type in place of each node whose own is not there, if there is an entry for it, with its inputs.

    Raises
    ------
    KeyError, AttributeError
        If such a node has no `_meta`, or not an input that is mapped: ComfyUI answers 500.
    """
    gone = [
        node_id
        for node_id, node in graph.items()
        if "class_type" in node and "inputs" in node
        and node["class_type"] not in types and node["class_type"] in REPLACEMENTS
    ]  # fmt: skip
    for node_id in gone:
        entry = REPLACEMENTS[graph[node_id]["class_type"]][0]
        if entry["new_node_id"] in types:
            graph[node_id] = _new_node(graph[node_id], entry)
            _turn_links(graph, node_id, entry["output_mapping"] or [])


def _new_node(node: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node as the new type has it; without a mapping it has no inputs left."""
    inputs = {
        one["new_id"]: one["set_value"] if "set_value" in one else node["inputs"][one["old_id"]]
        for one in entry["input_mapping"] or []
    }
    return {**node, "class_type": entry["new_node_id"], "inputs": inputs, "_meta": node["_meta"].copy()}


def _turn_links(graph: Mapping[str, Any], node_id: str, outputs: Mapped) -> None:
    """Let the links to a replaced node lead to the outputs that its own became."""
    slots = {one["old_idx"]: one["new_idx"] for one in outputs}
    for node in graph.values():
        for value in node.get("inputs", {}).values():
            if is_link(value) and value[0] == node_id and value[1] in slots:
                value[1] = slots[value[1]]
