"""Workflow graphs in ComfyUI's API format: built from a job's fields, changed for an attempt, checked before POST."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from app.domain.catalog import nearest
from app.domain.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.domain.catalog import Catalog, InputSpec, NodeClass

Graph = dict[str, Any]
"""Node id → `{"class_type": …, "inputs": {…}}`; a link is `[node id, output index]`."""

MAX_NODES: Final = 2_000
MAX_DEPTH: Final = 32
MAX_FAULTS: Final = 50
"""So many are named; a graph with more is wrong as a whole, and looking for what was meant takes its time."""
_SHOWN: Final = 20
"""As many allowed values stand in a fault; the nearest one is named besides."""


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
    """Return a copy with inputs replaced, `"<node>.<input>": value`, and the faults of those that name no node."""
    changed, faults = copy.deepcopy(graph), []
    for key, value in overrides.items():
        node_id, dot, name = key.rpartition(".")
        node = changed.get(node_id)
        if not dot or not name or not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            pointer = f"/overrides/{_escape(key)}"
            detail = "An override is named <node>.<input>, and the workflow has no such node."
            faults.append(Fault(pointer, "unknown_node", detail, suggestion=nearest(node_id, changed)))
        else:
            node["inputs"][name] = value
    return changed, faults


def with_seed(graph: Graph, seed: int) -> tuple[Graph, bool]:
    """Return the graph with this one for every literal `seed` and `noise_seed`, and whether there was any.

    What changes is copied, and nothing else of a graph that may be large.
    """
    changed = dict(graph)
    for node_id, node in graph.items():
        drawn = {name: seed for name in ("seed", "noise_seed") if _is_whole(node["inputs"].get(name))}
        if drawn:
            changed[node_id] = {**node, "inputs": {**node["inputs"], **drawn}}
    return changed, any(changed[node_id] is not node for node_id, node in graph.items())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_link(value: Any) -> bool:
    """Whether an input's value is a link to another node's output."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def links(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield (input, node id, output index) of each input that is a link."""
    for name, value in inputs.items():
        if is_link(value):
            yield name, value[0], value[1]


def check_structure(graph: Any, pointer: str = "/workflow") -> list[Fault]:
    """Return what is wrong with the graph whatever a backend offers; each fault that damages a ComfyUI is among them.

    Measured (COMFYUI, section 9): a node without an `inputs` object ends the server's execution thread for good.
    """
    if not isinstance(graph, dict):
        return [Fault(pointer, "invalid_type", "A workflow is an object: node id → node.")]
    if isinstance(graph.get("nodes"), list):
        detail = "This is ComfyUI's UI format. Export the workflow in API format (File → Export (API)) and send that."
        return [Fault(pointer, "ui_format", detail)]
    if set(graph) <= {"prompt", "client_id", "extra_data", "prompt_id"} and isinstance(graph.get("prompt"), dict):
        detail = 'This is a whole request of ComfyUI\'s; send only what stands below its "prompt".'
        return [Fault(pointer, "wrapped_graph", detail)]
    if not graph:
        return [Fault(pointer, "no_output", "The workflow is empty.")]
    if len(graph) > MAX_NODES:
        return [Fault(pointer, "too_large", f"The workflow has {len(graph)} nodes; at most {MAX_NODES} are taken.")]
    found = (_check_node(graph, key, node, pointer) for key, node in graph.items())
    faults = list(islice(chain.from_iterable(found), MAX_FAULTS))
    if not faults and (cycle := _find_cycle(graph)):
        detail = f"The nodes {' → '.join(cycle)} form a cycle."
        faults.append(Fault(f"{pointer}/{_escape(cycle[0])}", "cycle", detail))
    return faults


def check_against(graph: Graph, catalog: Catalog, pointer: str = "/workflow") -> list[Fault]:
    """Return what one backend would refuse. The graph has passed `check_structure`.

    As ComfyUI itself does it: every node's class must exist, but only the inputs of nodes that an output depends on
    are checked.
    """
    faults: list[Fault] = []
    unknown = ((key, node["class_type"]) for key, node in graph.items() if node["class_type"] not in catalog.nodes)
    for key, name in islice(unknown, MAX_FAULTS):
        where = f"{pointer}/{_escape(key)}/class_type"
        detail = f"No backend that may take this job offers a node of class {name[:200]!r}."
        faults.append(Fault(where, "unknown_node_class", detail, suggestion=nearest(name[:200], catalog.nodes)))
    if faults:
        return faults
    ends = [key for key, node in graph.items() if catalog.nodes[node["class_type"]].is_output]
    if not ends:
        return [Fault(pointer, "no_output", "The workflow has no output node, such as SaveImage.")]
    needed = _needed(graph, ends)
    found = (_check_inputs(graph, catalog, key, pointer) for key in graph if key in needed)
    return list(islice(chain.from_iterable(found), MAX_FAULTS))


