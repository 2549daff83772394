"""Node types of masks and of what they join, and one that mixes pictures and asks only for those that it needs."""

from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from worker.standin.image_nodes import SAVE_HIDDEN, save_pictures
from worker.standin.node_run import NodeRun
from worker.standin.nodes import (
    Input,
    NodeError,
    NodeType,
    Result,
    choice,
    decimal,
    in_both_ages,
    integer,
    modern_choice,
)
from worker.standin.values import Images


async def _solid(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result(((Image.new("L", (inputs["width"], inputs["height"]), round(inputs["value"] * 255)),),))


async def _to_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((as_pictures(inputs["mask"]),))


async def _preview(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    named = await save_pictures(run, as_pictures(inputs["mask"]), run.folders.temporary_prefix(), "temp")
    return Result(ui={"images": named} | ({"animated": [False]} if run.newer else {}))


def as_pictures(masks: Images) -> Images:
    """Return masks, or pictures, as pictures."""
    return tuple(mask.convert("RGB") for mask in masks)


def _wanted(inputs: Mapping[str, Any]) -> list[str]:
    """Return which pictures a mask lets through."""
    least, most = inputs["mask"][0].getextrema()
    wanted = ["image1"] if least != 255 or most != 255 else []
    return [*wanted, "image2"] if least or most else wanted


async def _mix(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    first, second, mask = inputs["image1"], inputs["image2"], inputs["mask"][0]
    if first is None or second is None:
        return Result((first or second,))
    mixed = [Image.composite(two, one, mask.resize(one.size)) for one, two in zip(first, second, strict=True)]
    return Result((tuple(mixed),))


async def _channel(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    number = _CHANNELS.index(inputs["channel"])
    if number == len(images[0].getbands()):
        raise NodeError(f"index {number} is out of bounds for dimension 3 with size {number}", "IndexError")
    return Result((tuple(picture.getchannel(number) for picture in images),))


async def _paste(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Put pictures into others; of fewer sources or masks than targets the first ones are used again."""
    sources, masks = inputs["source"], inputs.get("mask") or ()
    results = []
    for index, target in enumerate(inputs["destination"]):
        result, source = target.copy(), sources[index % len(sources)]
        if inputs["resize_source"]:
            source = source.resize(result.size, Image.Resampling.BILINEAR)
        mask = masks[index % len(masks)].resize(source.size, Image.Resampling.BILINEAR) if masks else None
        result.paste(source, (inputs["x"], inputs["y"]), mask)
        results.append(result)
    return Result((tuple(results),))


_CHANNELS: Final = ["red", "green", "blue", "alpha"]


def mask_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    mask, lazy = Input("MASK"), Input("IMAGE", {"lazy": True})
    return [
        NodeType(
            name="SolidMask",
            category="mask",
            python_module="comfy_extras.nodes_mask",
            run=_solid,
            required={
                "value": decimal(1.0, 0.0, 1.0, step=0.01),
                "width": integer(512, 1, 16384, step=1),
                "height": integer(512, 1, 16384, step=1),
            },
            outputs=("MASK",),
        ),
        NodeType(
            name="MaskToImage",
            display_name="Convert Mask to Image",
            category="mask",
            python_module="comfy_extras.nodes_mask",
            run=_to_image,
            required={"mask": mask},
            outputs=("IMAGE",),
        ),
        NodeType(
            name="MaskPreview",
            display_name="Preview Mask",
            category="mask",
            python_module="comfy_extras.nodes_mask",
            run=_preview,
            required={"mask": mask},
            hidden=SAVE_HIDDEN,
            output_node=True,
        ),
        *in_both_ages(
            NodeType(
                name="ImageToMask",
                display_name="Convert Image to Mask",
                category="mask",
                python_module="comfy_extras.nodes_mask",
                function="image_to_mask",
                run=_channel,
                required={"image": Input("IMAGE"), "channel": choice(list(_CHANNELS))},
                outputs=("MASK",),
            ),
            modern=True,
            function="execute",
            category="image/mask",
            required={"image": Input("IMAGE"), "channel": modern_choice(list(_CHANNELS))},
            aliases=("extract channel", "channel to mask"),
        ),
        *in_both_ages(
            NodeType(
                name="ImageCompositeMasked",
                category="image",
                python_module="comfy_extras.nodes_mask",
                function="composite",
                run=_paste,
                required={
                    "destination": Input("IMAGE"),
                    "source": Input("IMAGE"),
                    "x": integer(0, 0, 16384, step=1),
                    "y": integer(0, 0, 16384, step=1),
                    "resize_source": Input("BOOLEAN", {"default": False}),
                },
                optional={"mask": mask},
                outputs=("IMAGE",),
            ),
            modern=True,
            function="execute",
            display_name="Image Composite Masked",
            category="image/compositing",
            aliases=("overlay", "layer", "paste image", "images composition"),
        ),
        NodeType(
            name="TestLazyMixImages",
            category="Testing/Nodes",
            python_module="custom_nodes.testing-pack",
            function="mix",
            run=_mix,
            lazy=_wanted,
            required={"image1": lazy, "image2": lazy, "mask": mask},
            outputs=("IMAGE",),
        ),
    ]
