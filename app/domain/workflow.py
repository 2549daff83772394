"""Workflow graphs in ComfyUI's API format: what they are made of, built from a job's fields, changed for an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault
from app.domain.hints import Hints, shown, token
from app.domain.uploads import text_of_reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.catalog import Catalog
    from app.domain.job import Job, NewJob

Graph = dict[str, Any]
"""Node id → `{"class_type": …, "inputs": {…}}`; a link is `[node id, output index]`."""

MAX_FAULTS: Final = 50
"""Maximum number of faults that are named. A graph with more is wrong as a whole, and suggestions take time."""
_MOST_DOTS: Final = 64
"""Where an id may end in `"<node>.<input>"`: with more dots looking for it would take the square of their number."""


def build_graph(
    *,
    checkpoint: str,
    loras: Sequence[Mapping[str, Any]],
    prompt: str,
    negative_prompt: str,
    width: int,
    height: int,
    batch_size: int,
    sampler: Mapping[str, Any],
    image: str | None = None,
    mask: str | None = None,
) -> Graph:
    """Build the text-to-image graph: checkpoint, LoRA chain, both texts, latent, sampler, VAE decode, save.

    With an image the latent is that picture, scaled to `width` and `height`; with a mask too, only what is white there
    is painted anew, and the rest of the picture is kept to the pixel.
    """
    graph: Graph = {"checkpoint": _node("CheckpointLoaderSimple", ckpt_name=checkpoint)}
    model, clip = ["checkpoint", 0], ["checkpoint", 1]
    for number, lora in enumerate(loras, start=1):
        key = f"lora_{number}"
        graph[key] = _node(
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name=lora["name"],
            strength_model=lora["strength_model"],
            strength_clip=lora["strength_clip"],
        )
        model, clip = [key, 0], [key, 1]
    graph["positive"] = _node("CLIPTextEncode", text=prompt, clip=clip)
    graph["negative"] = _node("CLIPTextEncode", text=negative_prompt, clip=clip)
    if image is None:
        graph["latent"] = _node("EmptyLatentImage", width=width, height=height, batch_size=batch_size)
    else:
        graph |= _picture_nodes(image, mask, width, height, batch_size)
    graph["sampler"] = _node(
        "KSampler",
        model=model,
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["latent", 0],
        seed=sampler["seed"],
        steps=sampler["steps"],
        cfg=sampler["cfg"],
        sampler_name=sampler["sampler_name"],
        scheduler=sampler["scheduler"],
        denoise=sampler["denoise"],
    )
    graph["decode"] = _node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2])
    painted = "decode"
    if image is not None and mask is not None:
        # Decoding changes all of a picture a little, also where nothing was painted.
        graph["originals"] = _node("RepeatImageBatch", image=["scaled", 0], amount=batch_size)
        painted = "composite"
        graph[painted] = _node(
            "ImageCompositeMasked",
            destination=["originals", 0],
            source=["decode", 0],
            mask=["mask", 0],
            x=0,
            y=0,
            resize_source=False,
        )
    graph["save"] = _node("SaveImage", images=[painted, 0], filename_prefix="image")
    return graph


def _picture_nodes(image: str, mask: str | None, width: int, height: int, batch_size: int) -> Graph:
    """Return the nodes that make the latent of a picture: `latent`, from `scaled`, and `mask` where there is one.

    Of the two ways of ComfyUI this is `SetLatentNoiseMask`: it works with every checkpoint and with a `denoise` below
    1, which keeps what was there in view. `VAEEncodeForInpaint` blanks the masked part out, for checkpoints trained so.
    """
    size = {"upscale_method": "lanczos", "width": width, "height": height, "crop": "center"}
    graph: Graph = {
        "image": _node("LoadImage", image=image),
        "scaled": _node("ImageScale", image=["image", 0], **size),
        "encode": _node("VAEEncode", pixels=["scaled", 0], vae=["checkpoint", 2]),
    }
    latent = "encode"
    if mask is not None:
        # As a picture first, so that it is scaled and cropped as the other one is.
        graph["mask_image"] = _node("LoadImage", image=mask)
        graph["mask_scaled"] = _node("ImageScale", image=["mask_image", 0], **size | {"upscale_method": "bilinear"})
        graph["mask"] = _node("ImageToMask", image=["mask_scaled", 0], channel="red")
        graph["masked"] = _node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0])
        latent = "masked"
    graph["latent"] = _node("RepeatLatentBatch", samples=[latent, 0], amount=batch_size)
    return graph


def build_upscale_graph(image: str, upscale_model: str) -> Graph:
    """Build the graph that scales a picture up by a model."""
    return {
        "image": _node("LoadImage", image=image),
        "upscale_model": _node("UpscaleModelLoader", model_name=upscale_model),
        "upscaled": _node("ImageUpscaleWithModel", upscale_model=["upscale_model", 0], image=["image", 0]),
        "save": _node("SaveImage", images=["upscaled", 0], filename_prefix="image"),
    }


def with_overrides(
    graph: Graph, overrides: Mapping[str, Any], pointer: str = "/overrides"
) -> tuple[Graph, list[Fault]]:
    """Return a copy with inputs replaced, `"<node>.<input>": value`, and the faults of those that name no node.

    What is not changed is shared with the original: copies of a large graph take their time.
    """
    changed, touched = dict(graph), set[str]()
    faults: list[Fault] = []
    hints = Hints()
    for key, value in overrides.items():
        node_id, name = place_of(graph, key) or ("", "")
        node = changed.get(node_id)
        if not name or not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            faults.append(_nowhere(graph, key, hints, pointer))
            if len(faults) == MAX_FAULTS:
                break
            continue
        if node_id not in touched:
            touched.add(node_id)
            changed[node_id] = node | {"inputs": dict(node["inputs"])}
        changed[node_id]["inputs"][name] = value
    return changed, faults


def place_of(graph: Graph, key: str) -> tuple[str, str] | None:
    """Return the node id and the input that `"<node>.<input>"` means; None when the graph has no such node.

    Ids and inputs may both have dots in them (`a.b`, `values.a`): the longest id that there is wins.
    """
    dots, dot = list[int](), key.find(".")
    while dot >= 0 and len(dots) < _MOST_DOTS:
        dots.append(dot)
        dot = key.find(".", dot + 1)
    return next(((key[:dot], key[dot + 1 :]) for dot in reversed(dots) if key[:dot] in graph), None)


def _nowhere(graph: Graph, key: str, hints: Hints, pointer: str) -> Fault:
    """Return the fault of an override that leads nowhere, with the node that was most likely meant."""
    where, what = f"{pointer}/{token(key)}", "An input" if pointer == "/inputs" else "An override"
    if (place := place_of(graph, key)) is not None:
        detail = f"{what} is named <node>.<input>, and after node {shown(place[0])!r} no input is named."
        return Fault(where, "unknown_node", detail, suggestion=place[0])
    detail = f"{what} is named <node>.<input>, and the workflow has no such node."
    meant = dict.fromkeys((key.partition(".")[0], key.rpartition(".")[0]))
    suggestion = next(filter(None, (hints.nearest(each, graph) for each in meant if each)), None)
    return Fault(where, "unknown_node", detail, suggestion=suggestion)


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph_of(job: Job | NewJob, catalog: Catalog) -> Graph | None:
    """Return the graph to run for a job: the client's, or one of its simple fields for what a backend offers.

    None when there is no checkpoint to take.
    """
    if job.workflow is not None:
        placed = {key: text_of_reference(reference) for key, reference in job.inputs.items()}
        return with_overrides(job.workflow, placed)[0] if placed else job.workflow
    if job.upscale_model is not None:
        return build_upscale_graph(text_of_reference(job.image or {}), job.upscale_model)
    checkpoint = job.checkpoint_model or next(iter(catalog.checkpoints), None)
    if checkpoint is None:
        return None
    return build_graph(
        checkpoint=checkpoint,
        loras=job.lora_models,
        prompt=job.prompt or "",
        negative_prompt=job.negative_prompt,
        width=job.width,
        height=job.height,
        batch_size=job.batch_size,
        sampler=job.sampler_params,
        image=text_of_reference(job.image) if job.image is not None else None,
        mask=text_of_reference(job.mask) if job.mask is not None else None,
    )
