"""Node types of sampling: latents, sampler, decoder."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from PIL import Image

from worker.standin import drawing, tones
from worker.standin.image_nodes import refuse_too_large
from worker.standin.node_run import NodeRun, preview_of
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer
from worker.standin.values import Images, Latent, Model, Recipe

SAMPLERS: Final = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "dpm_2",
    "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm", "ipndm",
    "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip

SCHEDULERS: Final = [
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
    "kl_optimal",
]  # fmt: skip

_PREVIEW_PIXELS: Final = 320
"""Longest side of the emerging picture before it is scaled up for a preview."""


async def _empty_latent(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    width, height, batch_size = inputs["width"], inputs["height"], inputs["batch_size"]
    refuse_too_large(width, height, batch_size)
    return Result((Latent(width // 8 * 8, height // 8 * 8, batch_size),))


async def _encode_image(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((encode(inputs["pixels"]),))


def encode(images: Images) -> Latent:
    """Return pictures as a latent batch."""
    width, height = images[0].width // 8 * 8, images[0].height // 8 * 8
    return Latent(max(width, 8), max(height, 8), len(images), source=images)


async def _upscale_latent(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    latent: Latent = inputs["samples"]
    width = max(8, round(latent.width * inputs["scale_by"] / 8) * 8)
    height = max(8, round(latent.height * inputs["scale_by"] / 8) * 8)
    refuse_too_large(width, height, latent.batch_size)
    return Result((replace(latent, width=width, height=height, first=None),))


async def sample(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    latent: Latent = inputs["latent_image"]
    model: Model = inputs["model"]
    recipe = Recipe(
        positive=inputs["positive"].text,
        negative=inputs["negative"].text,
        seed=inputs["seed"],
        cfg=inputs["cfg"],
        checkpoint=model.checkpoint,
        loras=model.loras,
        denoise=inputs["denoise"],
    )
    if latent.mask:
        source = await run.in_thread(pictures_of, latent)
        sampled = replace(latent, recipe=recipe, source=source, first=None, painted=latent.mask)
    elif latent.recipe is not None and recipe.denoise < 1:
        sampled = replace(latent, first=None)
    else:
        sampled = replace(latent, recipe=recipe, first=None, painted=())
    steps = inputs["steps"]
    megapixels = latent.width * latent.height * latent.batch_size / 1_000_000
    step_seconds = run.options.step_seconds * megapixels / run.options.speed
    show = run.previews and not latent.seconds
    if show:
        first = await run.in_thread(_decoded, sampled, 0)
        sampled = replace(sampled, first=first)
        final = await run.in_thread(_small_version, first)
    else:
        final = None
    loop = asyncio.get_running_loop()
    due = loop.time()
    for step in range(1, steps + 1):
        due += step_seconds
        preview = await run.in_thread(_preview, final, step / steps, inputs["seed"]) if final is not None else None
        await asyncio.sleep(max(0.0, due - loop.time()) if step_seconds else 0)
        await run.progress(step, steps, preview)
    return Result((sampled,))


def _small_version(picture: Image.Image) -> Image.Image:
    """Return a picture scaled down for the previews."""
    small = picture.copy()
    small.thumbnail((_PREVIEW_PIXELS, _PREVIEW_PIXELS), Image.Resampling.BOX)
    return small


def _preview(final: Image.Image, done: float, seed: int) -> bytes:
    """Return the picture as it looks after this part of the steps."""
    return preview_of(drawing.emerging(final, done, seed))


async def _decode(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    latent: Latent = inputs["samples"]
    pictures = [await run.in_thread(_decoded, latent, index) for index in range(latent.batch_size)]
    return Result((tuple(pictures),))


def pictures_of(latent: Latent) -> Images:
    """Return the pictures of a latent batch."""
    return tuple(_decoded(latent, index) for index in range(latent.batch_size))


def _decoded(latent: Latent, index: int) -> Image.Image:
    """Return one picture of a latent batch."""
    if index == 0 and latent.first is not None:
        return latent.first
    size = (latent.width, latent.height)
    source = latent.source[index % len(latent.source)].resize(size) if latent.source else None
    if latent.recipe is None:
        return source if source is not None else Image.new("RGB", size, (127, 119, 110))
    drawn = drawing.draw(latent.recipe, size, index)
    if source is None:
        return drawn
    shown = Image.blend(source, drawn, max(0.0, min(1.0, latent.recipe.denoise)))
    if not latent.painted:
        return shown
    mask = latent.painted[index % len(latent.painted)].resize(size, Image.Resampling.BILINEAR)
    return Image.composite(shown, source, mask)


async def _empty_sound(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Latent(64, 64, inputs["batch_size"], seconds=inputs["seconds"]),))


async def _decode_sound(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    latent: Latent = inputs["samples"]
    recipe = latent.recipe or Recipe("")
    return Result((await run.in_thread(tones.compose, recipe, latent.seconds or 1.0),))


def sampling_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    side = {"step": 8, "tooltip": "Size of the latent images in pixels."}
    model = Input("MODEL", {"tooltip": "The diffusion model."})
    vae = Input("VAE", {"tooltip": "The autoencoder."})
    latent = Input("LATENT", {"tooltip": "The latent images."})
    conditioning = Input("CONDITIONING", {"tooltip": "What to show, or what not."})
    latent_side = {"width": integer(512, 16, 16384, **side), "height": integer(512, 16, 16384, **side)}
    return [
        NodeType(
            name="EmptyLatentImage",
            display_name="Empty Latent Image",
            category="latent",
            description="Create a new batch of empty latent images to be denoised via sampling.",
            run=_empty_latent,
            required={**latent_side, "batch_size": integer(1, 1, 4096)},
            outputs=("LATENT",),
        ),
        NodeType(
            name="EmptySD3LatentImage",
            python_module="comfy_extras.nodes_sd3",
            modern=True,
            category="latent/sd3",
            run=_empty_latent,
            required={**latent_side, "batch_size": integer(1, 1, 4096)},
            outputs=("LATENT",),
        ),
        NodeType(
            name="LatentUpscaleBy",
            display_name="Upscale Latent By",
            category="latent",
            run=_upscale_latent,
            required={
                "samples": latent,
                "upscale_method": choice(["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]),
                "scale_by": decimal(1.5, 0.01, 8.0, step=0.01),
            },
            outputs=("LATENT",),
        ),
        NodeType(
            name="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            run=_encode_image,
            required={"pixels": Input("IMAGE"), "vae": vae},
            outputs=("LATENT",),
        ),
        NodeType(
            name="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            description="Decodes latent images back into pixel space images.",
            run=_decode,
            required={"samples": latent, "vae": vae},
            outputs=("IMAGE",),
        ),
        NodeType(
            name="KSampler",
            category="sampling",
            description="Uses the provided model, positive and negative conditioning to denoise the latent image.",
            run=sample,
            required={
                "model": model,
                "seed": integer(
                    0,
                    0,
                    2**64 - 1,
                    control_after_generate=True,
                    tooltip="The random seed used for creating the noise.",
                ),
                "steps": integer(20, 1, 10_000, tooltip="The number of steps used in the denoising process."),
                "cfg": decimal(8.0, 0.0, 100.0, step=0.1, round=0.01),
                "sampler_name": choice(SAMPLERS, tooltip="The algorithm used when sampling."),
                "scheduler": choice(SCHEDULERS, tooltip="How noise is gradually removed to form the image."),
                "positive": conditioning,
                "negative": conditioning,
                "latent_image": latent,
                "denoise": decimal(1.0, 0.0, 1.0, step=0.01),
            },
            outputs=("LATENT",),
        ),
        NodeType(
            name="EmptyLatentAudio",
            python_module="comfy_extras.nodes_audio",
            display_name="Empty Latent Audio",
            category="latent/audio",
            run=_empty_sound,
            required={"seconds": decimal(47.6, 1.0, 1000.0, step=0.1), "batch_size": integer(1, 1, 4096)},
            outputs=("LATENT",),
        ),
        NodeType(
            name="VAEDecodeAudio",
            python_module="comfy_extras.nodes_audio",
            display_name="VAE Decode Audio",
            category="latent/audio",
            run=_decode_sound,
            required={"samples": latent, "vae": vae},
            outputs=("AUDIO",),
        ),
    ]
