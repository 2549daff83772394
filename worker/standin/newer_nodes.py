"""Node types of ComfyUI versions that have growing and choosing inputs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from worker.standin import media
from worker.standin.growing_inputs import choosing, growing, matching
from worker.standin.image_nodes import SAVE_HIDDEN, prefix_input, save_pictures
from worker.standin.mask_nodes import as_pictures
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer, modern_choice
from worker.standin.scaling_nodes import RESAMPLING, longer_edge, resize
from worker.standin.versions import GROWING_INPUTS

if TYPE_CHECKING:
    from worker.standin.values import Images


async def _save_text(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Write a text and name the file, and say the text too; JSON is written anew, with indents."""
    text, suffix = inputs["text"], inputs["format"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", (1, 1))
    path = target.path(0, f".{suffix}", newer=True)
    written = _indented(text) if suffix == "json" else text
    await run.in_thread(path.write_bytes, written.encode())
    run.saved(target.subfolder, path.name)
    file = {"filename": path.name, "subfolder": target.subfolder, "type": "output"}
    return Result((text,), {"text": [text], "files": [file]})


def _indented(text: str) -> str:
    """Return JSON with indents; what is no JSON stays as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


async def _save_advanced(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    images: Images = inputs["images"]
    form = inputs["format"]
    target = await run.in_thread(run.folders.target, inputs["filename_prefix"], "output", images[0].size)
    named = []
    for offset, picture in enumerate(images):
        path = target.path(offset, f".{form['format']}", newer=True)
        if form["format"] == "exr":
            await run.in_thread(media.write_exr, path, picture)
        elif form.get("bit_depth") == "16-bit":
            await run.in_thread(media.write_deep_png, path, picture)
        else:
            await run.in_thread(picture.save, path)
        run.saved(target.subfolder, path.name)
        named.append({"filename": path.name, "subfolder": target.subfolder, "type": "output"})
    return Result((images,), {"images": named})


async def _compare(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    ui = {}
    for side in ("a", "b"):
        images = inputs.get(f"image_{side}") or ()
        prefix = run.folders.temporary_prefix(f"comfy.compare.{side}")
        ui[f"{side}_images"] = await save_pictures(run, images, prefix, "temp") if images else []
    return Result(ui=ui)


async def _crop(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Cut a piece out, and show it though this is no output."""
    region = inputs["crop_region"]
    left, top = region["x"], region["y"]
    box = (left, top, left + region["width"], top + region["height"])
    pieces = tuple(picture.crop(box) for picture in inputs["image"])
    named = await save_pictures(run, pieces, run.folders.temporary_prefix(), "temp")
    return Result((pieces,), {"images": named, "animated": [False]})


async def _draw_boxes(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    width, height = inputs["width"], inputs["height"]
    boxes = inputs["editor_state"]
    return Result(((Image.new("RGB", (width, height)),), boxes, boxes), {"dims": [width, height]})


async def _batch(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((tuple(picture for images in inputs["images"].values() for picture in images),))


async def _merge_meshes(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((tuple(inputs["meshes"].values()),))


async def _resize_by_choice(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Resize as `resize_type` says, which brings the sizes with it."""
    images = as_pictures(inputs["input"])
    width, height = _size(images[0].size, inputs["resize_type"])
    crop = inputs["resize_type"].get("crop") == "center"
    return await resize(run, images, width, height, inputs["scale_method"], crop)


def _size(size: tuple[int, int], how: Mapping[str, Any]) -> tuple[int, int]:
    """Return the new size."""
    match how["resize_type"]:
        case "scale dimensions":
            return how["width"] or size[0], how["height"] or size[1]
        case "scale by multiplier":
            return max(1, round(size[0] * how["multiplier"])), max(1, round(size[1] * how["multiplier"]))
        case "scale longer dimension":
            return longer_edge(size, how["longer_size"])
        case _:
            first: Image.Image = how["match"][0]
            return first.size


async def _nothing(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((None,))


def newer_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    image, images = Input("IMAGE", {}), Input("IMAGE", {"tooltip": "The images to save."})
    crop = modern_choice(["disabled", "center"], default="center")
    side = integer(512, 0, 16384, step=1)
    space = modern_choice(["sRGB", "HDR", "linear"], default="sRGB")
    sizes = choosing(
        {
            "scale dimensions": {"required": {"width": side, "height": side, "crop": crop}},
            "scale by multiplier": {"required": {"multiplier": decimal(1.0, 0.01, 8.0, step=0.01)}},
            "scale longer dimension": {"required": {"longer_size": side}},
            "match size": {"required": {"match": Input("IMAGE,MASK", {}), "crop": crop}},
        },
        tooltip="Select how to resize.",
    )
    forms = choosing(
        {
            "png": {"required": {"bit_depth": modern_choice(["8-bit", "16-bit"]), "input_color_space": space}},
            "exr": {"required": {"bit_depth": modern_choice(["32-bit float"]), "input_color_space": space}},
        }
    )
    return [
        _saver(
            "SaveText",
            _save_text,
            {
                "text": Input("STRING", {"forceInput": True, "multiline": False}),
                "filename_prefix": prefix_input(),
                "format": modern_choice(["txt", "csv", "md", "json"], default="txt"),
            },
            ("STRING",),
        ),
        _saver(
            "SaveImageAdvanced",
            _save_advanced,
            {"images": images, "filename_prefix": prefix_input(), "format": forms},
            ("IMAGE",),
        ),
        replace(
            _saver("ImageCompare", _compare, {"compare_view": Input("IMAGECOMPARE", {"socketless": True})}, ()),
            optional={"image_a": image, "image_b": image},
        ),
        replace(
            _node_type("ImageCropV2", _crop, {"image": image, "crop_region": _region()}, ("IMAGE",)),
            intermediate=True,
        ),
        _saver(
            "CreateBoundingBoxes",
            _draw_boxes,
            {
                "width": integer(1024, 64, 16384, step=16),
                "height": integer(1024, 64, 16384, step=16),
                "editor_state": Input("BOUNDING_BOXES", {"default": [], "socketless": False}),
            },
            ("IMAGE", "BOUNDING_BOX", "ARRAY"),
        ),
        _node_type("BatchImagesNode", _batch, {"images": growing(image, prefix="image", most=50)}, ("IMAGE",)),
        _node_type(
            "MergeMeshes",
            _merge_meshes,
            {"meshes": growing(Input("MESH", {}), prefix="mesh", least=2, most=50)},
            ("MESH",),
        ),
        _node_type(
            "ResizeImageMaskNode",
            _resize_by_choice,
            {
                "input": matching("input_type", "IMAGE,MASK"),
                "resize_type": sizes,
                "scale_method": modern_choice(list(RESAMPLING), default="area"),
            },
            ("COMFY_MATCHTYPE_V3",),
        ),
        NodeType(
            name="ControlNetLoader",
            category="loaders",
            run=_nothing,
            required={"control_net_name": choice([])},
            outputs=("CONTROL_NET",),
        ),
        _node_type("Load3D", _nothing, {"width": side, "height": side}, ("IMAGE",)),
    ]


def _region() -> Input:
    """Return the input that says which piece is meant."""
    default: Final = {"x": 0, "y": 0, "width": 512, "height": 512}
    return Input("BOUNDING_BOX", {"default": default, "socketless": True, "component": "ImageCrop"})


def _node_type(name: str, run: Any, required: Mapping[str, Input], outputs: tuple[str, ...]) -> NodeType:
    """Return a node type in the newer form."""
    return NodeType(
        name=name,
        run=run,
        required=required,
        outputs=outputs,
        modern=True,
        function="execute",
        since=GROWING_INPUTS,
        python_module="comfy_extras.nodes_newer",
    )


def _saver(name: str, run: Any, required: Mapping[str, Input], outputs: tuple[str, ...]) -> NodeType:
    """Return an output node."""
    return replace(_node_type(name, run, required, outputs), output_node=True, hidden=SAVE_HIDDEN)
