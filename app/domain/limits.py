"""Limits of a key: how they are written, checked, and put over the defaults of its role (manual, production.md)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import Fault, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NONE: Final = "none"
"""How a limit that there is not is written in a text."""
BURST_FACTOR: Final = 2
"""A burst that is not said is as many seconds of requests."""
_MOST: Final = 2**53 - 1
"""The greatest integer that JSON carries safely everywhere."""
_SIZE: Final = re.compile(r"(\d{1,16}(?:\.\d{1,6})?) ?(B|[KMGT]iB)?", re.ASCII)
_UNITS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use. None is no limit."""

    requests_per_second: float | None = None
    """Of one key, in the long run."""
    burst: int | None = None
    """Requests of one key at once, after a while without any; None: twice `requests_per_second`."""
    sockets: int | None = None
    """Open WebSockets of one key, of each server process."""
    waiting: int | None = None
    """Jobs of the key's owner that wait."""
    running: int | None = None
    """Jobs of the key's owner that run."""
    jobs_per_day: int | None = None
    """Jobs of the key's owner that were accepted in the last 24 hours."""
    upload_bytes: int | None = None
    """Size of all uploads of the key's owner that there are, in bytes."""
    priority: int | None = None
    """The highest priority that jobs of the key's owner are sent with, or given."""

    @property
    def burst_size(self) -> int:
        """How many requests are let in at once; it means something only with `requests_per_second`."""
        return self.burst or max(1, math.ceil((self.requests_per_second or 0) * BURST_FACTOR))

    @property
    def of_jobs(self) -> bool:
        """Whether how many jobs are accepted is limited."""
        return self.waiting is not None or self.jobs_per_day is not None

    def over(self, own: Mapping[str, Any]) -> Limits:
        """Return these with those of a key, as `parse_limits` returns them, in place of those that it names."""
        return Limits(**{name: own.get(name, getattr(self, name)) for name in NAMES}) if own else self

    def told(self) -> dict[str, float | int | None]:
        """Return them by name."""
        return {name: getattr(self, name) for name in NAMES}


def most_generous(each: Sequence[Limits]) -> Limits:
    """Return what the most generous of several keys lets their owner have; of none, everything."""
    named = {name: [getattr(limits, name) for limits in each] for name in NAMES}
    return Limits(**{name: None if None in values else max(values, default=None) for name, values in named.items()})


def check_priority(limits: Limits, priority: int) -> None:
    """Raise `InvalidRequest` for a priority that is higher than the limits let."""
    if limits.priority is not None and priority > limits.priority:
        detail = f"Jobs of this key's owner have at most the priority {limits.priority}, and not {priority}."
        raise InvalidRequest(detail, [Fault("/priority", "above_limit", detail)])


NAMES: Final = tuple(each.name for each in fields(Limits))
"""The limits that there are."""
UNLIMITED: Final = Limits()
MOST_PRIORITY: Final = 100
"""A job's priority is as far from 0 at most, to either side."""
_LEAST: Final = {"burst": 1, "running": 1}
"""Of the integers that are not at least 0: a job of an owner who may run none would wait for ever."""


def parse_limits(given: Mapping[str, Any] | str, pointer: str = "") -> dict[str, float | int | None]:
    """Return limits by name, each a number or None, which is no limit; what is not named has its default.

    `given` is a mapping, as JSON gives it, or a text: `running=2 upload_bytes=10GiB jobs_per_day=none`. `pointer`
    stands before the names of faults.

    Raises
    ------
    InvalidRequest
        Each fault is named.
    """
    faults: list[Fault] = []
    named = _split(given, faults) if isinstance(given, str) else dict(given)
    found: dict[str, float | int | None] = {}
    for name, value in named.items():
        where = f"{pointer}/{name[:40]}"
        if name not in NAMES:
            detail = f"There is no limit {name[:40]!r}; there are {', '.join(NAMES)}."
            faults.append(Fault(where, "unknown_limit", detail, NAMES))
        elif value is None or (isinstance(value, str) and value.strip().lower() == NONE):
            found[name] = None
        else:
            try:
                found[name] = _number(name, value)
            except ValueError as error:
                faults.append(Fault(where, "wrong_limit", f"{name} {error}."))
    if faults:
        raise InvalidRequest(" ".join(fault.detail for fault in faults), faults)
    return found


def limits_of(text: str) -> Limits:
    """Return the limits that a setting's text names: those that it does not name there are not.

    Raises
    ------
    ValueError
    """
    try:
        return UNLIMITED.over(parse_limits(text))
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


def _split(text: str, faults: list[Fault]) -> dict[str, str]:
    named: dict[str, str] = {}
    for part in text.replace(",", " ").split():
        name, sign, value = part.partition("=")
        if not sign or name in named:
            detail = f"{part[:60]!r} is said twice." if sign else f"{part[:60]!r} is no limit: running=2, for example."
            faults.append(Fault("", "wrong_limit", detail))
        else:
            named[name] = value
    return named


def _number(name: str, value: Any) -> float | int:
    """Return a limit as a number; raises `ValueError`, whose message goes on after the limit's name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"is a number, or {NONE}")  # noqa: TRY004 - what is sent is at fault, not our call
    if name == "requests_per_second":
        try:
            rate = float(value)
        except (ValueError, OverflowError):
            rate = math.nan
        if not 0.01 <= rate <= 1e6:
            raise ValueError("is a number of requests a second from 0.01 to 1000000")
        return int(rate) if rate.is_integer() else rate
    if name == "priority":
        found = _integer(value, signed=True)
        if found is None or abs(found) > MOST_PRIORITY:
            raise ValueError(f"is an integer from {-MOST_PRIORITY} to {MOST_PRIORITY}, or {NONE}")
        return found
    number = _size(value) if name == "upload_bytes" else _integer(value)
    least = _LEAST.get(name, 0)
    if number is None or not least <= number <= _MOST:
        kind = "a number of bytes, such as 500MiB or 10GiB" if name == "upload_bytes" else f"an integer from {least} on"
        raise ValueError(f"is {kind}, or {NONE}")
    return number


def _integer(value: str | float, *, signed: bool = False) -> int | None:
    if isinstance(value, str):
        digits = value.removeprefix("-") if signed else value
        return int(value) if re.fullmatch(r"\d{1,16}", digits, re.ASCII) else None
    return int(value) if math.isfinite(value) and float(value).is_integer() else None


def _size(value: str | float) -> int | None:
    """Return a size in bytes; None of what is none."""
    if not isinstance(value, str):
        return _integer(value)
    found = _SIZE.fullmatch(value.strip())
    return int(float(found[1]) * _UNITS[found[2]]) if found and found[2] else _integer(value.strip())
