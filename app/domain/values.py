"""How ComfyUI reads the value of an input: what it unwraps, and what it takes for a link.

The one home of both rules. Code that reads an input's value must use them, or it sees another graph than ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRAPPER: Final = "__value__"
"""A declared input's `{"__value__": X}` means X: so a list is told from a link. Other keys beside it do not matter."""
CONVERTED: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN"})
"""Inputs of these types are converted after that, so that what was wrapped can be no link any more."""


class Link(NamedTuple):
    """A link to another node's output: ComfyUI takes it for one, whether or not there are such a node and output."""

    node_id: str
    slot: int | float


def unwrap(value: Any) -> Any:
    """Return what ComfyUI takes for the value of a declared input. Once only: what was wrapped twice stays wrapped."""
    return value[WRAPPER] if isinstance(value, dict) and WRAPPER in value else value


def wrapped_like(given: Any, value: Any) -> Any:
    """Return the value in the wrapper of the one that it replaces, if that has any."""
    return given | {WRAPPER: value} if isinstance(given, dict) and WRAPPER in given else value


def link_of(value: Any) -> Link | None:
    """Return the link that ComfyUI sees in a value, whatever it leads to; a slot may be true or 0.5 there."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float):
        return Link(value[0], value[1])
    return None


def links(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str, int | float]]:
    """Yield (input, node id, output index) of each input that is a link, not wrapped."""
    for name, value in inputs.items():
        if (link := link_of(value)) is not None:
            yield name, link.node_id, link.slot
