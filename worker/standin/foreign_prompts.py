"""Prompts from another client of the same server, in the same queue."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

from worker.standin.faults import Fault, ForeignPrompt
from worker.standin.prompt_queue import QueueItem

_STEPS: Final = 20


def foreign_item(fault: Fault, number: float) -> QueueItem:
    """Return a prompt as a queue item. Its picture differs each time, so that no cached result is used."""
    extra = {} if fault.client_id is None else {"client_id": fault.client_id}
    picture = {"width": 16, "height": 16, "batch_size": 1, "color": uuid.uuid4().int % 0x1000000}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        "3": _middle(fault),
    }
    return number, str(uuid.uuid4()), graph, extra, ["2"]


def _middle(fault: Fault) -> Mapping[str, Any]:
    """Return the node between picture and preview, which does what was asked for."""
    match fault.foreign:
        case ForeignPrompt.SILENT:
            return {"class_type": "SilentNode", "inputs": {"image": ["1", 0], "seconds": fault.seconds}}
        case ForeignPrompt.SLOW:
            steps = {"steps": _STEPS, "seconds_per_step": fault.seconds / _STEPS}
            return {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], **steps}}
        case ForeignPrompt.DEADLY:
            inputs = {"image": ["1", 0], "kind": "system_exit", "message": "somebody else's"}
            return {"class_type": "RaiseError", "inputs": inputs}
