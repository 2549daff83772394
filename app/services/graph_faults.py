"""What is wrong with the graph of a job, said of the request that it was made of."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from app.domain.errors import Fault, InvalidGraph
from app.domain.graph_check import Checked
from app.domain.hints import pointer_to, token
from app.domain.job_facts import facts_of
from app.domain.replacements import check_as_executed
from app.domain.stale_lists import classes_in_doubt
from app.domain.structure import check_structure
from app.domain.upload_checks import wrong_kinds
from app.domain.uploads import uploads_in
from app.domain.workflow import graph_of, place_of, with_overrides
from app.runtime.json_text import kept_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.catalog import Catalog
    from app.domain.job import NewJob
    from app.domain.job_facts import JobFacts
    from app.domain.uploads import Upload
    from app.domain.workflow import Graph

CHECKPOINTS: Final = "CheckpointLoaderSimple"
"""The node class whose choices are the checkpoints."""

_FIELD: Final = {
    r"^/workflow/checkpoint/inputs/ckpt_name$": "/checkpoint_model",
    r"^/workflow/lora_(\d+)/inputs/lora_name$": "/lora_models/{}/name",
    r"^/workflow/lora_(\d+)/inputs/(strength_\w+)$": "/lora_models/{}/{}",
    r"^/workflow/sampler/inputs/(\w+)$": "/sampler_params/{}",
    r"^/workflow/(?:latent|scaled)/inputs/(\w+)$": "/{}",
    r"^/workflow/image/inputs/image$": "/image",
    r"^/workflow/mask_image/inputs/image$": "/mask",
    r"^/workflow/upscale_model/inputs/model_name$": "/upscale_model",
}
"""Where a fault of the graph that we built stands in the request that it was built from."""


class HeldAgainst(NamedTuple):
    """How a backend would take a job."""

    checked: Checked
    """What is wrong with it there."""
    doubts: frozenset[str]
    """Node classes to be read again before that is believed."""
    facts: JobFacts | None = None
    """None of a job that it would not run."""


def checked_workflow(workflow: Any, overrides: Mapping[str, Any], inputs: Mapping[str, Any], max_bytes: int) -> Graph:
    """Return the client's graph with its overrides, or raise `InvalidGraph` with every fault of its structure.

    `inputs` are looked at only for whether there are such nodes.
    """
    changed: Graph = workflow
    faults = _size_faults(workflow, max_bytes) or check_structure(workflow)
    if overrides and not faults:
        changed, faults = with_overrides(workflow, overrides)
        faults = faults or _size_faults(changed, max_bytes) or check_structure(changed)
    if inputs and not faults:
        faults = with_overrides(changed, dict.fromkeys(inputs, ""), "/inputs")[1]
    if faults:
        raise InvalidGraph("The workflow cannot be run.", faults)
    return changed


def has_uploads(workflow: Graph) -> bool:
    """Whether a graph of sound structure names an upload."""
    return next(uploads_in(workflow), None) is not None


def held_against(job: NewJob, catalog: Catalog, uploads: Mapping[str, Upload]) -> HeldAgainst:
    """Return how such a backend would take the job."""
    graph = graph_of(job, catalog)
    if graph is None:
        fault = Fault("/checkpoint_model", "no_checkpoint", "The backends offer no checkpoint at all.")
        return HeldAgainst(Checked([fault]), frozenset({CHECKPOINTS}))
    found = check_as_executed(graph, catalog)
    if uploads:
        found = replace(found, faults=[*found.faults, *wrong_kinds(graph, catalog, uploads)])
    facts = facts_of(graph, catalog) if not found.faults else None
    return HeldAgainst(found, classes_in_doubt(graph, catalog, found.faults), facts)


def as_asked(job: NewJob, faults: Sequence[Fault]) -> list[Fault]:
    """Return faults of the graph with pointers into the request that it was built from."""
    places = _places(job)
    return [replace(fault, pointer=places.get(fault.pointer) or _field(job, fault.pointer)) for fault in faults]


def _places(job: NewJob) -> dict[str, str]:
    """Return pointer into the workflow → pointer to the reference that stands there."""
    found = {}
    for key in job.inputs:
        if (place := place_of(job.workflow or {}, key)) is not None:
            found[pointer_to("/workflow", place[0], "inputs", place[1])] = f"/inputs/{token(key)}"
    return found


def _field(job: NewJob, pointer: str) -> str:
    """Return where a fault of the graph that we built for a job stands in the request that it was built from."""
    if job.workflow is not None:
        return pointer
    for pattern, place in _FIELD.items():
        if match := re.match(pattern, pointer):
            parts = list(match.groups())
            if "lora" in pattern:
                parts[0] = str(int(parts[0]) - 1)
            return place.format(*parts)
    return pointer


def _size_faults(workflow: Any, max_bytes: int) -> list[Fault]:
    size = kept_bytes(workflow)
    if size <= max_bytes:
        return []
    detail = f"The workflow takes {size} bytes as JSON; at most {max_bytes} are taken (MAX_WORKFLOW_BYTES)."
    return [Fault("/workflow", "too_large", detail)]
