"""Workflow graphs in ComfyUI's API format: what they are made of, built from a job's fields, changed for an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault
from app.domain.hints import Hints, shown, token

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
) -> Graph:
    """Build the text-to-image graph: checkpoint, LoRA chain, both texts, latent, sampler, VAE decode, save."""
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
    graph["latent"] = _node("EmptyLatentImage", width=width, height=height, batch_size=batch_size)
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
    graph["save"] = _node("SaveImage", images=["decode", 0], filename_prefix="image")
    return graph


def with_overrides(graph: Graph, overrides: Mapping[str, Any]) -> tuple[Graph, list[Fault]]:
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
            faults.append(_nowhere(graph, key, hints))
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


def _nowhere(graph: Graph, key: str, hints: Hints) -> Fault:
    """Return the fault of an override that leads nowhere, with the node that was most likely meant."""
    where = f"/overrides/{token(key)}"
    if (place := place_of(graph, key)) is not None:
        detail = f"An override is named <node>.<input>, and after node {shown(place[0])!r} no input is named."
        return Fault(where, "unknown_node", detail, suggestion=place[0])
    detail = "An override is named <node>.<input>, and the workflow has no such node."
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
        return job.workflow
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
    )
