"""Node types that enlarge, shrink and invert pictures."""

from collections.abc import Mapping
from typing import Any, Final

from PIL import Image, ImageOps

from worker.standin.image_nodes import refuse_too_large
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer, modern_choice
from worker.standin.options import StandinOptions
from worker.standin.values import Images
from worker.standin.versions import GROWING_INPUTS

_UPSCALE_FACTOR: Final = 4
"""By how much the known upscale models enlarge."""

RESAMPLING: Final = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


async def _scale_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    width, height = inputs["width"], inputs["height"]
    if not width or not height:
        ratio = images[0].width / images[0].height
        width, height = width or round(height * ratio) or images[0].width, height or round((width or 1) / ratio)
    return await resize(run, images, width, height, inputs["upscale_method"], inputs["crop"] == "center")


async def _scale_image_by(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    width = max(1, round(images[0].width * inputs["scale_by"]))
    height = max(1, round(images[0].height * inputs["scale_by"]))
    return await resize(run, images, width, height, inputs["upscale_method"], crop=False)


async def _load_upscaler(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["model_name"],))


async def _upscale_with_model(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    width, height = images[0].width * _UPSCALE_FACTOR, images[0].height * _UPSCALE_FACTOR
    await run.progress(1, 1)
    return await resize(run, images, width, height, "lanczos", crop=False)


async def _scale_to_pixels(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    factor = (inputs["megapixels"] * 1024 * 1024 / (images[0].width * images[0].height)) ** 0.5
    width, height = max(1, round(images[0].width * factor)), max(1, round(images[0].height * factor))
    return await resize(run, images, width, height, inputs["upscale_method"], crop=False)


async def _scale_longer_edge(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["images"]
    width, height = longer_edge(images[0].size, inputs["longer_edge"])
    return await resize(run, images, width, height, "lanczos", crop=False)


async def _scale_to_most(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["image"]
    width, height = longer_edge(images[0].size, inputs["largest_size"])
    return await resize(run, images, width, height, inputs["upscale_method"], crop=False)


def longer_edge(size: tuple[int, int], length: int) -> tuple[int, int]:
    """Return a size of the same shape whose longer edge is so long."""
    factor = length / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


async def resize(run: NodeRun, images: Images, width: int, height: int, method: str, crop: bool) -> Result:
    refuse_too_large(width, height, len(images))
    scaled = []
    for picture in images:
        if crop:
            fitted = await run.in_thread(ImageOps.fit, picture, (width, height), RESAMPLING[method])
        else:
            fitted = await run.in_thread(picture.resize, (width, height), RESAMPLING[method])
        scaled.append(fitted)
    return Result((tuple(scaled),))


async def _invert_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((tuple([await run.in_thread(ImageOps.invert, picture) for picture in inputs["image"]]),))


def _to_pixels(more: Mapping[str, Input], **ages: Any) -> NodeType:
    """Return the node type that makes pictures of so many pixels, which in newer versions asks for more."""
    return NodeType(
        name="ImageScaleToTotalPixels",
        category="image/upscaling",
        python_module="comfy_extras.nodes_post_processing",
        modern=True,
        run=_scale_to_pixels,
        required={
            "image": Input("IMAGE", {}),
            "upscale_method": modern_choice(list(RESAMPLING)),
            "megapixels": decimal(1.0, 0.01, 16.0, step=0.01),
            **more,
        },
        outputs=("IMAGE",),
        **ages,
    )


def scaling_node_types(options: StandinOptions) -> list[NodeType]:
    """Return the node types of this module."""
    methods = choice(list(RESAMPLING))
    side = integer(512, 0, 16384, step=1)
    return [
        NodeType(
            name="ImageScale",
            display_name="Upscale Image",
            category="image/upscaling",
            run=_scale_image,
            required={
                "image": Input("IMAGE"),
                "upscale_method": methods,
                "width": side,
                "height": side,
                "crop": choice(["disabled", "center"]),
            },
            outputs=("IMAGE",),
        ),
        NodeType(
            name="ImageScaleBy",
            display_name="Upscale Image By",
            category="image/upscaling",
            run=_scale_image_by,
            required={
                "image": Input("IMAGE"),
                "upscale_method": methods,
                "scale_by": decimal(1.0, 0.01, 8.0, step=0.01),
            },
            outputs=("IMAGE",),
        ),
        _to_pixels({}, gone=GROWING_INPUTS),
        _to_pixels({"resolution_steps": integer(1, 1, 256, advanced=True)}, since=GROWING_INPUTS),
        NodeType(
            name="ImageScaleToMaxDimension",
            category="image/upscaling",
            run=_scale_to_most,
            required={"image": Input("IMAGE"), "upscale_method": methods, "largest_size": side},
            outputs=("IMAGE",),
        ),
        NodeType(
            name="ResizeImagesByLongerEdge",
            category="image/transform",
            python_module="comfy_extras.nodes_dataset",
            modern=True,
            since=GROWING_INPUTS,
            run=_scale_longer_edge,
            required={"images": Input("IMAGE", {}), "longer_edge": integer(1024, 1, 8192)},
            outputs=("IMAGE",),
            output_names=("images",),
        ),
        NodeType(
            name="UpscaleModelLoader",
            display_name="Load Upscale Model",
            category="loaders",
            run=_load_upscaler,
            python_module="comfy_extras.nodes_upscale_model",
            modern=True,
            required={"model_name": modern_choice(list(options.upscale_models))},
            outputs=("UPSCALE_MODEL",),
        ),
        NodeType(
            name="ImageUpscaleWithModel",
            display_name="Upscale Image (using Model)",
            category="image/upscaling",
            run=_upscale_with_model,
            python_module="comfy_extras.nodes_upscale_model",
            modern=True,
            required={"upscale_model": Input("UPSCALE_MODEL", {}), "image": Input("IMAGE", {})},
            outputs=("IMAGE",),
        ),
        NodeType(
            name="ImageInvert",
            display_name="Invert Image",
            run=_invert_image,
            required={"image": Input("IMAGE")},
            outputs=("IMAGE",),
        ),
    ]
