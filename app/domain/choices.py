"""Whether a value is among the choices of an input, as Python's `in` has it, and quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Choices:
    """Allowed values: 1 is 1.0 and true, "1" is not; a list or an object may be one of them."""

    __slots__ = ("_plain", "_structured")

    def __init__(self, values: Sequence[Any]) -> None:
        self._plain = frozenset(each for each in values if not isinstance(each, list | dict))
        self._structured = [each for each in values if isinstance(each, list | dict)]

    def __contains__(self, value: Any) -> bool:
        return value in (self._structured if isinstance(value, list | dict) else self._plain)
