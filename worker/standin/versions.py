"""Since which version of ComfyUI a behaviour exists, as the project's measurements of the protocol list them."""

from typing import Final

Version = tuple[int, ...]

OWN_PROMPT_ID: Final[Version] = (0, 3, 45)
"""Before it a prompt_id in the body is ignored and the server makes its own."""

PROGRESS_STATE: Final[Version] = (0, 3, 45)
PARTIAL_TARGETS: Final[Version] = (0, 3, 48)

TARGETED_INTERRUPT: Final[Version] = (0, 3, 57)
"""Before it every interrupt stops whatever is running."""

HISTORY_OFFSET: Final[Version] = (0, 3, 60)

STRICT: Final[Version] = (0, 4)
"""Canonical ids only, the routes below /api/jobs, no secrets in the queue."""

LINKS_NOTED: Final[Version] = (0, 33)
"""The readers of each output are recorded, which can end the execution thread. The log is coloured. More values that
are not JSON objects are refused with 500."""

GROWING_INPUTS: Final[Version] = (0, 33)
"""Inputs that grow and choose; choices in the newer form are checked, a cycle and a missing node type are named, node
types that are gone are replaced; a node that is no output can show something. Some of it came between 0.4 and 0.33."""

NO_DUPLICATES: Final[Version] = (0, 34)
"""409 for an id that is known; 0.33 still takes it."""


def parse_version(text: str) -> Version:
    """Return `text` as comparable numbers.

    Raises
    ------
    ValueError
        If a part of it is no number.
    """
    return tuple(int(part) for part in text.split("."))
