"""Node types that load models and encode texts."""

from collections.abc import Mapping
from typing import Any

from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer
from worker.standin.options import StandinOptions
from worker.standin.values import Conditioning, Model


async def _load_checkpoint(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    if run.models.load_checkpoint(inputs["ckpt_name"]):
        await run.take_time(run.options.model_load_seconds)
    model = Model(inputs["ckpt_name"])
    return Result((model, model, model))


async def _load_vae(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Model(inputs["vae_name"]),))


async def _load_lora(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    if run.models.load_lora(inputs["lora_name"]):
        await run.take_time(run.options.lora_load_seconds)
    applied = []
    for name, strength in (("model", inputs["strength_model"]), ("clip", inputs.get("strength_clip", 0))):
        if name in inputs:
            model: Model = inputs[name]
            applied.append(Model(model.checkpoint, (*model.loras, (inputs["lora_name"], strength))))
    return Result(tuple(applied))


async def _skip_layers(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["clip"],))


async def _encode_text(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Conditioning(inputs["text"]),))


async def _combine(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((Conditioning(f"{inputs['conditioning_1'].text}, {inputs['conditioning_2'].text}"),))


def loader_node_types(options: StandinOptions) -> list[NodeType]:
    """Return the node types of this module."""
    strength = decimal(1.0, -100.0, 100.0, step=0.01, tooltip="How strongly it applies.")
    model = Input("MODEL", {"tooltip": "The diffusion model."})
    clip = Input("CLIP", {"tooltip": "The text encoder."})
    conditioning = Input("CONDITIONING", {"tooltip": "What to show, or what not."})
    checkpoints = choice(list(options.checkpoints), tooltip="The name of the checkpoint (model) to load.")
    loras = choice(list(options.loras), tooltip="The name of the LoRA.")
    return [
        NodeType(
            name="CheckpointLoaderSimple",
            display_name="Load Checkpoint",
            category="loaders",
            description="Loads a diffusion model checkpoint, diffusion models are used to denoise latents.",
            run=_load_checkpoint,
            required={"ckpt_name": checkpoints},
            outputs=("MODEL", "CLIP", "VAE"),
        ),
        NodeType(
            name="VAELoader",
            display_name="Load VAE",
            category="loaders",
            run=_load_vae,
            required={"vae_name": choice(list(options.vaes))},
            outputs=("VAE",),
        ),
        NodeType(
            name="LoraLoader",
            display_name="Load LoRA",
            category="loaders",
            run=_load_lora,
            required={
                "model": model,
                "clip": clip,
                "lora_name": loras,
                "strength_model": strength,
                "strength_clip": strength,
            },
            outputs=("MODEL", "CLIP"),
        ),
        NodeType(
            name="LoraLoaderModelOnly",
            display_name="LoraLoaderModelOnly",
            category="loaders",
            run=_load_lora,
            required={"model": model, "lora_name": loras, "strength_model": strength},
            outputs=("MODEL",),
        ),
        NodeType(
            name="CLIPSetLastLayer",
            display_name="CLIP Set Last Layer",
            category="conditioning",
            run=_skip_layers,
            required={"clip": clip, "stop_at_clip_layer": integer(-1, -24, -1, step=1)},
            outputs=("CLIP",),
        ),
        NodeType(
            name="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            run=_encode_text,
            required={
                "text": Input(
                    "STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "The text to be encoded."}
                ),
                "clip": Input("CLIP", {"tooltip": "The CLIP model used for encoding the text."}),
            },
            outputs=("CONDITIONING",),
        ),
        NodeType(
            name="ConditioningCombine",
            display_name="Conditioning (Combine)",
            category="conditioning",
            run=_combine,
            required={"conditioning_1": conditioning, "conditioning_2": conditioning},
            outputs=("CONDITIONING",),
        ),
    ]
