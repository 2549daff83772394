"""Node types that change a latent: repeat it, or say with a mask what of it may be painted anew."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from PIL import Image, ImageFilter

from worker.standin.image_nodes import refuse_too_large
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, in_both_ages, integer
from worker.standin.sampling_nodes import encode, pictures_of
from worker.standin.values import Images, Latent

_GREY: Final = (127, 127, 127)
"""What stands in place of a picture where it is to be painted anew."""

_WIDEST: Final = 3
"""Pixels by which a mask grows in one step: a filter of Pillow takes time with the square of it."""


async def _repeat(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return a latent several times over; what was sampled stays the same, and only what is sampled next differs."""
    latent: Latent = inputs["samples"]
    batch_size = latent.batch_size * inputs["amount"]
    refuse_too_large(latent.width, latent.height, batch_size)
    if latent.recipe is not None and not latent.seconds:
        pictures = await run.in_thread(pictures_of, latent)
        latent = replace(latent, recipe=None, source=pictures, first=None, painted=())
    return Result((replace(latent, batch_size=batch_size),))


async def _set_mask(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((replace(inputs["samples"], mask=inputs["mask"]),))


async def _encode_for_inpainting(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    pixels, masks, grow = inputs["pixels"], inputs["mask"], inputs["grow_mask_by"]
    rounded = await run.in_thread(_rounded, pixels, masks)
    emptied = tuple(
        Image.composite(Image.new("RGB", picture.size, _GREY), picture, mask)
        for picture, mask in zip(pixels, rounded, strict=True)
    )
    grown = tuple([await run.in_thread(_grown, mask, grow) for mask in rounded])
    return Result((replace(encode(emptied), mask=grown),))


def _rounded(pictures: Images, masks: Images) -> Images:
    """Return a mask for each picture, of its size, in which everything is either white or black."""
    sized = (
        masks[index % len(masks)].resize(picture.size, Image.Resampling.BILINEAR)
        for index, picture in enumerate(pictures)
    )
    return tuple(mask.point([255 * (level >= 128) for level in range(256)]) for mask in sized)


def _grown(mask: Image.Image, by: int) -> Image.Image:
    """Return a mask whose white parts are larger by half of `by` pixels on each side, rounded up."""
    left = by // 2
    while left > 0:
        step = min(left, _WIDEST)
        mask = mask.filter(ImageFilter.MaxFilter(2 * step + 1))
        left -= step
    return mask


def latent_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    latent, mask = Input("LATENT"), Input("MASK")
    return [
        *in_both_ages(
            NodeType(
                name="RepeatLatentBatch",
                display_name="Repeat Latent Batch",
                category="latent/batch",
                function="repeat",
                run=_repeat,
                required={"samples": latent, "amount": integer(1, 1, 64)},
                outputs=("LATENT",),
            ),
            category="model/latent/batch",
            aliases=("duplicate latent", "clone latent"),
        ),
        *in_both_ages(
            NodeType(
                name="SetLatentNoiseMask",
                display_name="Set Latent Noise Mask",
                category="latent/inpaint",
                function="set_mask",
                run=_set_mask,
                required={"samples": latent, "mask": mask},
                outputs=("LATENT",),
            ),
            category="model/latent",
        ),
        *in_both_ages(
            NodeType(
                name="VAEEncodeForInpaint",
                display_name="VAE Encode (for Inpainting)",
                category="latent/inpaint",
                function="encode",
                defaulted=frozenset({"grow_mask_by"}),
                run=_encode_for_inpainting,
                required={
                    "pixels": Input("IMAGE"),
                    "vae": Input("VAE"),
                    "mask": mask,
                    "grow_mask_by": integer(6, 0, 64, step=1),
                },
                outputs=("LATENT",),
            ),
            category="model/latent",
        ),
    ]