def lacks_model_or_node(faults: Sequence[Fault]) -> bool:
    """Whether all that is wrong is that this backend has not what another one may have."""
    return bool(faults) and all(fault.code in ("unknown_node_class", "value_not_in_list") for fault in faults)


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _escape(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


def _check_node(graph: Graph, key: str, node: Any, pointer: str) -> Iterator[Fault]:
    where = f"{pointer}/{_escape(key)}"
    if not isinstance(node, dict):
        yield Fault(where, "invalid_type", "A node is an object with class_type and inputs.")
        return
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        yield Fault(f"{where}/class_type", "missing", "A node has a class_type, a text.")
    if not isinstance(node.get("inputs"), dict):
        yield Fault(f"{where}/inputs", "missing", "A node has inputs, an object; an empty one where it takes none.")
        return
    for name, value in node["inputs"].items():
        if (fault := _input_fault(graph, value)) is not None:
            yield replace(fault, pointer=f"{where}/inputs/{_escape(name)}")
    # Whatever else the node has is sent and kept as well, such as the title in its _meta.
    for name in node.keys() - {"class_type", "inputs"}:
        if wrong := _unsendable(node[name]):
            yield Fault(f"{where}/{_escape(name)}", *wrong)


def _input_fault(graph: Graph, value: Any) -> Fault | None:
    """Return what is wrong with an input's value; where it stands is for the caller to say."""
    if is_link(value):
        if value[0] in graph:
            return None
        detail = f"The link leads to node {value[0]!r}, which the workflow has not."
        return Fault("", "bad_link", detail, suggestion=nearest(value[0][:200], graph))
    # ComfyUI takes every list of two for a link, and a wrong one for an error of its own.
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        return Fault("", "bad_link", "A link is [node id, output index], the index an integer.")
    wrong = _unsendable(value)
    return Fault("", *wrong) if wrong else None


def _unsendable(value: Any, depth: int = 0) -> tuple[str, str] | None:
    """Return (code, detail) of what JSON, a JSONB column or a later copy of the value cannot bear."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not_finite", "NaN and infinite numbers cannot be sent."
    if isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            return "too_deep", f"A value nests deeper than {MAX_DEPTH} levels."
        inside = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_unsendable(each, depth + 1) for each in inside)), None)
    return None


def _find_cycle(graph: Graph) -> list[str]:
    """Return the nodes of a cycle, the first one again at the end; an empty list when there is none."""
    done: set[str] = set()
    for root in graph:
        path: dict[str, None] = {}
        stack = [(root, iter([to for _, to, _ in links(graph[root]["inputs"])]))]
        path[root] = None
        while stack:
            key, following = stack[-1]
            target = next(following, None)
            if target is None:
                stack.pop()
                path.pop(key, None)
                done.add(key)
            elif target in path:
                trail = list(path)
                return [*trail[trail.index(target) :], target]
            elif target not in done:
                path[target] = None
                stack.append((target, iter([to for _, to, _ in links(graph[target]["inputs"])])))
    return []


def _needed(graph: Graph, ends: Sequence[str]) -> set[str]:
    needed, todo = set(ends), list(ends)
    while todo:
        for _, target, _ in links(graph[todo.pop()]["inputs"]):
            if target not in needed:
                needed.add(target)
                todo.append(target)
    return needed


def _check_inputs(graph: Graph, catalog: Catalog, key: str, pointer: str) -> Iterator[Fault]:
    node_class = catalog.nodes[graph[key]["class_type"]]
    for name, spec in node_class.inputs.items():
        for fault in _check_input(graph, catalog, node_class, spec, graph[key]["inputs"], name):
            yield replace(fault, pointer=f"{pointer}/{_escape(key)}/inputs/{_escape(name)}")


def _check_input(
    graph: Graph,
    catalog: Catalog,
    node_class: NodeClass,
    spec: InputSpec,
    inputs: Mapping[str, Any],
    name: str,
) -> Iterator[Fault]:
    """Yield what is wrong with an input; where it stands is for the caller to say."""
    if name not in inputs:
        if spec.required:
            yield Fault("", "required_input_missing", f"{node_class.name} needs the input {name!r}.")
        return
    value = inputs[name]
    if is_link(value):
        outputs = catalog.nodes[graph[value[0]]["class_type"]].outputs
        if outputs is None:
            return
        if not -len(outputs) <= value[1] < len(outputs):
            detail = f"Node {value[0]!r} has {len(outputs)} outputs; there is none with index {value[1]}."
            yield Fault("", "bad_link", detail)
        elif not spec.accepts_type(outputs[value[1]]):
            detail = f"{name!r} takes {spec.type}, and the link brings {outputs[value[1]]}."
            yield Fault("", "return_type_mismatch", detail)
        return
    if spec.choices is not None:
        # Compared as text: a choice written as a number, or the other way round, is the same choice to a person.
        if not isinstance(value, list | dict) and str(value) not in {str(choice) for choice in spec.choices}:
            shown = tuple(str(choice) for choice in spec.choices[:_SHOWN])
            detail = f"{str(value)[:200]!r} is not among the {len(spec.choices)} values that {name!r} takes."
            yield Fault("", "value_not_in_list", detail, shown, nearest(str(value)[:200], spec.choices))
        return
    if spec.type in ("INT", "FLOAT"):
        yield from _check_number(spec, value, name)


def _check_number(spec: InputSpec, value: Any, name: str) -> Iterator[Fault]:
    try:
        number = int(value) if spec.type == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        yield Fault("", "invalid_input_type", f"{name!r} takes a number ({spec.type}).")
        return
    if spec.minimum is not None and number < spec.minimum:
        yield Fault("", "value_smaller_than_min", f"{name!r} is {number}; the least is {spec.minimum}.")
    elif spec.maximum is not None and number > spec.maximum:
        yield Fault("", "value_bigger_than_max", f"{name!r} is {number}; the greatest is {spec.maximum}.")
